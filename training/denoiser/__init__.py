"""Train MIF and DiT in latent space.

config       references, dropout, loss terms
objective    the loss
evaluation   metrics on validation people
train        the training
settings     one YAML file
embed        `embed`: embeddings of the dataset's images
data         latents and embeddings of a run
dry_run      what a step costs
command      `train-difflora`
"""
