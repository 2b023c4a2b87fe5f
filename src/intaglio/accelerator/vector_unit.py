"""Costs of the work that is no product: norms, activations, softmax, quantizers, the optimizer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from intaglio.accelerator.cost import Costs
from intaglio.accelerator.dataflow import Float, Int
from intaglio.accelerator.energy import PARTS, Prices
from intaglio.accelerator.hardware import Hardware
from intaglio.accelerator.schedule import Prepared
from intaglio.accelerator.vector_kinds import bytes_per_element, cycles_per_element, known_kinds
from intaglio.accelerator.workload import Label

UNKNOWN_OPTIMIZER = "adamw"  # what an optimizer that the table lacks is charged as


@dataclass(frozen=True)
class VectorCosts:
    """One row a piece of vector work. `latency_cycles` of fused work is what did not fit beside the array."""

    labels: tuple[Label, ...]
    elements: Int
    vector_cycles: Float  # of all lanes together
    dram_bytes: Float
    latency_cycles: Float
    fused: Int
    energy_pj: Float  # (rows, parts, 3)


def cost_vector_work(
    prepared: Prepared, hardware: Hardware, prices: Prices, costs: Costs, weight: Float
) -> VectorCosts:
    """Fused kinds without DRAM traffic beside their products, others one after another.

    Args:
        costs, weight: of the step's products; `weight` occurrences of each.
    """
    labels, elements = prepared.vector_labels, prepared.vector_elements
    kinds, index = prepared.vector
    per_kind = np.array([_of_kind(kind, hardware) for kind in kinds], dtype=np.float64).reshape(-1, 3)
    of_row = per_kind[index]
    for i, label in enumerate(labels):
        if label.pass_name == "optimizer" and label.kind not in known_kinds():
            of_row[i] = _of_kind(UNKNOWN_OPTIMIZER, hardware)
    # A float array runs the unquantized step; an integer array multiplies the codes of a weight as they are.
    needless = "quantize" if hardware.array.number == "float" else "dequantize"
    runs = index != kinds.index(needless) if needless in kinds else np.ones(len(labels), dtype=bool)
    elements = elements * runs
    work = elements * of_row[:, 0]
    cycles: Float = np.ceil(work / hardware.vector.lanes)
    fused = of_row[:, 2].astype(np.int64)
    traffic = elements * of_row[:, 1]
    dram = traffic * (1 - fused)
    free = np.maximum(costs.latency_cycles - costs.vector_cycles, 0) * weight
    exposed = prepared.lanes.exposed(free, cycles * fused)
    alone = np.maximum(cycles, np.ceil(dram / hardware.dram_bytes_per_cycle)) * (1 - fused)
    energy = np.zeros((len(labels), len(PARTS), 3))
    energy[:, PARTS.index("vector")] = work[:, None] * prices.vector_pj
    energy[:, PARTS.index("sram")] = traffic[:, None] * prices.sram_read_pj_per_byte[2]
    energy[:, PARTS.index("dram")] = dram[:, None] * prices.dram_pj_per_byte
    keep = np.flatnonzero(runs)
    return VectorCosts(
        labels if runs.all() else tuple(labels[i] for i in keep),
        elements[keep],
        cycles[keep],
        dram[keep],
        (alone + exposed)[keep],
        fused[keep],
        energy[keep],
    )


def _of_kind(kind: str, hardware: Hardware) -> tuple[float, float, bool]:
    """(cycles of a lane, bytes) an element, and whether it runs beside the array."""
    fused = kind in (*hardware.vector.fused, "dequantize") or (kind == "softmax" and hardware.schedule.fused_attention)
    return cycles_per_element(hardware, kind), bytes_per_element(kind, hardware.array.result_bits), fused
