"""What the accelerator is asked to run: products and vector work as arrays, from a trace or from a CSV of M, N, K."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from intaglio.accelerator.dataflow import Int, ceil_div
from intaglio.errors import Problems, UserError
from intaglio.trace.schema import Convolution, Event, Operand, Trace, read_trace


@dataclass(frozen=True)
class Products:
    """Products `left_MK @ right_KN`, one row an operation; every field is an array of the same length.

    batch: equal products over other data, back to back; count: occurrences in the step.
    left_bits, right_bits: width in the trace. left_on_chip, result_on_chip: never travels to DRAM.
    taps .. in_pixels: the window of a convolution, whose left operand is smaller than M x K (1, 1, ... for a plain
    product):
    taps = kernel_h * kernel_w, reach = (kernel - 1) * dilation + 1, out_w and in_w row lengths, in_pixels the whole
    input.
    pixels_on_reduction: the window's pixels lie on K (the gradient of a convolution's weight), not on M.
    """

    M: Int
    N: Int
    K: Int
    batch: Int
    count: Int
    left_bits: Int
    right_bits: Int
    left_on_chip: Int
    result_on_chip: Int
    taps: Int
    stride: Int
    reach: Int
    out_w: Int
    in_w: Int
    in_pixels: Int
    pixels_on_reduction: Int

    def __len__(self) -> int:
        return len(self.M)

    @property
    def macs(self) -> Int:
        """Useful multiply-accumulates of each row, batch and count included."""
        return self.M * self.N * self.K * self.batch * self.count

    def take(self, index: Int | list[int]) -> Products:
        return Products(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def unique(self) -> tuple[Products, Int]:
        """The distinct products (count set to 1) and, for each row, which one it is."""
        alone = replace(self, count=np.ones_like(self.count))
        table = np.column_stack([getattr(alone, f.name) for f in fields(self)])
        distinct, inverse = np.unique(table, axis=0, return_inverse=True)
        columns = {f.name: np.ascontiguousarray(distinct[:, i]) for i, f in enumerate(fields(self))}
        return Products(**columns), inverse.reshape(-1)

    def transposed(self) -> Products:
        """The same results as `right^T @ left^T`. Rows with a convolution's window stay as they are."""
        plain = self.taps == 1
        changed = {
            "M": np.where(plain, self.N, self.M),
            "N": np.where(plain, self.M, self.N),
            "left_bits": np.where(plain, self.right_bits, self.left_bits),
            "right_bits": np.where(plain, self.left_bits, self.right_bits),
        }
        return replace(self, **changed)


@dataclass(frozen=True)
class Label:
    """What an operation is, for tables; `shared` names the left operand's tensor for packing, empty when unknown."""

    layer: str
    pass_name: str
    operation: str
    kind: str = ""
    shared: str = ""


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

    @property
    def macs(self) -> int:
        return int(self.products.macs.sum())


PLAIN_ROW = {
    "batch": 1,
    "count": 1,
    "left_bits": 8,
    "right_bits": 8,
    "left_on_chip": 0,
    "result_on_chip": 0,
    "taps": 1,
    "stride": 1,
    "reach": 1,
    "out_w": 1,
    "in_w": 1,
    "in_pixels": 0,
    "pixels_on_reduction": 0,
}


def products_of(rows: Sequence[dict[str, int]]) -> Products:
    """Build from one dictionary a row; what is missing is a plain product's."""
    columns = {
        f.name: np.array([row[f.name] if f.name in row else PLAIN_ROW[f.name] for row in rows], dtype=np.int64)
        for f in fields(Products)
    }
    return Products(**columns)


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


def load_csv_workload(path: Path | str) -> Workload:
    """A CSV with columns M, N, K and optionally name, batch, count, bits; other columns are ignored.

    All problems are reported at once, each with its line.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a CSV with the columns M,N,K")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = [(name or "").strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            lines = [
                (reader.line_num, line)
                for line in reader
                if any((v or "").strip() for v in line.values() if v is None or isinstance(v, str))
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file: {error}; expected the columns M,N,K") from error
    missing = [name for name in ("M", "N", "K") if name not in columns]
    if missing:
        came = ",".join(columns)[:80] or "an empty file"
        raise UserError(
            f"{path}:1: missing column{'s' * (len(missing) > 1)} {', '.join(missing)}; got {came!r}, expected M,N,K"
        )
    if not lines:
        raise UserError(f"{path}: only a header; expected at least one row of M,N,K")
    rows, names, problems = _csv_rows(lines)
    if problems:
        raise Problems(str(path), problems)
    labels = tuple(Label(name, "output", "gemm") for name in names)
    return Workload(path.stem, "", products_of(rows), labels, (), np.zeros(0, dtype=np.int64), {"file": path.name})


def _csv_rows(lines: Iterable[tuple[int, dict[str, str]]]) -> tuple[list[dict[str, int]], list[str], list[str]]:
    rows, names, problems = [], [], []
    for number, line in lines:
        row = {}
        for column, field in (
            ("M", "M"),
            ("N", "N"),
            ("K", "K"),
            ("batch", "batch"),
            ("count", "count"),
            ("bits", "left_bits"),
        ):
            text = (line.get(column) or "").strip()
            if column not in line or (text == "" and column in ("batch", "count", "bits")):
                continue
            if not text.isdecimal() or int(text) < 1:
                problems.append(f"line {number}: {column} must be a positive integer, got {text!r}")
                continue
            if int(text) > 2**31:
                problems.append(f"line {number}: {column} must be at most 2^31, got {text}")
                continue
            row[field] = int(text)
        row["right_bits"] = row.get("left_bits", 8)
        rows.append(row)
        names.append((line.get("name") or line.get("layer") or line.get("Layer") or f"row {len(rows)}").strip())
    return rows, names, problems


def _shared(event: Event) -> str:
    if not event.operands or event.batch > 1 or event.operation == "conv2d":
        return ""
    left = event.operands[0]
    return f"{event.pass_name}|{left.role}|{left.tensor}" if left.tensor else ""


def _row_of(event: Event) -> dict[str, int]:
    row = {"M": event.M, "N": event.N, "K": event.K, "batch": event.batch, "count": event.count}
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
