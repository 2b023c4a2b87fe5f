"""The command line's road: what `intaglio train` prepares and steps, on random weights, one step at a time."""
