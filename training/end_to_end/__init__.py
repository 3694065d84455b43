"""Fine-tune the LAE, then MIF and DiT, with the frozen base model's diffusion loss."""
