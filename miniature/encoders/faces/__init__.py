"""Faces of the drawn world: a detector and two recognizers, in files that the real `insightface` package loads.

- `face_analysis`: the shipped files through InsightFace.
- `face_images`: drawn images with the places of their faces.
- `degradation`: blur, noise and compression for training images.
- `hard_negatives`: text, stripes, animals and other things that are no faces.
- `detection_images`: images that the detector is trained on.
- `detector`, `train_detector`: the detector.
- `alignment`: aligned crops as InsightFace makes them.
- `recognizer`, `train_recognizers`: the recognizers.
- `export`: trained networks as ONNX files.
- `evaluate_recognizers`: figures of the recognizers on validation people.
"""
