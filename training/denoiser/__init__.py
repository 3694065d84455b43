"""Train MIF and DiT in latent space."""
