"""Load, quantize, save any diffusers pipeline; our quantizer for diffusers."""
