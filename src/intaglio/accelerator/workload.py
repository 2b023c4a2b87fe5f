"""What the accelerator is asked to run: products and vector work of one step as arrays, from a trace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from intaglio.accelerator.dataflow import Int, ceil_div
from intaglio.accelerator.products import AS_NEEDED, ROW_MAJOR, TRANSPOSED, Products, products_of, too_large
from intaglio.errors import Problems, UserError
from intaglio.trace.schema import Convolution, Event, Operand, Trace, read_trace

__all__ = ["Label", "Products", "Workload", "load_trace_workload", "products_of", "workload_of_trace"]


@dataclass(frozen=True)
class Label:
    """What an operation is, for tables.

    shared: the left operand's tensor and how it lies, for packing; empty when unknown. again: work that the step has
    already done once, and a schedule does once more.
    """

    layer: str
    pass_name: str
    operation: str
    kind: str = ""
    shared: str = ""
    again: bool = False


@dataclass(frozen=True)
class Workload:
    """One step, in order of `order`: rows of `products` and rows of vector work."""

    name: str
    method: str
    products: Products
    labels: tuple[Label, ...]
    vector_labels: tuple[Label, ...]
    vector_elements: Int
    facts: dict[str, object]

    @cached_property
    def macs(self) -> int:
        return self.products.total_macs


# What a fully quantized step quantizes for its products. Operands of attention come requantized from the products and
# the softmax that made them.
QUANTIZED_ROLES = ("input", "hidden", "grad_output", "grad_hidden")


def workload_of_trace(trace: Trace, integer_bits: int | None = None) -> Workload:
    """The workload of a recorded or built step.

    Args:
        integer_bits: width of the operands of an integer array. Activations and gradients that were recorded wider have
            to be quantized for it: vector work is added, once a tensor.
    """
    rows, labels, vector_labels, elements = [], [], [], []
    quantized: set[str] = set()
    for event in trace.events:
        for operand in _to_quantize(event, integer_bits, quantized):
            vector_labels.append(Label(event.layer, "quantize", "vector", "quantize"))
            elements.append(operand.elements)
        label = Label(event.layer, event.pass_name, event.operation, event.kind, _shared(event))
        if event.is_product:
            rows.append(_row_of(event))
            labels.append(label)
        else:
            vector_labels.append(label)
            elements.append(event.elements * event.count)
    wrong = [f"{label.layer}: {text}" for label, row in zip(labels, rows, strict=True) if (text := too_large(row))]
    if wrong:
        raise Problems("the trace", wrong)
    if not rows:
        raise UserError(
            "the trace has no product (gemm, conv2d or attention_product); there is nothing for the array to run"
        )
    facts = dict(trace.header.step)
    return Workload(
        trace.header.model,
        trace.header.method,
        products_of(rows),
        tuple(labels),
        tuple(vector_labels),
        np.array(elements, dtype=np.int64),
        facts,
    )


def load_trace_workload(path: Path | str, integer_bits: int | None = None) -> Workload:
    """`workload_of_trace` of a file."""
    return workload_of_trace(read_trace(path), integer_bits)


def _to_quantize(event: Event, integer_bits: int | None, quantized: set[str]) -> Iterator[Operand]:
    """The operands that an array of `integer_bits` cannot take as they were recorded, each once."""
    if integer_bits is None or not event.is_product:
        return
    for operand in event.operands:
        if operand.role in QUANTIZED_ROLES and operand.bits > integer_bits and operand.tensor not in quantized:
            if operand.tensor:
                quantized.add(operand.tensor)
            yield operand


def _shared(event: Event) -> str:
    if not event.operands or event.batch > 1 or event.operation == "conv2d":
        return ""
    left = event.operands[0]
    return f"{event.pass_name}|{left.role}|{left.tensor}|{_stored(event)[0]}" if left.tensor else ""


# A layer's weight lies as (outputs, inputs), a pair as A (rank, inputs) and B (outputs, rank), everything that flows as
# (tokens, features). So the forward pass meets its weights transposed, and a gradient of a weight its activations.
_STORED = {
    "output": (ROW_MAJOR, TRANSPOSED),
    "grad_input": (ROW_MAJOR, ROW_MAJOR),
    "grad_weight": (TRANSPOSED, ROW_MAJOR),
}
_STORED_BY_ROLES = {
    ("lora_b", "lora_a"): (ROW_MAJOR, ROW_MAJOR),
    ("query", "key"): (ROW_MAJOR, TRANSPOSED),
    ("probabilities", "value"): (ROW_MAJOR, ROW_MAJOR),
    ("probabilities", "grad_output"): (TRANSPOSED, ROW_MAJOR),
    ("grad_output", "value"): (ROW_MAJOR, TRANSPOSED),
    ("grad_scores", "key"): (ROW_MAJOR, ROW_MAJOR),
    ("grad_scores", "query"): (TRANSPOSED, ROW_MAJOR),
}


def _stored(event: Event) -> tuple[int, int]:
    """How the two operands lie in memory."""
    if not event.operands:
        return AS_NEEDED, AS_NEEDED
    left, right = event.operands
    return _STORED_BY_ROLES.get((left.role, right.role)) or _STORED.get(event.pass_name, (AS_NEEDED, AS_NEEDED))


def _row_of(event: Event) -> dict[str, int]:
    row = {"M": event.M, "N": event.N, "K": event.K, "batch": event.batch, "count": event.count}
    row["left_stored"], row["right_stored"] = _stored(event)
    if event.operands:
        row["left_bits"], row["right_bits"] = (operand.bits for operand in event.operands)
    if event.convolution is not None:
        row |= _window(event.convolution, event)
    return row


def _window(geometry: Convolution, event: Event) -> dict[str, int]:
    """The left operand's window. A strided grad_input is stride^2 smaller products, one a phase of the output
    pixels."""
    taps = geometry.kernel[0] * geometry.kernel[1]
    stride = geometry.stride[0]
    reach = (geometry.kernel[0] - 1) * geometry.dilation[0] + 1
    out_pixels = geometry.out_spatial[0] * geometry.out_spatial[1]
    in_pixels = geometry.in_spatial[0] * geometry.in_spatial[1]
    if event.pass_name == "grad_input":
        phases = stride * stride
        images = event.M // out_pixels
        window = {
            "stride": 1,
            "reach": -(-reach // stride),
            "out_w": geometry.out_spatial[1],
            "in_w": geometry.out_spatial[1],
        }
        split = {"K": int(ceil_div(event.K, phases)), "batch": event.batch * phases}
        taps = max(1, round(taps / phases))
        return window | split | {"taps": taps, "in_pixels": images * out_pixels}
    pixels = event.K if event.pass_name == "grad_weight" else event.M
    return {
        "taps": taps,
        "stride": stride,
        "reach": reach,
        "out_w": geometry.out_spatial[1],
        "in_w": geometry.in_spatial[1],
        "in_pixels": pixels // out_pixels * in_pixels,
        "pixels_on_reduction": int(event.pass_name == "grad_weight"),
    }
