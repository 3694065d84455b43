"""Metrics of faces, by an InsightFace pack that no method is conditioned on.

face_search       faces and their embeddings, with a second try on the padded image
face_similarity   Face Sim and copy-paste
face_diversity    how much a person's generated faces differ from one another
"""
