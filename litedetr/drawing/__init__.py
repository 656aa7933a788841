"""Boxes with names and scores on images, and the fonts for them."""
