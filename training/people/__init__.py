"""What trainers know of people.

conditions             embeddings as conditions, drawn references, modality dropout
embeddings             the cache of embeddings
latents                latents of the stores' LoRAs
dataset_images         the dataset's images and base model
config                 settings of the validation by the diffusion loss
diffusion_loss_check   validation by the base model's diffusion loss
"""
