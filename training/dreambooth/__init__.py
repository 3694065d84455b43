"""DreamBooth LoRAs of many people at once."""
