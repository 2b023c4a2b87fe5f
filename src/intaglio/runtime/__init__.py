"""What concerns the process: memory, threads."""
