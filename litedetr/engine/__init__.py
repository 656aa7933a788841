"""Training and evaluation: the loop, and what surrounds it."""
