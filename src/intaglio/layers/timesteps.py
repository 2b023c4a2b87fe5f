"""Timestep intervals: which scale set each sample of a batch uses, and how the layers learn of it.

A denoiser is called with timesteps; its layers are not. A hook on the denoiser turns the timesteps into interval
numbers and leaves them in a context that the layers share.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from intaglio.errors import UserError

SLACK = 2.0**-20
"""Added to t before an interval is taken: a border is one interval's in every convention, though float32 rounds
750 / 1000 and 1 - 0.25 each in its own way. Less than the distance of two of DDPM's steps."""


def interval_of(t: Tensor, num_intervals: int) -> Tensor:
    """`min(N - 1, floor(N t))`, int64, of the shape of `t` in [0, 1]. Flow schedulers start at t = 1."""
    return ((t.double() + SLACK) * num_intervals).floor().long().clamp(0, num_intervals - 1)


@dataclass(frozen=True)
class Selection:
    """The intervals of one batch."""

    touched: tuple[int, ...]
    """Intervals that occur, ascending."""
    rows: Tensor
    """int64 (B,): for each sample the position of its interval in `touched`."""
    fraction: Tensor | None = None
    """float64 (B,): t in [0, 1], for what varies within an interval."""

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


def select(t: Tensor, num_intervals: int) -> Selection:
    """The intervals of times (B,). On the meta device, without values, samples are spread over the intervals."""
    if t.is_meta:
        touched = min(len(t), num_intervals)
        return Selection(tuple(range(touched)), torch.arange(len(t), device="meta") % touched)
    touched, rows = interval_of(t, num_intervals).unique(return_inverse=True)
    return Selection(tuple(touched.tolist()), rows, t.double())


class TimestepContext:
    """What the trainable layers of one denoiser learn of it, shared with the loop that trains it."""

    def __init__(self, attention_targets: tuple[str, ...] = ()) -> None:
        self.attention_targets = attention_targets
        """Ends of the names of its projections of attention."""
        self.selection: Selection | None = None
        self.t: Tensor | None = None

    @contextmanager
    def at(self, t: Tensor) -> Iterator[None]:
        """Within, calls of the denoiser are of these times, float64 (B,) in [0, 1], whatever it is called with."""
        before, self.t = self.t, t
        try:
            yield
        finally:
            self.t = before

    def current(self) -> Selection:
        if self.selection is None:
            raise UserError(
                "a timestep-aware layer ran before its denoiser was called. Call the denoiser itself, "
                "model(sample, timestep, ...): it tells its layers the timestep"
            )
        return self.selection


NAMES = ("timestep", "timesteps", "t")
"""What the denoisers of diffusers call their time."""


def install_hook(
    model: nn.Module, context: TimestepContext, num_intervals: int, from_model: Callable[[Tensor], Tensor]
) -> Callable[[], None]:
    """Make every call of `model` set the context. Returns the function that takes the hook off again.

    Args:
        from_model: what the model is called with, (B,) -> t in [0, 1].
    """
    signature = inspect.signature(type(model).forward)
    name = next((n for n in NAMES if n in signature.parameters), None)
    if name is None:
        raise UserError(
            f"{type(model).__name__}.forward takes no timestep, so its scales cannot depend on one; use num_intervals=1"
        )

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bound = signature.bind_partial(module, *args, **kwargs).arguments
        batch, device = _batch_of(v for k, v in bound.items() if k != name)
        t = context.t
        if t is None:
            told = torch.as_tensor(bound[name], device=device)
            t = from_model(told.reshape(1).expand(batch) if told.numel() == 1 else told)
        context.selection = select(t.to(device), num_intervals)
        _remember_in_checkpoints(module, context)

    handle = model.register_forward_pre_hook(before, with_kwargs=True)
    return handle.remove


def _batch_of(values: Iterator[Any]) -> tuple[int, torch.device]:
    """Samples and device of a call: of its first tensor with more than one axis, or list of tensors."""
    for value in values:
        if isinstance(value, Tensor) and value.ndim > 1:
            return len(value), value.device
        if isinstance(value, list) and value and isinstance(value[0], Tensor):
            return len(value), value[0].device
    raise UserError("the denoiser was called without a tensor of samples, so its scales cannot depend on their time")


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
