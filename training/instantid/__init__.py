"""InstantID (Wang et al., arXiv 2401.07519) on diffusers' SDXL: a face embedding and a face's keypoints.

keypoint_image: the picture of five keypoints that IdentityNet sees
identity_net: the ControlNet that is conditioned on the face in place of the text
instantid_files: the official files, as safetensors, and what they have to hold
instantid_pipeline: images of a person from prompts
"""
