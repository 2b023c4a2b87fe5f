"""AdamW with moments of 8 bits, for parameters that are INT8 codes (`layers/codes_tensor.py`) or plain float.

    m <- b1 m + (1 - b1) g      v <- b2 v + (1 - b2) g^2      x <- x (1 - lr decay) - lr m^ / (sqrt(v^) + eps)

as Loshchilov and Hutter, ICLR 2019; m^ and v^ without the bias of the start. Between the steps m and the root of v lie
as INT8 codes with a float32 scale for each 64 numbers, rounded stochastically: nearest would never let v forget, as its
change in a step is a thousandth of it. A root's code of 0 counts as a half, so no step is divided by zero. The random
numbers are a hash of place and of the gradient's bits, as in `quantizers/integer_step.py`: they need no state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from intaglio.kernels.codes import codes_by_group
from intaglio.layers.codes_tensor import CodesTensor
from intaglio.quantizers.activations import seed_of

BLOCK = 64
"""Numbers that share a scale."""


class IntegerAdamW(torch.optim.Optimizer):
    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad.float(), group)
        return loss

    def _update(self, parameter: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            blocks = -(-grad.numel() // BLOCK)
            state["step"] = torch.zeros((), dtype=torch.float32)
            for name in ("m", "root_v"):
                state[f"{name}_codes"] = grad.new_zeros(blocks, BLOCK, dtype=torch.int8)
                state[f"{name}_scale"] = grad.new_ones(blocks, 1)
        state["step"] += 1
        step, seed = int(state["step"].item()), seed_of(grad)
        m = decode(state["m_codes"], state["m_scale"], grad.shape, 0.0).lerp_(grad, 1 - beta1)
        root = decode(state["root_v_codes"], state["root_v_scale"], grad.shape, 0.0)
        v = root.square_().mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        state["m_codes"], state["m_scale"] = encode(m, seed)
        state["root_v_codes"], state["root_v_scale"] = encode(v.sqrt_(), seed + 1)
        m = decode(state["m_codes"], state["m_scale"], grad.shape, 0.0)
        root = decode(state["root_v_codes"], state["root_v_scale"], grad.shape, 0.5)
        root.div_((1 - beta2**step) ** 0.5).add_(group["eps"])
        value = parameter.values() if isinstance(parameter, CodesTensor) else parameter.clone()
        value.mul_(1 - group["lr"] * group["weight_decay"]).addcdiv_(m, root, value=-group["lr"] / (1 - beta1**step))
        if isinstance(parameter, CodesTensor):
            parameter.round_to(value, seed + 2)
        else:
            parameter.copy_(value)


def encode(values: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
    """Any shape -> codes int8 (blocks, 64) and scale float32 (blocks, 1); zeros fill the last block."""
    flat = values.flatten()
    blocks = -(-flat.numel() // BLOCK)
    flat = torch.nn.functional.pad(flat, (0, blocks * BLOCK - flat.numel())).view(blocks, BLOCK)
    return codes_by_group(flat, 8, blocks, power_of_two=False, seed=seed)


def decode(codes: Tensor, scale: Tensor, shape: torch.Size, floor: float) -> Tensor:
    """float32 of `shape`: codes * scale, with codes below `floor` taken for it where the block is not all zero."""
    values = codes.float()
    if floor:
        values = values.clamp_(min=floor)
    return (values * scale).flatten()[: shape.numel()].view(shape)
