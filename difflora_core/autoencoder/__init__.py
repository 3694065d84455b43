"""The LoRA autoencoder (LAE): a flat LoRA to a latent a few hundred times smaller, and back."""
