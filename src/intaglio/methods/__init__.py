"""Fine-tuning methods, one file each, and the handle that `attach` returns."""
