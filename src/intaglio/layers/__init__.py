"""Linear and Conv2d over a frozen quantized weight, and the trainable layers that wrap them."""
