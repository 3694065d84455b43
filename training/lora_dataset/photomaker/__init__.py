"""PhotoMaker v1 on diffusers' SDXL.

identity_encoder: the network that turns reference images into embeddings
photomaker_file: reader and writer of the official file, and its LoRA
class_word: the class word's tokens, which the identity takes the place of
pipeline: images of one person from prompts
"""
