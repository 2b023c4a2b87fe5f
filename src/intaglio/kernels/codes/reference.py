"""What the codes are: `quantizers/activations.py`, after a factor of columns or a divisor of rows."""

from __future__ import annotations

from torch import Tensor

from intaglio.kernels.codes.op import op
from intaglio.quantizers.activations import quantize_columns, quantize_groups


@op.reference
def codes(
    x: Tensor,
    bits: int,
    groups: int,
    factor: Tensor | None,
    divisor: Tensor | None,
    power_of_two: bool,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    values = x.float() if factor is None else x.float() * factor
    values = values if divisor is None else values / divisor[:, None]
    if groups:
        found, scale = quantize_groups(values, bits, groups, power_of_two=power_of_two, seed=seed)
    else:
        found, scale = quantize_columns(values, bits, power_of_two=power_of_two, seed=seed)
    return found, scale.flatten()
