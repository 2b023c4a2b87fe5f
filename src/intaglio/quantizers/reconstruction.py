"""Rounding that keeps a layer's outputs, not its weights: the columns after make good each column's rounding error.

GPTQ (Frantar et al., ICLR 2023, algorithm 1) on calibration inputs of a diffusion model (Q-Diffusion, Li et al., ICCV
2023, section 3.2: inputs of all timesteps). In place of AdaRound's gradient descent it needs one Cholesky factor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.quantizers.formats import Format
from intaglio.quantizers.packing import pack_nibbles
from intaglio.quantizers.quantize import QuantizedWeight, to_rows
from intaglio.quantizers.ranges import RangeSearch, codes_to_weight, find_range, round_to_codes

DAMPING = 0.01
"""Of the mean squared input, added to each squared input: inputs that never vary would make the errors run away."""
BLOCK_COLUMNS = 64
"""Columns whose errors are spread at once; changes no number but in rounding."""


def quantize_to_outputs(
    weight: Tensor, gram_KK: Tensor, format: Format, search: RangeSearch = "mse"
) -> QuantizedWeight:
    """Codes of `weight` for which `|X (W_hat - W)^T|` is small.

    Args:
        weight: (O, I) or (O, I, kh, kw), finite.
        gram_KK: float32 `X^T X` of calibration inputs X (M, K), columns in the order of `to_rows`.
        format: one with a scale per output channel and no zero point.
        search: how the scales are found; they are those of `quantize`.

    Raises:
        ValueError: another kind of format.
    """
    if format.group_size is not None or not format.symmetric or format.levels is not None:
        raise ValueError(f"reconstruction takes formats with one scale per output channel, not {format.name}")
    rows_OK = to_rows(weight.detach()).float().clone()
    scale_O1, zero_O1 = find_range(rows_OK[:, None], format, search)
    factor_KK = _error_factor(gram_KK)
    codes_OK = torch.empty_like(rows_OK)
    for start in range(0, rows_OK.shape[1], BLOCK_COLUMNS):
        stop = min(start + BLOCK_COLUMNS, rows_OK.shape[1])
        errors = torch.empty(len(rows_OK), stop - start)
        for k in range(start, stop):
            column = rows_OK[:, None, k : k + 1]
            code = round_to_codes(column, scale_O1, zero_O1, format)
            codes_OK[:, k] = code[:, 0, 0]
            missed = (column - codes_to_weight(code, scale_O1, None, format))[:, 0, 0] / factor_KK[k, k]
            rows_OK[:, k + 1 : stop] -= missed[:, None] * factor_KK[k, k + 1 : stop]
            errors[:, k - start] = missed
        rows_OK[:, stop:] -= errors @ factor_KK[start:stop, stop:]
    codes = codes_OK.to(torch.int8)
    qdata = pack_nibbles(codes) if format.bits == 4 else codes
    return QuantizedWeight(qdata, scale_O1, None, format, tuple(weight.shape))


def output_error(weight: Tensor, rounded: Tensor, gram_KK: Tensor) -> float:
    """`|X (W_hat - W)^T|^2 / |X W^T|^2` on the inputs of the Gram matrix."""
    before, difference = to_rows(weight).float(), to_rows(rounded - weight).float()
    total = float(((before @ gram_KK) * before).sum())
    return float(((difference @ gram_KK) * difference).sum()) / total if total > 0 else 0.0


def _error_factor(gram_KK: Tensor) -> Tensor:
    """Upper Cholesky factor of the inverse of the damped Gram matrix: row k tells how column k's error is spread."""
    damped = gram_KK.double().clone()
    diagonal = damped.diagonal()
    diagonal += DAMPING * diagonal.mean().clamp_min(torch.finfo(torch.float32).tiny)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True).float()
