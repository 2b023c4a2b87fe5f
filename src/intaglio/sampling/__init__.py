"""Draw with a pipeline: one session for every command, and the sheet that images are shown on."""
