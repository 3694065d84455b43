"""What only a trainer needs. `python -m training --help` lists the commands.

In the order of the pipeline, each package using only those above it:

comfyui_client     ComfyUI's HTTP interface
engine             the loop on Accelerate, evaluated runs, state, sharding, settings, costs, charts
store              the LoRA store and its readers
base_model         the frozen base model, and the diffusion losses that go through it
dreambooth         LoRAs of many people at once
textual_inversion  a person as a token of the text encoders
instantid          InstantID's files and pipeline
lora_dataset       from a folder of faces to a store of LoRAs
pilot              the settings of teachers, found on a few people before all are trained
trainer_command    a command that trains as a YAML file says
people             what trainers know of people: embeddings, latents, images
autoencoder        the LoRA autoencoder in weight space
denoiser           MIF and DiT in latent space
end_to_end         both fine-tuned with the base model's diffusion loss
toy_experiment     the paper's toy experiment
evaluation         any methods compared by the same images, metrics and statistics
recipes            settings that chain, from a folder of faces to a checkpoint, and the command that runs them
"""
