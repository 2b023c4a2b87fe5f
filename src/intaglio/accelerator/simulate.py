"""One step on one accelerator: the cost of every operation, and their sums."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from intaglio.accelerator.constants import Interval
from intaglio.accelerator.cost import Costs, Float, cost_products, vector_cycles_per_element, vector_kind
from intaglio.accelerator.dataflow import Dataflow, Int
from intaglio.accelerator.energy import PARTS, Prices, prices_of
from intaglio.accelerator.hardware import Hardware
from intaglio.accelerator.schedule import Prepared, prepare
from intaglio.accelerator.workload import Label, Workload
from intaglio.errors import UserError

DataflowChoice = Literal["best", "weight_stationary", "output_stationary"]


@dataclass(frozen=True)
class VectorCosts:
    """One row a piece of vector work. `latency_cycles` is 0 for what runs beside the array."""

    labels: tuple[Label, ...]
    elements: Int
    vector_cycles: Float
    dram_bytes: Float
    latency_cycles: Float
    fused: Int
    energy_pj: Float  # (rows, parts, 3)


@dataclass(frozen=True)
class StepCost:
    """Costs of a step. Rows of `costs` are one occurrence of each operation; `count` occurrences make the step.

    share: of a packed product, the part that belongs to the row; 1 for what runs alone. packed: rows in the pack, 1
    alone.
    """

    hardware: Hardware
    prepared: Prepared
    costs: Costs
    share: Float
    packed: Int
    vector: VectorCosts
    prices: Prices

    @property
    def labels(self) -> tuple[Label, ...]:
        return self.prepared.labels

    @property
    def count(self) -> Int:
        return self.prepared.products.count[: self.prepared.rows]

    @property
    def weight(self) -> Float:
        """What a row's costs are multiplied by to make the step."""
        return self.share * self.count

    @property
    def macs(self) -> Int:
        return self.prepared.products.macs[: self.prepared.rows]

    @property
    def product_cycles(self) -> float:
        return float((self.costs.latency_cycles * self.weight).sum())

    @property
    def exposed_fused_cycles(self) -> float:
        """Fused vector work that does not fit beside the array."""
        fused = float((self.vector.vector_cycles * self.vector.fused).sum())
        return max(0.0, fused - self.product_cycles)

    @property
    def latency_cycles(self) -> float:
        return self.product_cycles + float(self.vector.latency_cycles.sum()) + self.exposed_fused_cycles

    @property
    def compute_cycles(self) -> float:
        return float((self.costs.compute_cycles * self.weight).sum())

    @property
    def latency_ms(self) -> float:
        return self.latency_cycles / (self.hardware.array.clock_mhz * 1e3)

    @property
    def dram_bytes(self) -> float:
        return float((self.costs.dram_bytes * self.weight).sum() + self.vector.dram_bytes.sum())

    @property
    def static_pj(self) -> Interval:
        return self.prices.leakage_mw * self.latency_ms * 1e6  # mW ms = uJ

    @property
    def energy_parts_pj(self) -> Float:
        """(parts, 3): mac, register, sram, dram, vector, static."""
        total = np.einsum("rpi,r->pi", self.costs.energy_pj, self.weight) + self.vector.energy_pj.sum(axis=0)
        total[PARTS.index("static")] += self.static_pj
        return total

    @property
    def energy_mj(self) -> Interval:
        return self.energy_parts_pj.sum(axis=0) / 1e9

    @property
    def overall_utilization(self) -> float:
        """Useful MACs over what the PEs could do in the step's whole time. Work done again counts once."""
        useful = self.prepared.workload.macs
        return useful / (self.hardware.array.pes * self.latency_cycles)

    @property
    def tops_per_w(self) -> Interval:
        """Useful 10^12 operations a joule, [low, typical, high]."""
        return (2 * self.prepared.workload.macs / 1e12) / (self.energy_mj[::-1] / 1e3)


def simulate(workload: Workload, hardware: Hardware, dataflow: DataflowChoice = "best") -> StepCost:
    """Cost a step. Raises `UserError` for a dataflow that the hardware lacks, and for a product that fits nowhere."""
    return simulate_prepared(prepare(workload, hardware.schedule.fused_attention), hardware, dataflow)


def simulate_prepared(prepared: Prepared, hardware: Hardware, dataflow: DataflowChoice = "best") -> StepCost:
    """As `simulate`, with what does not depend on the design done before (many designs on one step)."""
    prices = prices_of(hardware)
    distinct = cost_products(prepared.tiler, hardware, prices, _allowed(hardware, dataflow), prepared.distinct_names)
    rows = prepared.rows
    where = prepared.inverse[:rows].copy()
    share, packed = np.ones(rows), np.ones(rows, dtype=np.int64)
    if hardware.schedule.packing and prepared.groups:
        _choose_packs(prepared, hardware, distinct, where, share, packed)
    vector = _vector_costs(prepared, hardware, prices)
    return StepCost(hardware, prepared, distinct.take(where), share, packed, vector, prices)


def _allowed(hardware: Hardware, dataflow: DataflowChoice) -> tuple[Dataflow, ...]:
    if dataflow == "best":
        return hardware.array.modes
    if dataflow not in hardware.array.modes:
        raise UserError(
            f"{hardware.name} has no {dataflow} mode, only {', '.join(hardware.array.modes)}; "
            "choose --dataflow best, or add the mode to `array.modes` of the hardware file"
        )
    return (dataflow,)


def _choose_packs(
    prepared: Prepared, hardware: Hardware, distinct: Costs, where: Int, share: Float, packed: Int
) -> None:
    """Pack a group where that is better than its rows one after another; `where`, `share`, `packed` change in place."""
    rows, groups = prepared.rows, prepared.groups
    member = prepared.group_of >= 0
    value = _objective(hardware, distinct)
    alone = np.bincount(prepared.group_of[member], value[where[member]], minlength=groups)
    packs = prepared.inverse[rows:]
    chosen = (value[packs] < alone)[prepared.group_of] & member
    columns = prepared.products.N[:rows]
    total = np.bincount(prepared.group_of[member], columns[member], minlength=groups)
    size = np.bincount(prepared.group_of[member], minlength=groups)
    group = prepared.group_of[chosen]
    where[chosen] = packs[group]
    share[chosen] = columns[chosen] / total[group]
    packed[chosen] = size[group]


def _objective(hardware: Hardware, costs: Costs) -> Float:
    energy = costs.energy_pj[..., 1].sum(axis=-1)
    if hardware.schedule.objective == "energy":
        return energy
    return costs.latency_cycles * (energy if hardware.schedule.objective == "energy_delay" else 1.0)


def _vector_costs(prepared: Prepared, hardware: Hardware, prices: Prices) -> VectorCosts:
    """Vector work: fused kinds without DRAM traffic beside the array, others one after another."""
    labels, elements = prepared.workload.vector_labels, prepared.workload.vector_elements
    kinds, index = prepared.vector
    # A float array runs the unquantized step; an integer array multiplies the codes of a weight as they are.
    needless = "quantize" if hardware.array.number == "float" else "dequantize"
    if needless in kinds:
        keep = np.flatnonzero(index != kinds.index(needless))
        labels, elements, index = tuple(labels[i] for i in keep), elements[keep], index[keep]
    fused_kinds = {*hardware.vector.fused, "dequantize"} | ({"softmax"} if hardware.schedule.fused_attention else set())
    per_kind = [
        (
            vector_cycles_per_element(hardware, kind),
            vector_kind(kind)[1] * (4 if kind == "adamw" else hardware.array.result_bits / 8),
            kind in fused_kinds,
        )
        for kind in kinds
    ]
    of_kind = np.array(per_kind, dtype=np.float64).reshape(-1, 3)[index]
    work = elements * of_kind[:, 0]
    cycles = np.ceil(work / hardware.vector.lanes)
    fused = of_kind[:, 2].astype(np.int64)
    traffic = elements * of_kind[:, 1]
    dram = traffic * (1 - fused)
    latency = (np.maximum(cycles, np.ceil(dram / hardware.dram_bytes_per_cycle)) * (1 - fused)).astype(np.float64)
    energy = np.zeros((len(labels), len(PARTS), 3))
    energy[:, PARTS.index("vector")] = work[:, None] * prices.vector_pj
    energy[:, PARTS.index("sram")] = traffic[:, None] * prices.sram_read_pj_per_byte[2]
    energy[:, PARTS.index("dram")] = dram[:, None] * prices.dram_pj_per_byte
    return VectorCosts(labels, elements, cycles, dram, latency, fused, energy)


def rows_of(step: StepCost) -> dict[str, Int | Float]:
    """Columns of the table per operation: a row's own share of its costs, one occurrence."""
    costs, products = step.costs, step.prepared.products
    scaled = {"compute_cycles", "dram_cycles", "latency_cycles"}
    columns: dict[str, Int | Float] = {
        name: getattr(products, name)[: step.prepared.rows] for name in ("M", "N", "K", "batch")
    }
    for field in fields(costs):
        value = getattr(costs, field.name)
        columns[field.name] = value * step.share if field.name in scaled else value
    return columns
