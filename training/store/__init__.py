"""The store of LoRAs and its readers.

shard_file: headers of safetensors files, and what can be read without the LoRAs
shard: who is in a shard, and where each LoRA comes from
lora_store: the store: shards of stacked LoRAs, one layout, every person once
row_reader: chosen LoRAs of a store, without the others
loras: the LoRAs that a network is trained on, from several stores, in memory or on disk
"""
