"""LoRAs: which layers they change, their files, and other factors of the same weight change.

- `base_model`: module names of a base model, SDXL's among them
- `layout`: target modules and rank; a LoRA as one flat vector and back
- `tokens`: modules or transformer blocks as tokens of an autoencoder or a denoiser
- `tensor_names`: names of tensors in LoRA files, taken apart
- `peft_config`: PEFT's configuration of a LoRA, for its scale
- `layer_tensors`: one layer's tensors of a file, and its scale
- `file_contents`: every tensor of a file, sorted: used, other layers, text encoders, unknown
- `file_formats`: LoRA files to a flat vector and back
- `kohya_names`: a LoRA file's tensors under names that ComfyUI reads
- `lora`: a LoRA that this project made, with its layout and origin
- `canonical_form`: other factors of the same ΔW, another rank
- `delta_weights`: inner products and losses of ΔW
- `low_rank_branch`: a LoRA beside its layer, without ΔW
"""
