"""The benchmark of speed: time and memory of a step, an image and single kernels, ours and baselines, in one run."""
