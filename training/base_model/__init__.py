"""The frozen base model and the diffusion losses that go through it.

interface: what training needs of a base model, whichever it is
sdxl_folder: SDXL as a diffusers folder: checks, layout and fingerprint without loading weights
sdxl_text: its text conditioning, and tokens that are added to its encoders
positive_side: a LoRA on the positive prompt's side of its pipeline alone
sdxl: SDXL behind the interface
batched_loras: LoRAs of many people over one U-Net, in one batch
checkpointed_unet: gradient checkpointing of the frozen U-Net
person_images: a person's training images and the order in which steps take them
diffusion_loss: the loss of many people at once, with the LoRAs that are mounted
lora_diffusion_loss: the same for given LoRAs, which it mounts
held_out_loss: both on images that were kept from training, with noise that never changes
loss_reduction: what share of the base model's loss LoRAs take away
teacher_recovery: how much of the teachers' improvement on held-out images other LoRAs reach
"""
