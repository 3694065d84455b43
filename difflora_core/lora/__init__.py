"""LoRAs: which layers they change, their files, and other factors of the same weight change.

- `base_model`: module names of a base model, SDXL's among them
- `layout`: target modules and rank; a LoRA as one flat vector and back
- `tokens`: modules or transformer blocks as tokens of an autoencoder or a denoiser
- `file_formats`: kohya and PEFT files to a flat vector and back
- `lora`: a LoRA that this project made, with its layout and origin
- `canonical_form`: other factors of the same ΔW, another rank
- `delta_weights`: inner products and losses of ΔW
"""
