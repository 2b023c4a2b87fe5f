"""What a denoiser is trained to predict, and how the losses of a batch are weighed."""
