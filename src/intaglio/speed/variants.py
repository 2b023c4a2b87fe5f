"""What `intaglio speed step` can measure: ways to fine-tune one denoiser, baselines and ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from intaglio.speed import baselines

if TYPE_CHECKING:
    from torch import nn

METHODS = ("qlora", "peqa", "tuneqdm", "int8_lora")
"""Ours over a quantized base: each by Python's `attach` (its name) and by the command line (`train:` before it);
`tuned:` before it is `attach` after `intaglio.tune_allocator()`, which the command line calls."""
TRAIN, TUNED = "train:", "tuned:"
IMPORTS = ("diffusers.models.unets.unet_2d_condition", "peft", "intaglio.adapters.attach")
TRAIN_IMPORTS = (
    "intaglio.training.loop",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl",
    "transformers.models.clip.modeling_clip",
)


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    title: str
    prepare: Callable[[nn.Module], list[nn.Parameter]]
    """Changes a float denoiser in place; returns what is trained."""
    dtype: str = "bfloat16"
    checkpointing: bool = False
    package: str | None = None
    """Distribution of a baseline that need not be installed: a key of `baselines.MODULES`."""
    ours: bool = False
    tuned: bool = False
    """Whether the process begins with `intaglio.tune_allocator()`, as our commands do. A bare `attach` does not."""
    train_method: str | None = None
    """By `intaglio train --method`, which prepares and steps for itself; `prepare` is not asked."""

    def missing_package(self) -> str | None:
        """The package that it needs, where that is not installed."""
        try:
            return None if self.package is None or version(self.package) else self.package
        except PackageNotFoundError:
            return self.package

    def import_everything(self) -> None:
        """So that memory after this is the variant's own."""
        packages = () if self.package is None else (baselines.MODULES[self.package],)
        for name in (*IMPORTS, *packages, *(TRAIN_IMPORTS if self.train_method else ())):
            import_module(name)


def _attach(denoiser: nn.Module, method: str, attached: dict[str, Any], **options: Any) -> list[nn.Parameter]:
    import intaglio
    from intaglio.methods.registry import build_method

    return intaglio.attach(denoiser, build_method(method, options), **attached).parameters()


def ours(
    title: str,
    method: str,
    *,
    dtype: str = "bfloat16",
    checkpointing: bool = False,
    base: str = "int4",
    compute: str = "auto",
    targets: str | None = None,
    **options: Any,
) -> Variant:
    """`attach` with options; ranges by the largest magnitude, which is found the fastest."""
    attached = {"targets": targets, "base": base, "compute": compute, "range_search": "absmax"}
    prepare = partial(_attach, method=method, attached=attached, **options)
    return Variant(title, prepare, dtype, checkpointing, ours=True, tuned=True)


def _by_attach(method: str, tuned: bool = False) -> Variant:
    call = "".join(part.capitalize() for part in method.split("_")).replace("Qlora", "QLora").replace("qdm", "QDM")
    title = f"{'tune_allocator(); ' * tuned}attach(unet, {call}())"
    return Variant(title, partial(_attach, method=method, attached={}), ours=True, tuned=tuned)


def _by_train(method: str) -> Variant:
    return Variant(f"intaglio train --method {method}", baselines.nothing, ours=True, tuned=True, train_method=method)


BASELINES = {
    "bf16": Variant("diffusers, bfloat16, no adapter", baselines.nothing),
    "peft": Variant("diffusers + PEFT LoRA, float32", baselines.lora, "float32"),
    "peft-bf16": Variant("diffusers + PEFT LoRA, bfloat16", baselines.lora),
    "peft-bf16-ckpt": Variant(
        "diffusers + PEFT LoRA, bfloat16, gradient checkpointing", baselines.lora, checkpointing=True
    ),
    "peft-bf16-all": Variant("diffusers + PEFT LoRA, rank 2 on every layer, bfloat16", baselines.lora_everywhere),
    "bitsandbytes": Variant(
        "bitsandbytes NF4 (Linear only) + LoRA, bfloat16", baselines.bitsandbytes, package="bitsandbytes"
    ),
    "quanto": Variant("optimum-quanto INT8 + LoRA, bfloat16", baselines.quanto, package="optimum-quanto"),
    "torchao": Variant(
        "torchao INT8 mixed precision (Linear only) + LoRA, bfloat16", baselines.torchao, package="torchao"
    ),
    "official-tuneqdm": Variant(
        "TuneQDM as its authors compute it, 4 bit, float32", baselines.official_tuneqdm, "float32"
    ),
}
OPTIONS = {
    "qlora-float": ours("qlora int4, float GEMMs, bfloat16", "qlora", base="int4", compute="float"),
    "qlora-float-f32": ours("qlora int4, float GEMMs, float32", "qlora", dtype="float32", compute="float"),
    "qlora-f32": ours("qlora int4, integer GEMMs, float32", "qlora", dtype="float32", compute="integer"),
    "qlora-int4": ours("qlora int4, integer GEMMs, bfloat16", "qlora", base="int4", compute="integer"),
    "qlora-int4-ckpt": ours(
        "qlora int4, integer GEMMs, bfloat16, gradient checkpointing",
        "qlora",
        base="int4",
        checkpointing=True,
        compute="integer",
    ),
    "qlora-int8": ours("qlora int8, integer GEMMs, bfloat16", "qlora", base="int8", compute="integer"),
    "qlora-nf4": ours("qlora nf4, integer GEMMs, bfloat16", "qlora", base="nf4", compute="integer"),
    "qlora-all": ours(
        "qlora int4, rank 2 on every layer, integer GEMMs, bfloat16",
        "qlora",
        base="int4",
        targets="all",
        rank=2,
        compute="integer",
    ),
    "peqa-int4": ours("peqa int4, integer GEMMs, bfloat16", "peqa", base="int4", compute="integer"),
    "tuneqdm-int4": ours("tuneqdm int4, integer GEMMs, bfloat16", "tuneqdm", base="int4", compute="integer"),
    "tuneqdm-float-f32": ours("tuneqdm int4, float GEMMs, float32", "tuneqdm", dtype="float32", compute="float"),
    "int8_lora-int8": ours("int8_lora over int8, bfloat16", "int8_lora", base="int8"),
    "int8_lora-int4": ours("int8_lora over int4, bfloat16", "int8_lora", base="int4"),
    "int8_lora-all": ours(
        "int8_lora over int4, rank 2 on every layer, bfloat16", "int8_lora", base="int4", targets="all", rank=2
    ),
    "int8_lora-attention": ours(
        "int8_lora over int4, INT8 attention, bfloat16", "int8_lora", base="int4", integer_attention=True
    ),
    "int8_lora-shifts": ours(
        "int8_lora, power-of-two scales, bfloat16", "int8_lora", base="int8", scale="power_of_two"
    ),
}
VARIANTS: dict[str, Variant] = {
    **BASELINES,
    **{method: _by_attach(method) for method in METHODS},
    **{TRAIN + method: _by_train(method) for method in METHODS},
    **{TUNED + method: _by_attach(method, tuned=True) for method in METHODS},
    **OPTIONS,
}
REFERENCE = "peft-bf16"
DEFAULT = (REFERENCE, *(name for method in METHODS for name in (TRAIN + method, method)))
"""bfloat16 LoRA, then each method by both roads."""
