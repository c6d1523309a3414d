"""Sources, order, decoding and batches: NumPy and Grain, no device arrays."""
