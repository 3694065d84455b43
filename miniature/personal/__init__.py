"""LoRAs of people: teachers, and the DiffLoRA that is trained on them.

- `teachers`: stage `teachers`, a LoRA for each person.
- `embeddings`: face and image embeddings of people's images.
- `person_images`: latents with captions, for the diffusion loss through the base model.
- `finetune`: end-to-end fine-tuning of the LAE, then of MIF and DiT, in several processes.
- `joint`: end-to-end training of all three together.
- `evaluated_people`: people that LoRAs are evaluated on.
- `sampling_choice`: the recommended sampling, chosen on validation people.
- `train`: stage `difflora`, which uses all of these.
- `held_out_teachers`: the shipped teachers of held-out people.
- `ship_held_out`: stage `held_out`, which writes them.
- `evaluation`: held-out people and methods for `training.evaluation`; `python -m miniature evaluate`.
- `baselines`: settings of the methods that DiffLoRA is compared with, chosen on validation people.
- `example_dataset`: what the LoRA dataset pipeline's example starts from.
"""
