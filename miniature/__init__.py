"""A whole SDXL-shaped world that fits a CPU: drawn people, a base model, encoders, and the weights shipped with them.

Each of these uses only those before it, the core library and the training package:

- `paths`: the repository, shipped weights, scratch folder.
- `world`: drawn people, scenes, their captions and images.
- `base_model`: a tiny SDXL, its autoencoder, a Control-LoRA and a second LoRA.
- `encoders`: face detector and recognizers, CLIP vision, PhotoMaker.
- `measure`: face similarity, prompt fidelity, and LoRAs judged by both.
- `personal`: teacher LoRAs, embeddings, and the training of LAE, MIF and DiT.
- `comfyui`: find, start and drive ComfyUI; write the example workflows.
- `demo`: what people look at.
- `build`: trains everything, stage by stage.
- `__main__`: the command line.
"""
