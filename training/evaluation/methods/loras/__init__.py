"""Methods that are a LoRA in the end.

given_loras        LoRA files, one for each person, of any program
made_loras         what methods share that make a LoRA of a person
predicted_lora     DiffLoRA: references → LoRA
encoder_files      which face models and image encoder it is used with
refined_lora       DiffLoRA, trained further on the references
trained_lora       LoRA-DreamBooth on the references
autoencoded_lora   LoRA files through a checkpoint's autoencoder
store_fingerprint  what is made from stores of LoRAs depends on them
mean_lora          the mean of training people's LoRAs
ridge_regression   a linear map in closed form
ridge_lora         face embedding → latent by ridge regression
on_positive_side   any of them, on the positive prompt's side alone
"""
