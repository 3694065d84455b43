"""ComfyUI from outside: find it, start it, talk to it, and write workflows for it."""
