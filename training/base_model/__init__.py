"""The frozen base model and the diffusion losses that go through it."""
