"""The drawn world.

- `people`: who is drawn: traits, splits, descriptions.
- `scenes`: everything else in an image, its caption, and scenes that are used again.
- `geometry`: the head's relief and colors.
- `facial_features`, `hair`, `accessories`: parts of a head as SVG.
- `drawing`: a person in a scene becomes an image.
- `image_blocks`: the training images, drawn once and kept in files.
"""
