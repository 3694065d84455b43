"""A LoRA on ComfyUI's MODEL.

- `lora_patches`: as patches of the weights, complete or not at all
- `branches`: as branches beside the layers, whose weights stay as they are
- `positive_side`: as such branches, on the positive prompt alone
"""
