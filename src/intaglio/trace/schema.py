"""The trace of one training step: versioned JSON Lines, the only seam between training and the accelerator model.

The first line is a header, each further line one event. Standard library only.

Conventions
- A product has rows `M`, columns `N` and reduction `K`: `result_MN = left_MK @ right_KN`, `batch` times over
  different data (attention heads), the whole event `count` times (identical shapes, one line).
  `M * N * K * batch * count` is the number of useful multiply-accumulates.
- Autograd may compute a product or its transpose, as the memory lies. `gemm_event` puts the operands in one order,
  told by their roles alone (`ROLE_ORDER`): inputs before gradients before weights. So dA is `X^T GH` (K, r), never
  `GH^T X`.
- A convolution is its GEMM, groups in `batch`. With o = batch x out_h x out_w and w = kernel_h x kernel_w x
  in_channels / groups:
  output      (M, N, K) = (o, out_channels / groups, w)
  grad_input  (M, N, K) = (o, in_channels / groups, kernel_h x kernel_w x out_channels / groups)
  grad_weight (M, N, K) = (w, out_channels / groups, o)
  The second is exact in pixels for stride 1, and counts no multiplication by the zeros that a stride inserts.
- Two operands with the same `tensor` hold the same values, up to one factor, which a scale takes up: a scheduler may
  read them once.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO, cast

from intaglio.errors import UserError

SCHEMA_VERSION = 1

PRODUCTS = ("gemm", "conv2d", "attention_product")
OPERATIONS = (*PRODUCTS, "vector")
PASSES = ("output", "grad_input", "grad_weight", "optimizer", "quantize")

# Order of the two operands of a product; the lower comes first. Roles beyond these are an error.
ROLE_ORDER = {
    "input": 0,  # X, the input of a layer
    "probabilities": 0,  # P, the softmax's output
    "grad_scores": 0,  # dS, so that dK is `dS^T Q`
    "query": 1,
    "hidden": 1,  # H = X A
    "grad_output": 2,  # G = dL/dY
    "grad_hidden": 3,  # GH = s G B^T
    "weight": 4,  # W0, frozen or trained
    "lora_a": 4,
    "lora_b": 4,
    "key": 5,
    "value": 5,
}


@dataclass(frozen=True, slots=True)
class Operand:
    """One tensor of an event. `bits` is the width of an element as the method computes with it, not as torch stores
    it."""

    role: str
    shape: tuple[int, ...]
    dtype: str
    bits: int
    tensor: str = ""  # identity within the step; empty when unknown

    @property
    def elements(self) -> int:
        product = 1
        for length in self.shape:
            product *= length
        return product

    @property
    def size_bytes(self) -> int:
        return -(-self.elements * self.bits // 8)


@dataclass(frozen=True, slots=True)
class Convolution:
    """Geometry of the forward convolution; (height, width) each, also in the events of its backward passes."""

    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    in_spatial: tuple[int, int]
    out_spatial: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


@dataclass(frozen=True, slots=True)
class Event:
    """One operation of the step. `pass_name` is the JSON key `pass`.

    A product has M, N, K and two operands, left and right; vector work has `elements` and `kind` ("softmax",
    "adamw", ...).
    `skipped` says of a forward event which of its gradients are not needed, and why: {"grad_weight": "weight is
    frozen"}.
    """

    operation: str
    pass_name: str
    layer: str
    M: int = 0
    N: int = 0
    K: int = 0
    batch: int = 1
    count: int = 1
    operands: tuple[Operand, ...] = ()
    result: Operand | None = None
    kind: str = ""
    elements: int = 0
    convolution: Convolution | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    source: str = ""  # what the recorder saw, for example "aten.addmm"

    @property
    def is_product(self) -> bool:
        return self.operation in PRODUCTS

    @property
    def macs(self) -> int:
        return self.M * self.N * self.K * self.batch * self.count if self.is_product else 0


@dataclass(frozen=True, slots=True)
class Header:
    """What was traced. `step` holds free facts of the step (batch size, resolution, rank, versions)."""

    model: str
    method: str
    step: Mapping[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class Trace:
    header: Header
    events: tuple[Event, ...]

    @property
    def macs(self) -> int:
        return sum(event.macs for event in self.events)


def gemm_event(
    pass_name: str,
    layer: str,
    left: Operand,
    right: Operand,
    *,
    M: int,
    N: int,
    K: int,
    batch: int = 1,
    **rest: Any,
) -> Event:
    """The event of `left_MK @ right_KN`, transposed where the roles ask for the other order."""
    if ROLE_ORDER[left.role] > ROLE_ORDER[right.role]:
        left, right, M, N = right, left, N, M
    rest.setdefault("operation", "gemm")
    return Event(pass_name=pass_name, layer=layer, M=M, N=N, K=K, batch=batch, operands=(left, right), **rest)


def write_trace(path: Path | str, header: Header, events: Iterable[Event]) -> int:
    """Write a trace (gzip when the name ends in `.gz`); returns the number of events. Complete or absent, never
    half."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    number = 0
    with _open(part, "wt", compressed=path.suffix == ".gz") as file:
        file.write(_line({"intaglio_trace": header.schema_version, **asdict(header)}))
        for event in events:
            file.write(_line(_event_to_json(event)))
            number += 1
    part.replace(path)
    return number


def read_trace(path: Path | str) -> Trace:
    """Read a trace; a `UserError` names the line, what came and what was expected."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a trace that `intaglio trace` wrote")
    try:
        with _open(path, "rt", compressed=path.suffix == ".gz") as file:
            lines = list(_json_lines(path, file))
    except (EOFError, zlib.error) as error:
        raise UserError(f"{path}: the compressed file is cut off or damaged ({error}); trace the step again") from error
    except (UnicodeDecodeError, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: not a trace, {error}; expected JSON Lines from `intaglio trace`") from error
    if not lines:
        raise UserError(f"{path}: the trace is empty; expected a header line from `intaglio trace`")
    header = _header_from_json(path, lines[0][1])
    events = tuple(_event_from_json(path, number, record) for number, record in lines[1:])
    if not events:
        raise UserError(f"{path}: the trace has a header but no event; was a step run while it was recorded?")
    return Trace(header, events)


def _open(path: Path, mode: str, compressed: bool) -> TextIO:
    opener: Any = gzip.open if compressed else open
    return cast(TextIO, opener(path, mode, encoding="utf-8"))


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":")) + "\n"


def _event_to_json(event: Event) -> dict[str, Any]:
    """The fields that differ from their default, `pass_name` under the key `pass`."""
    record = asdict(event)
    record["pass"] = record.pop("pass_name")
    keep = {"operation", "pass", "layer"}
    empty = {"batch": 1, "count": 1}
    return {k: v for k, v in record.items() if k in keep or (v not in (None, "", 0, (), {}) and v != empty.get(k))}


def _json_lines(path: Path, file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            hint = "; a CSV of M,N,K goes to --workload" if number == 1 and "," in line else ""
            raise UserError(
                f"{path}:{number}: not JSON ({error.msg}), got {_short(line)}; expected a JSON object per line{hint}"
            ) from None
        if not isinstance(record, dict):
            raise UserError(f"{path}:{number}: got {_short(line)}; expected a JSON object per line")
        yield number, record


def _header_from_json(path: Path, record: dict[str, Any]) -> Header:
    version = record.get("intaglio_trace")
    if version is None:
        raise UserError(
            f"{path}:1: no header, got {_short(json.dumps(record))}; "
            'expected {"intaglio_trace": 1, "model": ..., "method": ...} as `intaglio trace` writes it'
        )
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path}:1: trace schema version {version!r}, this intaglio reads version {SCHEMA_VERSION}; trace "
            f"the step again"
        )
    return Header(str(record.get("model", "")), str(record.get("method", "")), dict(record.get("step") or {}), version)


def _event_from_json(path: Path, number: int, record: dict[str, Any]) -> Event:
    try:
        values = dict(record)
        values["pass_name"] = values.pop("pass", None)
        values["operands"] = tuple(_operand(o) for o in values.get("operands", ()))
        if values.get("result") is not None:
            values["result"] = _operand(values["result"])
        if values.get("convolution") is not None:
            geometry: dict[str, Any] = values["convolution"]
            as_tuples: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in geometry.items()}
            values["convolution"] = Convolution(**as_tuples)
        event = Event(**values)
        problem = _problem_of(event)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        problem = str(error).replace("Event.__init__() ", "").replace("Operand.__init__() ", "operand ")
        raise UserError(f"{path}:{number}: {problem}; got {_short(json.dumps(record))}") from None
    if problem:
        raise UserError(f"{path}:{number}: {problem}; got {_short(json.dumps(record))}")
    return event


def _operand(record: Mapping[str, Any]) -> Operand:
    values = dict(record)
    values["shape"] = tuple(values.get("shape", ()))
    return Operand(**values)


def _problem_of(event: Event) -> str:
    """What is wrong with an event; empty when nothing is."""
    if event.operation not in OPERATIONS:
        return f"unknown operation {event.operation!r}, expected one of {', '.join(OPERATIONS)}"
    if event.pass_name not in PASSES:
        return f"unknown pass {event.pass_name!r}, expected one of {', '.join(PASSES)}"
    names: Sequence[str] = ("M", "N", "K", "batch", "count") if event.is_product else ("elements", "count")
    for name in names:
        value = getattr(event, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            return f"{name} must be a positive integer, not {value!r}"
    if event.is_product and len(event.operands) not in (0, 2):
        return f"a product has two operands, left and right, not {len(event.operands)}"
    if not event.is_product and not event.kind:
        return "vector work needs its kind, for example 'softmax'"
    if not isinstance(event.layer, str) or not isinstance(event.kind, str):
        return f"layer and kind must be text, not {event.layer!r} and {event.kind!r}"
    if looks_like_a_formula(event.layer) or looks_like_a_formula(event.kind):
        return f"the name {event.layer or event.kind!r} is a formula to a spreadsheet; expected a letter first"
    for operand in event.operands:
        if operand.role not in ROLE_ORDER and event.is_product:
            return f"unknown operand role {operand.role!r}, expected one of {', '.join(ROLE_ORDER)}"
        if not isinstance(operand.bits, int) or not 1 <= operand.bits <= 64:
            return f"operand {operand.role}: bits must be 1..64, not {operand.bits!r}"
    return ""


def looks_like_a_formula(name: str) -> bool:
    """Whether a spreadsheet would run this cell of a table instead of showing it."""
    return name.lstrip()[:1] in ("=", "+", "-", "@") and len(name) > 1


def _short(text: str, length: int = 80) -> str:
    text = text.strip()
    return repr(text if len(text) <= length else text[: length - 3] + "...")
