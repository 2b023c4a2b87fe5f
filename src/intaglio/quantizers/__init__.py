"""What a low-precision number means: formats, ranges, rounding, packing. Pure functions on tensors."""
