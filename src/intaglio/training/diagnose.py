"""Where integer training loses precision: real batches through `int8_lora`, layer by layer and product by product."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn

from intaglio.errors import UserError
from intaglio.layers.gemm_errors import GEMMS, LayerErrors, layer_errors
from intaglio.layers.int8_lora.layer import Int8LoraLayer
from intaglio.training.encode import DTYPES
from intaglio.training.optimizers import make_optimizer
from intaglio.training.plan import plan
from intaglio.training.prepare import prepare
from intaglio.training.recipe import Recipe

ENOUGH_DB = 20.0
"""A product whose noise is under a tenth of its signal."""
ENOUGH_COSINE = 0.99
"""A gradient whose error is under a seventh of it."""
MOST_LOST = 0.5
"""Share of the gradient's values that may be rounded to zero: ratios of energy do not see them beside an outlier."""


@dataclass(frozen=True)
class LayerReport:
    name: str
    errors: LayerErrors
    """Means over batches; of the cosines the worst."""

    @property
    def wants_float(self) -> bool:
        """Whether some figure is not enough. What is not a number, a signal of zero, says nothing."""
        low_db = any(value < ENOUGH_DB for value in self.errors.sqnr_db.values())
        far_off = any(value < ENOUGH_COSINE for value in self.errors.cosine.values())
        return low_db or far_off or self.errors.zeros > MOST_LOST


Tensors = tuple[Tensor, Tensor]
"""The input of a layer and the gradient of its output."""


def diagnose(recipe: Recipe, *, warmup: int, batches: int) -> list[LayerReport]:
    """Train for `warmup` steps, so that the pairs have left zero, then measure `batches` batches.

    Raises:
        UserError: as `train`; or the method has no layer that computes in integers.
    """
    layers, captured = capture(recipe, warmup=warmup, batches=batches)
    return [
        LayerReport(name, _mean([layer_errors(layer, *tensors[name]) for tensors in captured if name in tensors]))
        for name, layer in layers.items()
    ]


def capture(recipe: Recipe, *, warmup: int, batches: int) -> tuple[dict[str, Int8LoraLayer], list[dict[str, Tensors]]]:
    """The integer layers by name, trained for `warmup` steps, and what each of `batches` batches sends through them."""
    planned = plan(recipe, device="cpu")
    job = prepare(planned, torch.device("cpu"), 0, 1)
    layers = {n: m for n, m in job.denoiser.named_modules() if isinstance(m, Int8LoraLayer)}
    if not layers:
        raise UserError(f"method {planned.method.name} trains no layer in integers; use --method int8_lora")
    rate = recipe.optimizer.learning_rate_for(planned.method)
    optimizer = make_optimizer(recipe.optimizer.build(), job.adapter.parameters(), rate)

    def backward(number: int) -> None:
        optimizer.zero_grad()
        batch = job.batches(number).to(torch.device("cpu"), DTYPES[recipe.device.mixed_precision])
        job.loss(job.denoiser, batch, samples=recipe.steps.train_batch_size).backward()

    for number in range(warmup):
        backward(number)
        torch.nn.utils.clip_grad_norm_(job.adapter.parameters(), recipe.optimizer.max_grad_norm)
        optimizer.step()
    captured: list[dict[str, Tensors]] = []
    for number in range(warmup, warmup + batches):
        captured.append({})
        handles = [layer.register_forward_hook(keep_tensors(captured[-1], name)) for name, layer in layers.items()]
        backward(number)
        for handle in handles:
            handle.remove()
    return layers, captured


def keep_tensors(tensors: dict[str, Tensors], name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    """A forward hook that writes a layer's input and, in the backward pass, the gradient of its output to `tensors`."""

    def after(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        x = args[0].detach()
        output.register_hook(lambda grad: tensors.__setitem__(name, (x, grad)))

    return after


def markdown(reports: Sequence[LayerReport]) -> str:
    """One row a layer: dB of each product, cosine of each gradient, shares and outliers."""
    head = ["layer", *(f"{g} dB" for g in GEMMS), "cos x", "cos a", "cos b", "saturated", "lost", "outliers", "advice"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(row(report))} |" for report in reports]
    return "\n".join(lines) + "\n"


def row(report: LayerReport) -> list[str]:
    errors = report.errors
    return [
        report.name,
        *(f"{errors.sqnr_db[g]:.1f}" for g in GEMMS),
        *(f"{errors.cosine[k]:.5f}" for k in ("x", "a", "b")),
        f"{errors.saturation:.2%}",
        f"{errors.zeros:.1%}",
        str(errors.outlier_channels),
        "float" if report.wants_float else "",
    ]


def _mean(errors: Sequence[LayerErrors]) -> LayerErrors:
    def over(values: list[float]) -> float:
        known = [v for v in values if not math.isnan(v)]
        return fmean(known) if known else math.nan

    return LayerErrors(
        {g: over([e.sqnr_db[g] for e in errors]) for g in GEMMS},
        {k: min((e.cosine[k] for e in errors if not math.isnan(e.cosine[k])), default=math.nan) for k in "xab"},
        fmean(e.saturation for e in errors),
        fmean(e.zeros for e in errors),
        max(e.outlier_channels for e in errors),
    )
