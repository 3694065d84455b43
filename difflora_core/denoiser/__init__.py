"""The denoiser: MIF and a diffusion transformer that make a LoRA latent from a person's embeddings.

- `config`: shapes of MIF and DiT, settings of sampling
- `mif`: face and image embeddings to a condition
- `padded_linear`: a linear layer for widths that a GPU multiplies slowly
- `dit`: the diffusion transformer
- `model`: MIF and DiT as one module for training
- `noise_schedule`: what training adds and sampling takes away
- `sampling`: condition and noise to a latent
- `latent_arithmetic`: blending people
- `latent_file`: a person's latents in a small file
- `row_checks`: shapes and values of rows
"""
