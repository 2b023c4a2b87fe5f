"""Which pixels of one image meet under the taps of another: what a convolution is, beside its arithmetic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """(height, width) each. A matrix product is the window of an image of height 1 under a 1 x 1 kernel."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the output for those of the input."""
        height, width = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        )
        return height, width

    def under_taps(self, output_size: tuple[int, int]) -> list[tuple[slice, slice]]:
        """For each tap the rows and columns of the padded input that it reads: one for each place of the output."""
        rows, columns = (
            [slice(k * d, k * d + (n - 1) * s + 1, s) for k in range(count)]
            for n, count, s, d in zip(output_size, self.kernel, self.stride, self.dilation, strict=True)
        )
        return [(i, j) for i in rows for j in columns]
