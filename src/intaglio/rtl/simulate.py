"""Runs a program in Amaranth's simulator: slow, exact, no other tool."""

# Amaranth makes the members of a component when it runs, so no checker knows them.
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

from __future__ import annotations

from typing import Any

import numpy as np
from amaranth.sim import Simulator

from intaglio.rtl.design import Design
from intaglio.rtl.machine import Machine
from intaglio.rtl.program import Bytes, Program

MOST_CYCLES = 200_000


class Stuck(RuntimeError):
    """The machine did not come to rest."""


def run(program: Program, design: Design | None = None, most_cycles: int = MOST_CYCLES) -> tuple[Bytes, int, int]:
    """The words that the program stores, `gemm_cycles`, and the cycles until the machine was idle.

    Raises:
        Stuck: after `most_cycles`.
    """
    machine = Machine(design or program.design)
    stored: list[bytes] = []
    width, cycles = -(-len(machine.out_data) // 8), [0, 0]

    async def bench(context: Any) -> None:
        instructions, beats = (
            iter(program.instructions),
            (int.from_bytes(beat.tobytes(), "little") for beat in program.beats()),
        )
        context.set(machine.out_ready, 1)
        for name, source in (("instruction", instructions), ("in_data", beats)):
            _offer(context, machine, name, next(source, None))
        for cycle in range(most_cycles):
            values = [context.get(getattr(machine, name)) for name in _WATCHED]
            idle, instruction_ready, in_ready, in_valid, out_valid = values
            if out_valid:
                stored.append(context.get(machine.out_data).to_bytes(width, "little"))
            if idle:
                cycles[:] = cycle, context.get(machine.gemm_cycles)
                return
            await context.tick()
            if instruction_ready:
                _offer(context, machine, "instruction", next(instructions, None))
            if in_ready and in_valid:
                _offer(context, machine, "in_data", next(beats, None))
        raise Stuck(f"not idle after {most_cycles} cycles; {len(stored)} of {program.stored} words were stored")

    simulator = Simulator(machine)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    words = np.frombuffer(b"".join(stored), dtype=np.uint8).reshape(-1, width)
    return words, cycles[1], cycles[0]


_WATCHED = ("idle", "instruction_ready", "in_ready", "in_valid", "out_valid")


def _offer(context: Any, machine: Machine, name: str, value: int | None) -> None:
    """Put the next word of a stream on its port, or nothing."""
    context.set(getattr(machine, f"{name.removesuffix('_data')}_valid"), value is not None)
    if value is not None:
        context.set(getattr(machine, name), value)
