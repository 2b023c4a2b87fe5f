"""What a design may have beyond a plain array: an object a feature, which attribution and reports go through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from intaglio.accelerator.dataflow import TWO_REGISTERS
from intaglio.accelerator.hardware import Hardware

Changes = dict[str, Any]  # as `Hardware.replaced` takes them


@dataclass(frozen=True)
class Feature:
    """One thing that a design may have.

    present: whether a design has it. without: the changes that take it away. axes: of an exploration, that turn it.
    """

    name: str
    describe: str
    present: Callable[[Hardware], bool]
    without: Callable[[Hardware], Changes]
    axes: tuple[str, ...]


def _in_float16(hardware: Hardware) -> Changes:
    """The FP16 array keeps its ports one element a row and a column wide."""
    changes: Changes = {"array__number": "float", "array__operand_bits": 16, "array__result_bits": 16}
    scale = 16 / hardware.array.operand_bits
    for buffer in ("input", "weight"):
        wide = getattr(hardware.buffers, buffer).bandwidth_bytes_per_cycle * scale
        changes[f"buffers__{buffer}__bandwidth_bytes_per_cycle"] = wide
    return changes | {"array__accumulator_bits": 32}


FEATURES: tuple[Feature, ...] = (
    Feature(
        "precision",
        "integers of few bits in place of FP16",
        lambda h: h.array.number == "integer" and h.array.operand_bits < 16,
        _in_float16,
        ("bits",),
    ),
    Feature(
        "dataflow",
        "both dataflows, or either operand stationary, in place of weight-stationary alone",
        lambda h: len(set(h.array.modes)) > 1 or h.schedule.operand_swap,
        lambda h: {"array__modes": ("weight_stationary",), "schedule__operand_swap": False},
        ("modes", "operand_swap"),
    ),
    Feature(
        "overlap",
        "a second register a PE, so that loads and drains hide behind the stream",
        lambda h: h.array.overlap in TWO_REGISTERS,
        lambda h: {"array__overlap": "wavefront"},
        ("overlap",),
    ),
    Feature(
        "packing",
        "products with the same left operand run as one",
        lambda h: h.schedule.packing,
        lambda h: {"schedule__packing": False},
        ("packing",),
    ),
    Feature(
        "partition",
        "sub-arrays that run other folds at the same time",
        lambda h: h.array.partition != "1x1",
        lambda h: {"array__partition": "1x1", "schedule__split": False},
        ("partition", "split"),
    ),
    Feature(
        "attention on chip",
        "scores and probabilities never leave the chip",
        lambda h: h.schedule.fused_attention,
        lambda h: {"schedule__fused_attention": False},
        ("fused_attention",),
    ),
)


def features_of(hardware: Hardware) -> list[Feature]:
    """The features that this design has."""
    return [feature for feature in FEATURES if feature.present(hardware)]
