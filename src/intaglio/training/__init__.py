"""Recipe, one step, the loop, checkpoints."""
