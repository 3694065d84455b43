"""The stages, one module each, in their order.

collect: images of any kind become people
generate: PhotoMaker generates varied images of each person
filter: unsuitable images are dropped
preprocess: images become latents, captions text embeddings
train_loras: stage dreambooth, a LoRA per person
pack_plan: which LoRAs are ready, and into which shards they go
pack: LoRAs become shards of the store
verify: some LoRAs are tested in the base model
import_loras: LoRA files of other origin; packed like the teachers
lora_files: reads a LoRA file of any naming and rank as a LoRA of one layout
same_person: united records of entries that are one person
verify_report: the report and the sheet of images of stage verify
"""
