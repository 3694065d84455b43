"""The loaders: networks and LoRAs, from ComfyUI's model folders, and reference images.

- `load_difflora`: Load DiffLoRA, a checkpoint; `difflora_folder`: the checkpoints that are there
- `load_face_analysis`: Load Face Analysis, InsightFace's detector and recognizer
- `load_clip_vision`: Load CLIP Vision of any size
- `load_lora_file`: Load LoRA File, of any program
- `load_reference_folder`: Load Reference Images from Folder, of the input directory
"""
