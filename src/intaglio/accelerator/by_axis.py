"""What each value of an axis can reach: the fastest design that has it, within the base's area, beside the base.

In a grid that is costed whole, two values of an axis have met the same companions: what lies between their fastest
designs is what the choice is worth. Energies and areas come with the range of their sources, taken corner by corner.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from intaglio.accelerator.area import area_of
from intaglio.accelerator.axes import design_at
from intaglio.accelerator.exploration import Space
from intaglio.accelerator.hardware import Hardware
from intaglio.accelerator.schedule import Prepared
from intaglio.accelerator.simulate import simulate_prepared
from intaglio.accelerator.views import compare


def fastest_by_axis(
    space: Space,
    base: Hardware,
    prepared: dict[bool, Prepared],
    valid: list[dict[str, str]],
    figures: NDArray[np.float64],
) -> list[dict[str, Any]]:
    """One row a value of an axis that has several.

    Args:
        valid: rows of designs.csv that could run. figures: their latency, energy and area.
    """
    area = float(area_of(base).total_mm2[1])
    within = figures[:, 2] <= area * (1 + 1e-9)
    rows = []
    for axis, options in space.used.items():
        for value in options if len(options) > 1 else ():
            of = np.array([row[axis] == str(value) for row in valid]) & within
            if not of.any():
                rows.append({"axis": axis, "value": str(value), "designs": 0} | dict.fromkeys(COLUMNS, ""))
                continue
            best = int(np.flatnonzero(of)[np.lexsort((figures[of, 1], figures[of, 0]))[0]])
            design = design_at(base, space.point(int(valid[best]["index"])))
            rows.append({"axis": axis, "value": str(value), "designs": int(of.sum())} | _beside(design, base, prepared))
    return rows


COLUMNS = (
    *("latency_ms", "energy_mj", "area_mm2", "speed_up", "energy_efficiency", "energy_efficiency_low"),
    *("energy_efficiency_high", "area_efficiency", "area_efficiency_low", "area_efficiency_high"),
)


def _beside(design: Hardware, base: Hardware, prepared: dict[bool, Prepared]) -> dict[str, Any]:
    step = simulate_prepared(prepared[design.schedule.fused_attention], design)
    (found,) = compare(step, prepared[base.schedule.fused_attention], {base.name: base})
    low, typical, high = (round(float(v), 4) for v in found.energy_efficiency)
    area_low, area, area_high = (round(float(v), 4) for v in found.area_efficiency)
    values = (
        *(round(step.latency_ms, 2), round(float(step.energy_mj[1]), 1), round(float(area_of(design).total_mm2[1]), 3)),
        *(round(found.speed_up, 4), typical, low, high, area, area_low, area_high),
    )
    return dict(zip(COLUMNS, values, strict=True))
