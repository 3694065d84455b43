"""What trainers know of people: embeddings, latents, images."""
