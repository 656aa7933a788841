"""What a training step holds in memory, counted from the tensors that are alive."""
