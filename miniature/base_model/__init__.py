"""A base model of SDXL's shape, small enough for a CPU, and what is trained on top of it.

- `config`: sizes of all networks, and the LoRA layout that follows from them.
- `vae`: the autoencoder, TAESD with fewer active channels.
- `model`: U-Net and text encoders, tokenizer, noise schedule.
- `train_vae`, `train`: the stages that train them.
- `single_file`, `single_file_names`: SDXL's single-file checkpoint layout.
- `checkpoint`: the trained base model as one such file.
- `diffusers_folder`: the same as a folder that diffusers reads.
- `sampling`: images of people by their LoRAs, without ComfyUI.
- `control_lora`, `train_control_lora`: a ControlNet for edges.
- `outfit_lora`: a second LoRA, for a hat.
"""
