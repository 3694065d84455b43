"""What a safetensors file is, told from its header alone: no weights are read.

- `file_header`: names, shapes and dtypes of the tensors, metadata; how values of a file are shown
- `project_files`: this project's checkpoints, autoencoders, identities and LoRA stores
- `lora_kinds`: LoRAs of any program, and methods beside LoRA
- `model_kinds`: adapters that keep a face, embeddings, base models and their parts
- `describe_file`: all of it in some lines
"""
