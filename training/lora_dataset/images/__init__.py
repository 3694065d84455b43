"""Images of people.

entry: a person's entry, and an image that has not been read yet
dataset_rows: images in Hugging Face datasets
sources: where they come from
caption_file: captions beside them
faces: what is measured of a face
folder_writing: folders of images, whole or not at all
reference_crops: which images PhotoMaker gets, and how they are cropped
"""
