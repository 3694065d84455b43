"""The paper's toy experiment: are LoRA weights easier to compress than full weight changes?

tasks: families of tasks, and MLPs adapted to them
compression: weights through a small latent
report: the cases that are compared, the panels of the figure, the tables
experiment: the whole experiment and its command
"""
