"""Metrics of generated images. Each loads its model from a local path, checks it strictly and downloads nothing.

metric                 what a metric is: its input, its values, its description for the report
pixels                 images as networks take them: checked, resized by PIL, cropped, normalized
content_cache          images that occur again are not computed again
cosines                mean cosines between images of a method and real ones
model_files            finding models, reading them without running code, loading them strictly
clip_embedding         a CLIP model's embeddings of images and texts
clip_similarity        CLIP-I and CLIP-T
dino_similarity        DINO
pick_score             PickScore: preferences of people, by a CLIP model that was trained on them
image_reward_network   ImageReward's network under the names of its official file
image_reward           ImageReward: preferences of people, by BLIP
faces                  Face Sim, copy-paste and face diversity, by a face recognizer that no method is conditioned on
distributions          FID and KID: distances between sets of images
"""
