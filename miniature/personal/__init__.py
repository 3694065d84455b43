"""LoRAs of people: teachers, and the DiffLoRA that is trained on them.

- `teachers`: stage `teachers`, a LoRA for each person.
- `embeddings`: face and image embeddings of people's images.
- `person_images`: latents with captions, for the diffusion loss through the base model.
- `finetune`: end-to-end fine-tuning of LAE, MIF and DiT, in several processes.
- `sampling_choice`: the recommended sampling, chosen on validation people.
- `train`: stage `difflora`, which uses all of these.
- `baselines`: settings of the methods that DiffLoRA is compared with, chosen on validation people.
- `held_out_teachers`: the shipped teachers of held-out people.
- `ship_held_out`: stage `held_out`, which writes them.
- `example_dataset`: what the LoRA dataset pipeline's example starts from.
"""
