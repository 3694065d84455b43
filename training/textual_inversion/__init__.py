"""Textual Inversion (Gal et al., arXiv 2208.01618) for SDXL: a person as a token of both text encoders.

config: how vectors are trained
train: the training
"""
