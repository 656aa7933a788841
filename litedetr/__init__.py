"""Lite DETR: an interleaved multi-scale encoder with key-aware deformable attention, and a DINO decoder."""
