"""Small networks for the metrics CLIP-T, CLIP-I, DINO, FID, ImageReward and PickScore, in the public files' layouts.

They are trained on drawings of people whom no other network has seen, from other weights than everything that a method
is conditioned on; `benchmarks.images.metric_models` compares what they say with the attribute judge.

- `drawn_images`: what they are trained on.
- `vision_start`: how their vision transformers start.
- `clip_network`: CLIP with text.
- `dino_network`: DINO.
- `preference_pairs`: prompts with two images, of which one is to be preferred.
- `image_reward_network`, `pick_score_network`: trained on such pairs.
- `stage`: trains all of them.
"""
