"""Evaluation of any method by the same images, metrics and statistics.

metrics      what is measured of generated images, a module for each metric
statistics   from values of images to a method's mean with its interval, and to differences between methods
"""
