"""The trainable layer of `int8_lora`: every GEMM of it in integers."""
