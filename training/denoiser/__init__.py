"""Train MIF and DiT in latent space.

config                   references, dropout, loss terms
latent_space_objective   the loss
prediction_metrics       metrics on validation people
train                    the training
settings                 one YAML file
data                     latents and embeddings of a run
difflora_dry_run         what a step costs
command                  `train-difflora`
"""
