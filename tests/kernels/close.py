"""Comparing float results with float64."""

import torch

UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float64: 2.0**-53}
"""Half a step of rounding, relative. bfloat16's is 2^-9; twice that leaves room for a value beside a tie."""


def assert_near(got, expected, float32_error=4e-6):
    """`got` is `expected` rounded to its dtype, after arithmetic in float32 that errs by `float32_error` of the largest
    element: sums of some thousand terms in blocks, exp and erf of 2e-7 each. On the way to bfloat16 these err by 2e-4.
    What is float64 is compared to 1e-12."""
    got, expected = got.detach(), expected.detach()
    assert got.shape == expected.shape
    error = {torch.float32: float32_error, torch.bfloat16: max(2e-4, float32_error), torch.float64: 1e-12}[got.dtype]
    room = UNIT[got.dtype] * expected.abs() + error * max(1.0, float(expected.abs().max()) if expected.numel() else 0)
    wrong = (got.double() - expected).abs() > room
    assert not wrong.any(), f"{int(wrong.sum())} of {wrong.numel()}, by {float((got.double() - expected).abs().max())}"
