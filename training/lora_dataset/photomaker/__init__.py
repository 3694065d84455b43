"""PhotoMaker v1: its identity encoder, and images of one person from prompts."""
