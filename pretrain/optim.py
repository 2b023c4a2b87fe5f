"""Optimizer pieces that both training scripts share: Muon, the learning-rate schedule, the moving average."""

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


def orthogonalize(update: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz iteration towards the nearest semi-orthogonal matrix of a (M, N) update (Jordan et al. 2024).

    All factors of the iteration are polynomials of the Gram matrix x x^T, so they are multiplied as (M, M) matrices
    and meet x once, at the end: for a 3 x 3 convolution (N = 9 M) 2.5 times less work than the usual form.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = update / (update.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    gram = x @ x.T
    identity = torch.eye(len(gram), device=x.device, dtype=x.dtype)
    product = identity
    for step in range(steps):
        factor = a * identity + b * gram + c * gram @ gram
        product = factor @ product if step else factor
        if step < steps - 1:
            gram = factor @ gram @ factor
    x = product @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalized: for weight matrices and, flattened to (out, in * kh * kw), convolutions.

    `torch.optim.Muon` takes matrices only, and a U-Net is mostly convolution. The step is scaled so that its
    root mean square is 0.2 (Liu et al. 2025), so one learning rate suits Muon and AdamW.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            for param, update in zip(params, self._updates(params, group["momentum"]), strict=True):
                param.mul_(1 - group["lr"] * group["weight_decay"])
                size = max(param.shape[0], param[0].numel())
                param.add_(update.view(param.shape), alpha=-group["lr"] * 0.2 * math.sqrt(size))

    def _updates(self, params: list[nn.Parameter], beta: float) -> Sequence[Tensor]:
        """Orthogonalized updates, flat. Data-parallel processes do a share each and exchange the results."""
        rank, count = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        by_size = sorted(range(len(params)), key=lambda index: params[index].numel())
        mine = set(by_size[rank::count])
        found = []
        for index, param in enumerate(params):
            assert param.grad is not None
            momentum = self.state[param].setdefault("momentum", torch.zeros_like(param))
            momentum.lerp_(param.grad, 1 - beta)
            if index in mine:
                update = param.grad.lerp(momentum, beta)  # Nesterov
                found.append(orthogonalize(update.flatten(1)).flatten())
            else:
                found.append(param.new_zeros(param.numel()))
        if count == 1:
            return found
        flat = torch.cat(found)
        dist.all_reduce(flat)
        return flat.split([len(update) for update in found])


def optimizers(
    model: nn.Module, lr: float, adam_lr: float | None = None, weight_decay: float = 0.0
) -> list[torch.optim.Optimizer]:
    """Muon for hidden matrices and convolutions; AdamW for embeddings, first and last layers, norms and biases."""
    hidden, rest = [], []
    for name, param in model.named_parameters():
        if not param.requires_grad:
            continue
        outer = any(part in name for part in ("conv_in", "conv_out", "embedding.weight"))
        (rest if param.ndim < 2 or outer else hidden).append(param)
    found: list[torch.optim.Optimizer] = [Muon(hidden, lr, weight_decay=weight_decay)] if hidden else []
    return [*found, torch.optim.AdamW(rest, lr=adam_lr or lr, weight_decay=0.0, betas=(0.9, 0.98))]


def learning_rate_factor(progress: float, warmup: float = 0.02, decay_from: float = 0.6) -> float:
    """Warm-up, then constant, then a linear fall to 2 %; progress in 0..1 of the planned training."""
    if progress < warmup:
        return max(progress / warmup, 0.02)
    return 1.0 if progress < decay_from else max(0.02, (1 - progress) / (1 - decay_from))


def set_learning_rate(found: list[torch.optim.Optimizer], factor: float) -> None:
    for optimizer in found:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("peak_lr", group["lr"]) * factor


class MovingAverage(Generic[Model]):
    """Exponential moving average of a module's parameters and buffers, with a warm-up of the decay."""

    def __init__(self, model: Model, decay: float):
        self.model: Model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), weight)
