"""A base model of SDXL's shape, small enough for a CPU, and what is trained on top of it."""
