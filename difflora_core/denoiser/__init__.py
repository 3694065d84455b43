"""The denoiser: MIF and a diffusion transformer that make a LoRA latent from a person's embeddings.

- `config`: shapes of MIF and DiT, settings of sampling
- `mif`: face and image embeddings to a condition
- `dit`: the diffusion transformer
- `model`: MIF and DiT as one module for training
- `noise_schedule`: what training adds and sampling takes away
- `sampling`: condition and noise to a latent
- `latent_arithmetic`: blending people
"""
