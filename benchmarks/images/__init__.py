"""What the miniature's generated images show: `python -m benchmarks.images.NAME`.

drawn_world    likeness, traits, eyes, sharpness, distance to drawings, by who made the images
trade_off      likeness against prompt fidelity over guidance and strength
composition    likeness beside a ControlNet and a second LoRA
candidates     how much candidates of one person differ by temperature
metric_models  whether small networks of metrics agree with the judge
"""
