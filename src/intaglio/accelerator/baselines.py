"""The designs that a design is compared with, derived from it: same clock, buffers, DRAM and node, one thing changed
each.

For `cdm-qta-64x64` they are the shipped files of these names (a test holds it).
"""

from __future__ import annotations

from intaglio.accelerator.area import area_of
from intaglio.accelerator.hardware import Hardware, Schedule

BASELINES = ("fixed-ws", "fixed-os", "fixed-ws-shadow", "fp16-fixed", "fp16-equal-area")
REASONS = {
    "fixed-ws": "the same PEs in the same format, whole array, always weight-stationary, one register a PE",
    "fixed-os": "the same PEs in the same format, whole array, always output-stationary, one register a PE",
    "fixed-ws-shadow": "fixed-ws with a second register a PE, so that loads hide: the best that one dataflow does",
    "fp16-fixed": "as many PEs in FP16 with FP32 sums, weight-stationary, unquantized LoRA training",
    "fp16-equal-area": "the FP16 array of about the same area, weight-stationary, unquantized LoRA training",
}


def baselines_of(hardware: Hardware) -> dict[str, Hardware]:
    """Name -> design."""
    rows, cols, lanes = hardware.array.rows, hardware.array.cols, hardware.vector.lanes
    fixed = {
        mode: _plain(hardware, f"fixed-{mode[:2]}", rows, cols, lanes, 8).replaced(
            array__modes=(mode_name,),
            array__operand_bits=hardware.array.operand_bits,
            array__result_bits=hardware.array.result_bits,
            array__number=hardware.array.number,
        )
        for mode, mode_name in (("ws", "weight_stationary"), ("os", "output_stationary"))
    }
    fp16 = _float16(_plain(hardware, "fp16-fixed", rows, cols, lanes, 16))
    target = float(area_of(hardware).total_mm2[1])
    sides = range(4, max(rows, cols) + 1, 4) or range(1, max(rows, cols) + 1)
    candidates = [_float16(_plain(hardware, "fp16-equal-area", n, n, n, 16)) for n in sides]
    equal = min(candidates, key=lambda h: abs(float(area_of(h).total_mm2[1]) - target))
    shadow = fixed["ws"].replaced(name="fixed-ws-shadow", array__overlap="shadow")
    found = (fixed["ws"], fixed["os"], shadow, fp16, equal)
    return {hardware.name: hardware for hardware in found}


def _plain(hardware: Hardware, name: str, rows: int, cols: int, lanes: int, bits: int) -> Hardware:
    """The design's surroundings around a plain array of one register a PE; ports of one element a row and a column."""
    return hardware.replaced(
        name=name,
        array__rows=rows,
        array__cols=cols,
        array__overlap="wavefront",
        array__partition="1x1",
        vector__lanes=lanes,
        buffers__input__bandwidth_bytes_per_cycle=rows * bits / 8,
        buffers__weight__bandwidth_bytes_per_cycle=cols * bits / 8,
        buffers__output__bandwidth_bytes_per_cycle=cols * 4,
        schedule=Schedule().model_dump(),
        assumed={},
    )


def _float16(hardware: Hardware) -> Hardware:
    return hardware.replaced(
        array__number="float",
        array__operand_bits=16,
        array__accumulator_bits=32,
        array__result_bits=16,
        array__modes=("weight_stationary",),
    )
