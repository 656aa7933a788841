"""What surrounds training and detection: benchmarks, exports, plots, FLOPs, memory, conversion of weights."""
