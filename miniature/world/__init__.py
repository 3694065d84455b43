"""The drawn world: people, scenes, and the images made of them."""
