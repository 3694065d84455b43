"""Train the LoRA autoencoder in weight space."""
