"""ComfyUI from outside: find it, start it, drive it (`training.comfyui_client`), and write workflows for it.

- `host`: finds ComfyUI, gives it a base directory, starts and stops it.
- `companion`: a custom-node folder with which ComfyUI reads the tiny SDXL; ComfyUI loads it, nothing here does.
- `api_prompt`: a workflow file as a prompt that the server runs.
- `browser`: ComfyUI's page in a real browser.
- `workflow_graph`: writes workflow files; `workflow_subgraph`: with subgraphs; `workflow_layout`: sizes and places.
- `workflow_builder`: the groups of nodes that all example workflows share.
- `personalize_subgraph`: subgraphs from images to a LoRA.
- `workflows`: the example workflows.
"""
