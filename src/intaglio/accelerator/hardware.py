"""What a hardware TOML file says: array, buffers, vector unit, DRAM, technology, and what the scheduler may use.

Every number is an input; what no publication states is listed under `[assumed]` with its reason.
"""

from __future__ import annotations

from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from intaglio.accelerator.dataflow import Dataflow, Overlap
from intaglio.config import StrictModel, load_toml
from intaglio.errors import UserError, did_you_mean

Bits = Annotated[int, Field(ge=2, le=32)]


class Array(StrictModel):
    """The PE array. `partition` cuts it into n x n sub-arrays that run other folds at the same time."""

    rows: PositiveInt
    cols: PositiveInt
    modes: tuple[Dataflow, ...] = Field(min_length=1)
    clock_mhz: PositiveFloat
    number: Literal["integer", "float"] = "integer"
    operand_bits: Bits = 8
    accumulator_bits: Bits = 32
    result_bits: Bits = 8
    overlap: Overlap = "serial"
    partition: Literal["1x1", "2x2", "4x4"] = "1x1"

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
        if self.accumulator_bits < self.operand_bits:
            raise ValueError("accumulator_bits must not be below operand_bits")
        return self

    @property
    def partition_side(self) -> int:
        return int(self.partition[0])

    @property
    def pes(self) -> int:
        return self.rows * self.cols


class Buffer(StrictModel):
    """On-chip SRAM. With 2 ports reads and writes have `bandwidth_bytes_per_cycle` each; with 1 they share it."""

    size_bytes: PositiveInt
    bandwidth_bytes_per_cycle: PositiveFloat
    ports: Literal[1, 2] = 2


class Buffers(StrictModel):
    """Buffers of the left operand, the right operand and the results; half of each is usable when double-buffered."""

    input: Buffer
    weight: Buffer
    output: Buffer
    double_buffered: bool = True


class VectorUnit(StrictModel):
    """`cycles_per_element` of each kind of work on one lane. `fused` kinds run beside the array, without DRAM
    traffic."""

    lanes: PositiveInt
    fused: tuple[str, ...] = ("quantize", "silu", "gelu", "geglu")
    cycles_per_element: dict[str, PositiveFloat] = Field(default_factory=dict)


class Dram(StrictModel):
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


class Technology(StrictModel):
    """Node and supply of the logic, device type of the SRAM table, set of arithmetic constants."""

    node_nm: float = Field(ge=7, le=65)
    supply_v: float = Field(default=0.9, ge=0.5, le=1.2)
    sram_device: Literal["itrs-hp", "itrs-lop", "itrs-lstp"] = "itrs-lop"
    arithmetic: Literal["horowitz_45nm", "aladdin_40nm"] = "horowitz_45nm"


class Schedule(StrictModel):
    """What the scheduler may use beyond one product after another on the whole array.

    temporal_tiling: cut the streamed dimension so that partial sums stay on chip.
    packing: products with the same left operand become one (`X [W0 A]`, `G [W0^T B^T]`, q/k/v, all text keys and
    values).
    split: sub-arrays share one product by its streamed dimension (split-K in OS, split-M in WS); needs a partition.
    operand_swap: compute the transposed product, so that the left operand may be the stationary one.
    fused_attention: keep scores and probabilities on chip; the backward pass computes them again.
    """

    temporal_tiling: bool = True
    packing: bool = False
    split: bool = False
    operand_swap: bool = False
    fused_attention: bool = False
    objective: Literal["latency", "energy", "energy_delay"] = "latency"


PLAIN = Schedule(temporal_tiling=False)


class Hardware(StrictModel):
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
        known = {"array", "buffers", "vector", "dram", "technology", "schedule"}
        for path in assumed:
            if path.split(".")[0] not in known:
                raise ValueError(
                    f"{path!r} names no part of the hardware{did_you_mean(path, known)}; known: {sorted(known)}"
                )
        return assumed

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


def shipped_hardware() -> dict[str, Path]:
    """Names of the files that come with the package."""
    folder = Path(str(resources.files("intaglio.accelerator") / "designs"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_hardware(name_or_path: str | Path) -> Hardware:
    """Read a hardware file, or a shipped one by its name (`cdm-qta-64x64`, or as in a checkout
    `hardware/cdm-qta-64x64.toml`)."""
    path, shipped = Path(name_or_path), shipped_hardware()
    if path.is_file():
        return load_toml(path, Hardware)
    if str(path) in shipped or (path.parent.name == "hardware" and path.suffix == ".toml" and path.stem in shipped):
        return load_toml(shipped[path.stem], Hardware)
    hint = did_you_mean(path.stem, shipped)
    raise UserError(
        f"{name_or_path}: no such hardware file, and no shipped one of that name{hint}; shipped: {', '.join(shipped)}"
    )
