"""Timestep intervals: which scale set each sample of a batch uses, and how the layers learn of it.

A denoiser is called with timesteps; its layers are not. A hook on the denoiser turns the timesteps into interval
numbers and leaves them in a context that the layers share.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from intaglio.errors import UserError

UNIT_RANGE_MODELS = ("FluxTransformer2DModel", "ChromaTransformer2DModel", "Flux2Transformer2DModel")
"""Denoisers whose pipelines pass timestep / 1000; all others are called with 0..1000."""


def timestep_range(model: nn.Module) -> float:
    """T of the model's convention: timesteps lie in [0, T]."""
    return 1.0 if type(model).__name__ in UNIT_RANGE_MODELS else 1000.0


def interval_of(timestep: Tensor, num_intervals: int, range_: float) -> Tensor:
    """`min(N - 1, floor(t N / T))`, int64, of the shape of `timestep`. Flow schedulers start at t = T."""
    return (timestep.double() * num_intervals / range_).floor().long().clamp(0, num_intervals - 1)


@dataclass(frozen=True)
class Selection:
    """The intervals of one batch."""

    touched: tuple[int, ...]
    """Intervals that occur, ascending."""
    rows: Tensor
    """int64 (B,): for each sample the position of its interval in `touched`."""
    fraction: Tensor | None = None
    """float64 (B,): timestep / T in [0, 1], for what varies within an interval."""

    def for_batch(self, batch: int) -> Tensor:
        """`rows` for a layer that sees `batch` rows: a multiple of B where frames are folded in."""
        if batch == len(self.rows):
            return self.rows
        if batch % len(self.rows):
            raise UserError(
                f"a layer got a batch of {batch} where the denoiser was called with {len(self.rows)} timesteps; "
                "expected one timestep per sample, or a multiple. Leave it out of targets, or use num_intervals=1"
            )
        return self.rows.repeat_interleave(batch // len(self.rows))


def select(timestep: Tensor, num_intervals: int, range_: float) -> Selection:
    """The intervals of timesteps (B,). On the meta device, without values, samples are spread over the intervals."""
    if timestep.is_meta:
        touched = min(len(timestep), num_intervals)
        return Selection(tuple(range(touched)), torch.arange(len(timestep), device="meta") % touched)
    touched, rows = interval_of(timestep, num_intervals, range_).unique(return_inverse=True)
    return Selection(tuple(touched.tolist()), rows, (timestep.double() / range_).clamp(0, 1))


class TimestepContext:
    """Shared by the timestep layers of one denoiser."""

    def __init__(self) -> None:
        self.selection: Selection | None = None

    def current(self) -> Selection:
        if self.selection is None:
            raise UserError(
                "a timestep-aware layer ran before its denoiser was called. Call the denoiser itself, "
                "model(sample, timestep, ...): it tells its layers the timestep"
            )
        return self.selection


def install_hook(model: nn.Module, context: TimestepContext, num_intervals: int, range_: float) -> Callable[[], None]:
    """Make every call of `model` set the context. Returns the function that takes the hook off again."""
    signature = inspect.signature(type(model).forward)
    name = next((n for n in ("timestep", "timesteps") if n in signature.parameters), None)
    if name is None:
        raise UserError(
            f"{type(model).__name__}.forward takes no timestep, so its scales cannot depend on one; use num_intervals=1"
        )

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bound = signature.bind_partial(module, *args, **kwargs).arguments
        timestep = bound[name]
        sample = next(v for k, v in bound.items() if isinstance(v, Tensor) and v.ndim > 1 and k != name)
        timestep = torch.as_tensor(timestep, device=sample.device)
        if timestep.ndim == 0 or len(timestep) == 1:
            timestep = timestep.reshape(1).expand(len(sample))
        context.selection = select(timestep, num_intervals, range_)
        _remember_in_checkpoints(module, context)

    handle = model.register_forward_pre_hook(before, with_kwargs=True)
    return handle.remove


def _remember_in_checkpoints(model: nn.Module, context: TimestepContext) -> None:
    """Gradient checkpointing runs a block again in the backward pass, when the model may have been called with other
    timesteps since: make each checkpointed call carry the selection of its first run.
    """
    for module in model.modules():
        original = module.__dict__.get("_gradient_checkpointing_func")
        if original is None or isinstance(original, _CarrySelection):
            continue
        module._gradient_checkpointing_func = _CarrySelection(original, context)  # pyright: ignore[reportArgumentType]


class _CarrySelection:
    def __init__(self, original: Callable[..., Any], context: TimestepContext):
        self.original, self.context = original, context

    def __call__(self, block: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        selection = self.context.selection

        def run(*inner: Any, **inner_kwargs: Any) -> Any:
            outside, self.context.selection = self.context.selection, selection
            try:
                return block(*inner, **inner_kwargs)
            finally:
                self.context.selection = outside

        return self.original(run, *args, **kwargs)
