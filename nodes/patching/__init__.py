"""A LoRA on ComfyUI's MODEL.

- `lora_patches`: as patches of the weights, complete or not at all
- `positive_side`: as branches beside the layers, which act on the positive prompt alone
"""
