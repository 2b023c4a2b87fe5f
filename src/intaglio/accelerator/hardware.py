"""What a hardware TOML file says: array, buffers, vector unit, DRAM, technology, and what the scheduler may use.

Every number is an input; what no publication states is listed under `[assumed]` with its reason.
"""

from __future__ import annotations

from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PositiveFloat, PositiveInt, field_validator, model_validator

from intaglio.accelerator.constants import fastest_clock_mhz
from intaglio.accelerator.dataflow import ARRAY_OVERLAPS, Dataflow, Overlap
from intaglio.accelerator.transposition import Edge
from intaglio.accelerator.vector_kinds import known_kinds
from intaglio.config import StrictModel, load_toml
from intaglio.errors import Problems, UserError, did_you_mean

Bits = Annotated[int, Field(ge=2, le=32)]


class Table(StrictModel):
    """A table of the file; its numbers are finite."""

    model_config = ConfigDict(allow_inf_nan=False)


class Array(Table):
    """The PE array. `partition` cuts it into n x n sub-arrays that run other folds at the same time.

    transposers: the edges that can turn an operand which does not lie as the dataflow needs it (`transposition`).
    """

    rows: PositiveInt
    cols: PositiveInt
    modes: tuple[Dataflow, ...] = Field(min_length=1)
    clock_mhz: PositiveFloat
    number: Literal["integer", "float"] = "integer"
    operand_bits: Bits = 8
    accumulator_bits: Bits = 32
    result_bits: Bits = 8
    overlap: Overlap = "wavefront"
    partition: Literal["1x1", "2x2", "4x4"] = "1x1"
    transposers: tuple[Edge, ...] = ("left", "right")

    @property
    def integer_bits(self) -> int | None:
        """Width of its integer operands; None for a float array."""
        return self.operand_bits if self.number == "integer" else None

    @field_validator("partition", mode="before")
    @classmethod
    def _spelling(cls, value: Any) -> Any:
        text = str(value).replace(" ", "")
        return "1x1" if text == "1" else text

    @model_validator(mode="after")
    def _divisible(self) -> Array:
        n = self.partition_side
        if self.rows % n or self.cols % n:
            raise ValueError(f"{self.rows} x {self.cols} PEs cannot be cut into {self.partition} equal sub-arrays")
        if self.number == "float" and (self.operand_bits not in (16, 32) or self.accumulator_bits not in (16, 32)):
            raise ValueError("a float array has operand_bits and accumulator_bits of 16 or 32")
        least = 2 * self.operand_bits if self.number == "integer" else self.operand_bits
        if self.accumulator_bits < least:
            raise ValueError(
                f"accumulator_bits must be {least} or more, to hold one product, got {self.accumulator_bits}"
            )
        return self

    @property
    def partition_side(self) -> int:
        return int(self.partition[0])

    @property
    def pes(self) -> int:
        return self.rows * self.cols


class Buffer(Table):
    """On-chip SRAM. With 2 ports reads and writes have `bandwidth_bytes_per_cycle` each; with 1 they share it."""

    size_bytes: PositiveInt
    bandwidth_bytes_per_cycle: PositiveFloat
    ports: Literal[1, 2] = 2


class Buffers(Table):
    """Buffers of the left operand, the right operand and the results; half of each is usable when double-buffered."""

    input: Buffer
    weight: Buffer
    output: Buffer
    double_buffered: bool = True


class VectorUnit(Table):
    """`cycles_per_element` of each kind of work on one lane. `fused` kinds run beside the array, without DRAM
    traffic."""

    lanes: PositiveInt
    fused: tuple[str, ...] = ("quantize", "silu", "gelu", "geglu")
    cycles_per_element: dict[str, PositiveFloat] = Field(default_factory=dict)

    @field_validator("fused", "cycles_per_element")
    @classmethod
    def _known(cls, kinds: Any) -> Any:
        for kind in kinds:
            if kind not in known_kinds():
                raise ValueError(
                    f"unknown kind {kind!r}{did_you_mean(kind, known_kinds())}; known: {', '.join(known_kinds())}"
                )
        return kinds


class Dram(Table):
    """External memory; energy of interface and device, streaming."""

    kind: str
    bandwidth_gbytes_per_s: PositiveFloat
    latency_ns: float = Field(default=100.0, ge=0)
    pj_per_bit_low: PositiveFloat
    pj_per_bit_typical: PositiveFloat
    pj_per_bit_high: PositiveFloat

    @model_validator(mode="after")
    def _ordered(self) -> Dram:
        if not self.pj_per_bit_low <= self.pj_per_bit_typical <= self.pj_per_bit_high:
            raise ValueError("pj_per_bit_low <= pj_per_bit_typical <= pj_per_bit_high must hold")
        return self


class Technology(Table):
    """Node and supply of the logic, device type of the SRAM table, set of arithmetic constants."""

    node_nm: float = Field(ge=7, le=65)
    supply_v: float = Field(default=0.9, ge=0.5, le=1.2)
    sram_device: Literal["itrs-hp", "itrs-lop", "itrs-lstp"] = "itrs-lop"
    arithmetic: Literal["horowitz_45nm", "aladdin_40nm"] = "horowitz_45nm"


class Schedule(Table):
    """What the scheduler may use beyond one product after another on the whole array.

    temporal_tiling: cut the streamed dimension so that partial sums stay on chip.
    cut: run a product as two, cut along M or N, where the parts, each with a mapping of its own, are better together.
    packing: products with the same left operand become one (`X [W0 A]`, `G [W0^T B^T]`, q/k/v, all text keys and
    values).
    split: sub-arrays share one product by its streamed dimension (split-K in OS, split-M in WS); needs a partition.
    operand_swap: compute the transposed product, so that the left operand may be the stationary one.
    fused_attention: keep scores and probabilities on chip; the backward pass computes them again.
    """

    temporal_tiling: bool = True
    cut: bool = True
    packing: bool = False
    split: bool = False
    operand_swap: bool = False
    fused_attention: bool = False
    objective: Literal["latency", "energy", "energy_delay"] = "latency"


PLAIN = Schedule(temporal_tiling=False, cut=False)


class Hardware(Table):
    """One accelerator."""

    name: str
    description: str
    array: Array
    buffers: Buffers
    vector: VectorUnit
    dram: Dram
    technology: Technology
    schedule: Schedule = Schedule()
    assumed: dict[str, str] = Field(default_factory=dict)

    @field_validator("assumed")
    @classmethod
    def _known_paths(cls, assumed: dict[str, str]) -> dict[str, str]:
        wrong = [path for path in assumed if not _names_a_part(cls, path)]
        if wrong:
            raise ValueError(
                f"{', '.join(map(repr, wrong))} names no part of the hardware; expected one as 'array.clock_mhz'"
            )
        return assumed

    @model_validator(mode="after")
    def _reachable(self) -> Hardware:
        fastest = fastest_clock_mhz(self.technology.node_nm, self.technology.supply_v)
        if self.array.clock_mhz > fastest:
            raise ValueError(
                f"array.clock_mhz = {self.array.clock_mhz:g} is beyond the {fastest:.0f} MHz that a pipelined PE may "
                f"reach at {self.technology.node_nm:g} nm and {self.technology.supply_v:g} V (constants/timing.csv)"
            )
        return self

    @cached_property
    def dram_bytes_per_cycle(self) -> float:
        return self.dram.bandwidth_gbytes_per_s * 1e3 / self.array.clock_mhz

    @cached_property
    def peak_tops(self) -> float:
        """10^12 operations a second, a MAC being two."""
        return 2 * self.array.pes * self.array.clock_mhz * 1e6 / 1e12

    def replaced(self, **changes: Any) -> Hardware:
        """A checked copy with changes by path: `array__overlap="shadow"`, `name="x"`."""
        values = self.model_dump()
        for path, value in changes.items():
            *parents, key = path.split("__")
            table = values
            for parent in parents:
                table = table[parent]
            table[key] = value
        return Hardware.model_validate(values)


def _names_a_part(model: Any, path: str) -> bool:
    for part in path.split("."):
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return False
        model = field.annotation
    return True


def shipped_hardware() -> dict[str, Path]:
    """Names of the files that come with the package."""
    folder = Path(str(resources.files("intaglio.accelerator") / "designs"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_hardware(name_or_path: str | Path) -> Hardware:
    """Read a hardware file, or a shipped one by its name (`cdm-qta-64x64`, or as in a checkout
    `hardware/cdm-qta-64x64.toml`)."""
    path, shipped = Path(name_or_path), shipped_hardware()
    if path.is_file():
        return _real(load_toml(path, Hardware), path)
    if str(path) in shipped or (path.parent.name == "hardware" and path.suffix == ".toml" and path.stem in shipped):
        return load_toml(shipped[path.stem], Hardware)
    hint = did_you_mean(path.stem, shipped)
    raise UserError(
        f"{name_or_path}: no such hardware file, and no shipped one of that name{hint}; shipped: {', '.join(shipped)}"
    )


def _real(hardware: Hardware, path: Path) -> Hardware:
    """Refuse a file that describes no array."""
    if hardware.array.overlap not in ARRAY_OVERLAPS:
        raise Problems(
            str(path),
            [
                "array.overlap: 'none' is SCALE-Sim's count and no array (it charges no drain); expected one of "
                f"{', '.join(ARRAY_OVERLAPS)}. To compare with SCALE-Sim: intaglio simulate --overlap none"
            ],
        )
    return hardware
