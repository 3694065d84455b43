"""The networks of DiffLoRA and their mathematics: no ComfyUI, no training."""
