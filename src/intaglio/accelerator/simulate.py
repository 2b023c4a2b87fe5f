"""One step on one accelerator: the cost of every operation, and their sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from intaglio.accelerator.constants import Interval
from intaglio.accelerator.cost import Costs, cost_products
from intaglio.accelerator.dataflow import Dataflow, Float, Int
from intaglio.accelerator.energy import PARTS, Prices, prices_of
from intaglio.accelerator.hardware import Hardware
from intaglio.accelerator.schedule import Prepared, prepare
from intaglio.accelerator.vector_unit import VectorCosts, cost_vector_work
from intaglio.accelerator.workload import Label, Workload
from intaglio.errors import UserError

DataflowChoice = Literal["best", "weight_stationary", "output_stationary"]


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
    def executed_macs(self) -> Float:
        """Of each row, work done again included."""
        return self.prepared.products.macs[: self.prepared.rows]

    @property
    def macs(self) -> Float:
        """Useful ones of each row: work done again counts once."""
        return self.executed_macs * ~np.array([label.again for label in self.labels])

    @property
    def product_cycles(self) -> float:
        return float((self.costs.latency_cycles * self.weight).sum())

    @property
    def latency_cycles(self) -> float:
        return self.product_cycles + float(self.vector.latency_cycles.sum())

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
        value = _objective(hardware, prices, distinct)
        _choose_packs(prepared, value, where, share, packed)
    costs = distinct.take(where)
    vector = cost_vector_work(prepared, hardware, prices, costs, share * prepared.products.count[:rows])
    return StepCost(hardware, prepared, costs, share, packed, vector, prices)


def _allowed(hardware: Hardware, dataflow: DataflowChoice) -> tuple[Dataflow, ...]:
    if dataflow == "best":
        return hardware.array.modes
    if dataflow not in hardware.array.modes:
        raise UserError(
            f"{hardware.name} has no {dataflow} mode, only {', '.join(hardware.array.modes)}; "
            "choose --dataflow best, or add the mode to `array.modes` of the hardware file"
        )
    return (dataflow,)


def _choose_packs(prepared: Prepared, value: Float, where: Int, share: Float, packed: Int) -> None:
    """Pack a group where that is better than its rows one after another; `where`, `share`, `packed` change in place.

    value: what the scheduler minimises, of each distinct product.
    """
    rows, groups = prepared.rows, prepared.groups
    member = prepared.group_of >= 0
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


def _objective(hardware: Hardware, prices: Prices, costs: Costs) -> Float:
    """Latency, energy with the leakage of its time, or their product."""
    energy = costs.energy_pj[..., 1].sum(axis=-1) + costs.latency_cycles * prices.leakage_pj_per_cycle[1]
    if hardware.schedule.objective == "energy":
        return energy
    return costs.latency_cycles * (energy if hardware.schedule.objective == "energy_delay" else 1.0)
