"""Integer arithmetic on the CPU: one folder an operation, with its definition, its checks and its fast path."""
