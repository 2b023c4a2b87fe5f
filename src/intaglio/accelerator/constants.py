"""Named physical constants, read from `constants/*.csv`, each row with its source; scaled to a node, as low,
typical, high.

An interval is an array of three: [low, typical, high]. Low and high are the ends of what sources say, not a confidence.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

Interval = NDArray[np.float64]
SETS = ("horowitz_45nm", "aladdin_40nm")


@cache
def table(name: str) -> tuple[dict[str, str], ...]:
    """Rows of `constants/<name>.csv`."""
    text = (resources.files("intaglio.accelerator") / "constants" / f"{name}.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


@cache
def arithmetic(arithmetic_set: str, name: str) -> float:
    """An energy (pJ) or leakage (mW/mm2) at 45 nm, 0.9 V."""
    rows = (r for r in table("arithmetic") if r["set"] in (arithmetic_set, "both") and r["name"] == name)
    return float(next(rows)["value"])


@cache
def _interval(file: str, name: str) -> tuple[float, float, float]:
    row = next(r for r in table(file) if r["name" if file == "area" else "component"] == name)
    if file == "area":
        return float(row["low"]), float(row["typical"]), float(row["high"])
    return float(row["low_factor"]), 1.0, float(row["high_factor"])


def area_constant(name: str) -> Interval:
    return np.array(_interval("area", name))


def uncertainty(component: str) -> Interval:
    """Factors on a typical value."""
    return np.array(_interval("uncertainty", component))


@cache
def energy_scale(node_nm: float, supply_v: float) -> float:
    """Dynamic energy at a node and supply over that at 45 nm, 0.9 V; linear between the table's nodes."""
    return _energy_units(node_nm, supply_v) / _energy_units(45, 0.9)


@cache
def area_scale(node_nm: float) -> float:
    """Logic area at a node over that at 45 nm; linear between the table's nodes."""
    nodes, values = _column("area_factor")
    return float(np.interp(node_nm, nodes, values))


@cache
def fastest_clock_mhz(node_nm: float, supply_v: float) -> float:
    """What a pipelined PE may reach: a bound to catch mistakes, not a timing. Delay goes with the node's length."""
    value = {row["name"]: float(row["value"]) for row in table("timing")}

    def delay(volt: float) -> float:
        return volt / (volt - value["threshold_v"]) ** value["alpha"]

    return value["mac_mhz"] * value["pipelined"] * 45 / node_nm * delay(0.9) / delay(supply_v)


def scaling_uncertainty(node_nm: float) -> Interval:
    return np.ones(3) if node_nm == 45 else uncertainty("scaling")


def _column(name: str) -> tuple[list[float], list[float]]:
    rows = sorted((float(r["node_nm"]), float(r[name])) for r in table("technology"))
    return [node for node, _ in rows], [value for _, value in rows]


def _energy_units(node_nm: float, supply_v: float) -> float:
    rows = sorted(table("technology"), key=lambda r: float(r["node_nm"]))
    nodes = [float(r["node_nm"]) for r in rows]
    values = [float(r["energy_a"]) * supply_v**2 + float(r["energy_b"]) * supply_v + float(r["energy_c"]) for r in rows]
    return float(np.interp(node_nm, nodes, values))
