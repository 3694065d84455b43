"""LoRAs: which layers they change, their files, and other factors of the same weight change."""
