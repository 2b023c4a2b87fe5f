"""Load, quantize, save any diffusers pipeline; registration as a diffusers quantizer."""
