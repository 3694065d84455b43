"""The loaders: the networks, from ComfyUI's model folders, and reference images.

- `load_difflora`: Load DiffLoRA, a checkpoint; `difflora_folder`: the checkpoints that are there
- `load_face_analysis`: Load Face Analysis, InsightFace's detector and recognizer
- `load_clip_vision`: Load CLIP Vision of any size
- `load_reference_folder`: Load Reference Images from Folder, of the input directory
"""
