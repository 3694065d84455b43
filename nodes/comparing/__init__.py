"""Nodes that compare.

- `similarity_and_pick_best`: Face Similarity, Pick Best Candidate
- `apply_strengths`: Apply LoRA at Several Strengths
- `image_grid`: Image Grid with Labels
"""
