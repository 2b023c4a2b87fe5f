"""A trace's products for other tools: SCALE-Sim topologies, ZigZag workloads, plain CSV. Standard library only.

Both tools know neither occurrences nor heads: an event is one entry, `x<n>` at the end of its name tells how often
it runs.
Vector work has no place in either and stays out.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from intaglio.errors import UserError
from intaglio.trace.schema import Event, Trace

FORMATS = ("csv", "scalesim", "zigzag")
SUFFIXES = {"csv": ".csv", "scalesim": ".scalesim.csv", "zigzag": ".zigzag.yaml"}
"""Endings that tell the exports of one trace apart."""


def export_trace(trace: Trace, path: Path | str, fmt: str) -> int:
    """Write the products of `trace` in a format of `FORMATS`; returns their number."""
    writers = {"csv": write_csv, "scalesim": write_scalesim, "zigzag": write_zigzag}
    if fmt not in writers:
        raise UserError(f"unknown export format {fmt!r}; expected one of {', '.join(FORMATS)}")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return writers[fmt](trace, Path(path))


def write_csv(trace: Trace, path: Path) -> int:
    """Columns M,N,K,name,pass,batch,count,bits: what `intaglio simulate --workload` reads."""
    products = list(_products(trace))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["M", "N", "K", "name", "pass", "batch", "count", "bits"])
        for event in products:
            bits = max((operand.bits for operand in event.operands), default=8)
            row = [event.M, event.N, event.K, event.layer, event.pass_name, event.batch, event.count, bits]
            writer.writerow(row)
    return len(products)


def write_scalesim(trace: Trace, path: Path) -> int:
    """A SCALE-Sim v3 GEMM topology (run it with `-i gemm`): Layer, M, N, K with the trailing comma that it wants."""
    products = list(_products(trace))
    lines = ["Layer,M,N,K,"]
    lines += [f"{_name(i, e)},{e.M},{e.N},{e.K}," for i, e in enumerate(products)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(products)


def write_zigzag(trace: Trace, path: Path) -> int:
    """A ZigZag workload (YAML): forward convolutions as Conv, every other product as Gemm."""
    products = list(_products(trace))
    blocks = [_zigzag_layer(i, event) for i, event in enumerate(products)]
    path.write_text("\n".join(blocks), encoding="utf-8")
    return len(products)


def _zigzag_layer(index: int, event: Event) -> str:
    bits = [operand.bits for operand in event.operands] or [8, 8]
    result = event.result.bits if event.result else max(bits)
    sums = 32 if max(bits) <= 8 else max(32, result)
    head = [f"- id: {index}", f"  name: {_name(index, event)}"]
    geometry = event.convolution
    if geometry is not None and event.pass_name == "output" and geometry.groups == 1:
        (sy, sx), (dy, dx) = geometry.stride, geometry.dilation
        images = event.M // (geometry.out_spatial[0] * geometry.out_spatial[1])
        sizes = [images, geometry.out_channels, geometry.in_channels, *geometry.out_spatial, *geometry.kernel]
        head += [
            "  operator_type: Conv",
            "  equation: O[b][k][oy][ox]+=W[k][c][fy][fx]*I[b][c][iy][ix]",
            f"  dimension_relations: [ix={sx}*ox+{dx}*fx, iy={sy}*oy+{dy}*fy]",
            "  loop_dims: [B, K, C, OY, OX, FY, FX]",
            f"  loop_sizes: {sizes}",
        ]
    else:
        head += [
            "  operator_type: Gemm",
            "  equation: O[b][k]+=W[k][c]*I[b][c]",
            "  loop_dims: [B, K, C]",
            f"  loop_sizes: {[event.M, event.N, event.K]}",
        ]
    head += [
        "  operand_precision:",
        f"    W: {bits[1]}",
        f"    I: {bits[0]}",
        f"    O: {sums}",
        f"    O_final: {result}",
        "  operand_source:",
        f"    I: {index}",
        f"    W: {index}",
        "",
    ]
    return "\n".join(head)


def _products(trace: Trace) -> Iterator[Event]:
    return (event for event in trace.events if event.is_product)


def _name(index: int, event: Event) -> str:
    """Unique, and free of commas and spaces."""
    times = event.batch * event.count
    plain = re.sub(r"[^A-Za-z0-9_.]+", "_", f"{index}.{event.layer}.{event.pass_name}")
    return f"{plain}.x{times}" if times > 1 else plain
