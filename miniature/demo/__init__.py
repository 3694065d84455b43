"""What people look at: the demo, thumbnails, stills, help images, the miniature in the browser.

- `run`: the demo: held-out people through a real ComfyUI, measured and shown.
- `contact_sheet`: layout of its images.
- `thumbnails`: images of the example workflows.
- `help_images`: images of all nodes.
- `stills`: docs/workflows.md, the example workflows in the page.
- `node_reference`: docs/nodes.md.
- `serve`: ComfyUI with the miniature, in the browser.
"""
