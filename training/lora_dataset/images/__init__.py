"""Images of people.

sources: where they come from
faces: what is measured of a face
reference_crops: which images PhotoMaker gets, and how they are cropped
"""
