"""Detecting objects in images: one picture, a folder, a service of your own."""
