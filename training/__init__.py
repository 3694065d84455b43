"""What only a trainer needs, in the order of the road. `python -m training --help` lists the commands.

lora_dataset/                       from a folder of faces to a store of LoRAs
denoising, dreambooth               LoRAs of many people at once: the loss, and one batch over one frozen U-Net
lora_store, lora_rows               the store; random rows of it
training_loop, train_state, rounds  the loop that all networks share, on Accelerate; the best of several validations
processes, sharding                 several processes of one command; what they share of a network
settings, dry_run                   YAML files; what a run will cost
lae_data, lae_training, train_lae   the LoRA autoencoder on numbers
embed, embeddings, conditions       the frozen encoders' view of people's pictures
denoiser, difflora_*, train_difflora   MIF and DiT on numbers
diffusion_loss, picture_stage, dataset_pictures, tune   both through the base model's pictures
teacher_recovery, picture_check, sampling_choice   validation by pictures; the recommended sampling
personalize                         pictures to a LoRA file
toy_*, charts                       the paper's toy experiment; line charts
"""
