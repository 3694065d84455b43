"""Methods that are a LoRA in the end.

given_loras        LoRA files, one for each person, of any program
made_loras         what methods share that make a LoRA of a person
predicted_lora     DiffLoRA: references → LoRA
trained_lora       LoRA-DreamBooth on the references
autoencoded_lora   LoRA files through a checkpoint's autoencoder
"""
