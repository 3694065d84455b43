"""Train the LoRA autoencoder in weight space.

config       loss weights, augmentation
objective    the loss
evaluation   metrics on validation people
train        the training
settings     one YAML file
dry_run      what a step costs
command      `train-lae`
"""
