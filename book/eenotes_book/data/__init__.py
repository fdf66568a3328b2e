"""The data sets of the book: small images, street scenes, text."""

IGNORE = 255  # the label of pixels without a class, in every data set of street scenes
