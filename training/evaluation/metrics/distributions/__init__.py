"""Distances between the distribution of generated and that of real images.

inception            the network whose features FID and KID are defined on, under the names of its public weights
inception_features   its features of images
dino_features        DINO's, for the same distances by another network
frechet              the Fréchet distance of any features
kernel               the kernel distance (squared MMD) of any features
set_distance         the metric: FID and KID against a named reference set, with equal numbers of images
"""
