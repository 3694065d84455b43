"""The LoRA store and its readers."""
