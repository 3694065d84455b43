"""The frozen encoders of reference images; nothing is trained or downloaded.

- `face_detection`: where the faces of an image are, and which way up
- `face_encoder`: InsightFace's detector and recognizer
- `image_encoder`: a CLIP vision model of transformers
- `loaded`: a checkpoint's encoders, loaded once
- `similarity`: how similar the faces in images are
"""
