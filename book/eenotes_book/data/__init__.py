"""The data sets of the book: small images, street scenes, text."""
