"""Nodes that compare: LoRAs by the likeness of their images, one LoRA at several strengths, images side by side."""
