"""DreamBooth LoRAs of many people at once, the teachers of DiffLoRA.

config: how teachers are trained
train: the training of many people's LoRAs over one frozen base model
refine: a predicted LoRA, trained further
"""
