"""The LoRA weight autoencoder (LAE): a flat LoRA to a latent a few hundred times smaller, and back.

- `config`: the shape
- `model`: the autoencoder with its statistics
- `staged`: what the networks `conv` and `token` share
- `conv`: the paper's 1-D convolutions
- `token`: our transformer over modules or blocks
- `baselines`: PCA and plain convolutions, for comparison
- `principal_components`: PCA of LoRAs that need not fit into memory
- `losses`: what training minimizes
- `inverse`: the latent of a LoRA that the decoder made
- `lae_file`: an autoencoder alone in a file
"""
