"""Energy, area and leakage of an SRAM from the CACTI 7 table: log-log between sizes and between nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from intaglio.accelerator.constants import area_constant, area_scale, arithmetic, energy_scale, table
from intaglio.accelerator.hardware import Buffer, Technology

ACCESS_BYTES = 32  # of the table
SMALLEST_KIB = 8  # of the table: a smaller memory is charged the energy of this one


@dataclass(frozen=True, slots=True)
class Sram:
    """A buffer of `banks` equal banks behind a crossbar; typical values."""

    banks: int
    read_pj_per_byte: float
    write_pj_per_byte: float
    area_mm2: float
    leakage_mw: float


def sram_of(buffer: Buffer, technology: Technology) -> Sram:
    """A byte costs what it costs in the whole memory, whose wires it crosses however many others it travels with, and
    its way through the crossbar between the port and as many banks of 32 bytes as the port is wide. Single-port
    memory is charged as 1R1W (the table's kind)."""
    return _sram(
        buffer.size_bytes,
        buffer.bandwidth_bytes_per_cycle,
        technology.node_nm,
        technology.supply_v,
        technology.sram_device,
    )


@cache
def _sram(size_bytes: int, bandwidth_bytes_per_cycle: float, node_nm: float, supply_v: float, device: str) -> Sram:
    banks = max(1, math.ceil(bandwidth_bytes_per_cycle / ACCESS_BYTES))
    kib = size_bytes / 1024
    read, write = (_at(node_nm, device, max(kib, SMALLEST_KIB), name) for name in ("read_pj", "write_pj"))
    area, leakage = (_at(node_nm, device, kib, name) for name in ("area_mm2", "leakage_mw"))
    voltage = energy_scale(node_nm, supply_v) / energy_scale(node_nm, 0.9)
    crossbar_mm2 = _crossbar_mm2(banks, node_nm)
    wire = float(arithmetic("both", "wire_per_bit_mm"))
    way = 8 * wire * math.sqrt(crossbar_mm2) * (supply_v / 0.9) ** 2
    return Sram(
        banks,
        read / ACCESS_BYTES * voltage + way,
        write / ACCESS_BYTES * voltage + way,
        area + crossbar_mm2,
        leakage + crossbar_mm2 * arithmetic("both", "leakage_per_mm2"),
    )


def _crossbar_mm2(banks: int, node_nm: float) -> float:
    """For each of `banks` words of the port a multiplexer over all banks, reads and writes."""
    multiplexers = 2 * banks * (banks - 1) * ACCESS_BYTES * 8
    um2 = multiplexers * area_constant("multiplexer_per_bit")[1] / area_constant("cell_utilization")[1]
    return float(um2) * area_scale(node_nm) / 1e6


@cache
def _at(node_nm: float, device: str, size_kib: float, name: str) -> float:
    nodes = sorted({float(r["node_nm"]) for r in table("sram")})
    logs = [math.log(_at_node(node, device, size_kib, name)) for node in nodes]
    if node_nm >= nodes[0]:
        return math.exp(float(np.interp(math.log(node_nm), np.log(nodes), logs)))
    ratio = (
        area_scale(node_nm) / area_scale(nodes[0])
        if name == "area_mm2"
        else energy_scale(node_nm, 0.9) / energy_scale(nodes[0], 0.9)
    )
    return math.exp(logs[0]) * ratio


@cache
def _at_node(node_nm: float, device: str, size_kib: float, name: str) -> float:
    """A power law through the two nearest sizes of the table, also beyond its ends (8 and 512 KiB)."""
    rows = [r for r in table("sram") if float(r["node_nm"]) == node_nm and r["device"] == device]
    x = np.log([float(r["size_kib"]) for r in rows])
    y = np.log([float(r[name]) for r in rows])
    i = int(np.clip(np.searchsorted(x, math.log(size_kib)) - 1, 0, len(x) - 2))
    slope = (y[i + 1] - y[i]) / (x[i + 1] - x[i])
    return math.exp(float(y[i] + slope * (math.log(size_kib) - x[i])))
