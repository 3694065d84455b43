"""From reference embeddings to a LoRA latent: MIF, the diffusion transformer, sampling."""
