"""The drawn world.

- `people`: who is drawn: traits, splits, descriptions.
- `scenes`: everything else in an image, its caption, and scenes that are used again.
- `colors`, `gradients`: what shapes are filled with.
- `geometry`: the head's relief and colors.
- `surroundings`: wall, neck and clothes as SVG.
- `skin`, `eyes`, `facial_features`, `hair`, `accessories`: parts of a head as SVG.
- `drawing`: a person in a scene becomes an image.
- `image_blocks`: the training images, drawn once and kept in files.
"""
