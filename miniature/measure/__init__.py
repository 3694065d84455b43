"""Measuring generated images: likeness and prompt fidelity. No network of this package is used in training the model.

- `judge_files`: weights of the judges.
- `judge`: a classifier of what the prompt names, and of traits.
- `eye_judge`: color and size of each iris.
- `metrics`: face similarity and prompt fidelity of images.
- `lora_evaluation`: both, of images that LoRAs generate.
- `attribute_fidelity`: prompt fidelity among the metrics of `training.evaluation`.
- `metric_models`: small networks for the other metrics there.
"""
