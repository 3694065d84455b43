"""What trainers know of people.

conditions             embeddings as conditions, drawn references, modality dropout
embeddings             the cache of embeddings
latents                latents of the stores' LoRAs
dataset_splits         who is kept from training
dataset_images         the dataset's images and base model
embed                  the command that fills the cache
assembly               one model out of the trained networks
config                 sections that several trainers' settings have
network_settings       shapes of LoRAs and networks in settings
diffusion_loss_check   validation by the base model's diffusion loss
"""
