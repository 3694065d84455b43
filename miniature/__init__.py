"""A whole SDXL-shaped world that fits a CPU: drawn people, a base model, encoders and the weights shipped with them."""
