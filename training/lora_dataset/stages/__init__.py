"""The stages of the LoRA dataset pipeline, one module each."""
