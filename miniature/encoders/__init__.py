"""Encoders of the drawn world: faces, CLIP vision, PhotoMaker."""
