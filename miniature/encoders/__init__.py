"""Encoders of the drawn world.

- `faces`: a face detector and two recognizers that InsightFace loads.
- `batch_norm`: what averaged weights need before they are used.
- `clip_vision`, `train_clip_vision`: the image encoder, and its stage.
- `training_latents`: latents that both of the following are trained on.
- `photomaker`: the identity encoder of the LoRA dataset pipeline, and its stage.
- `instantid_resampler`, `instantid`: InstantID, which DiffLoRA is compared with, and its stage.
"""
