"""Teachers, embeddings, LAE, MIF and DiT of the miniature."""
