"""Train the LoRA autoencoder in weight space.

config                   loss weights, augmentation
weight_space_objective   the loss
reconstruction_metrics   metrics on validation people
train                    the training
settings                 one YAML file
lae_dry_run              what a step costs
command                  `train-lae`
"""
