"""One real training step of the embedded model on the array in RTL: INT8 GEMMs, codes, the adapter, the cycles.

    python benchmarks/rtl/prove.py recipes/rtl-16x16.toml      # `make rtl`
    python benchmarks/rtl/prove.py recipes/rtl-64x64.toml      # `make rtl-64x64`

The same step runs twice from the same state: by the compiled kernels, recorded; and with its integer work on the
Verilated machine. `intaglio simulate --trace` maps the recorded GEMMs and says what each takes.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from array_step import OnArray, Row, Tally
from click.testing import CliRunner

from intaglio.accelerator.hardware import load_hardware
from intaglio.cli import simulate
from intaglio.cli.rtl import design_of
from intaglio.methods.base import ATTENTION_TARGETS
from intaglio.rtl.design import Edge
from intaglio.rtl.verify import VerilatedMachine, build
from intaglio.study.tasks.sample import sample_cat
from intaglio.trace.recorder import Recorder
from intaglio.trace.schema import Event, write_trace
from intaglio.training.optimizers import make_optimizer
from intaglio.training.plan import plan
from intaglio.training.prepare import Job, prepare
from intaglio.training.recipe import Recipe


class Step:
    """A run of `int8_lora` of rank 8, power-of-two scales, an image of 64 pixels a step."""

    def __init__(self, folder: Path):
        task = sample_cat()
        told = {
            "method": "int8_lora", "base": "int8", "rank": 8, "scale": "power_of_two", "train_batch_size": 1,
            "targets": ATTENTION_TARGETS, "max_train_steps": 2, "report_to": "none",
            "instance_data_dir": task.train_folder, "instance_prompt": task.instance_prompt, "output_dir": folder,
        }  # fmt: skip
        planned = plan(Recipe.model_validate(told), device="cpu")
        self.recipe = planned.recipe
        self.job: Job = prepare(planned, torch.device("cpu"), 0, 1)
        self.parameters = self.job.adapter.parameters()
        rate = self.recipe.optimizer.learning_rate_for(planned.method)
        self.optimizer = make_optimizer(self.recipe.optimizer.build(), self.parameters, rate)
        self.job.denoiser.train()

    def run(self, number: int) -> float:
        """As `training/loop.py`."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.job.loss(self.job.denoiser, self.job.batches(number), samples=1)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.optimizer.max_grad_norm)
        self.optimizer.step()
        return loss.item()


def main(hardware_file: str) -> int:
    started = time.perf_counter()
    hardware = load_hardware(hardware_file)
    design = design_of(hardware)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        by_kernels, by_array = Step(folder / "kernels"), Step(folder / "array")
        by_kernels.run(0)  # B is zero before the first step
        by_array.run(0)
        with Recorder() as recorder:
            loss = by_kernels.run(1)
        rows = simulated(recorder, hardware_file, folder)
        binary = build(design, folder / "verilog")
        built = time.perf_counter()
        with VerilatedMachine(design, binary) as machine, OnArray(machine, rows) as array:
            array_loss = by_array.run(1)
        ran = time.perf_counter()
    same = all(map(torch.equal, by_kernels.parameters, by_array.parameters)) and loss == array_loss
    print(table(hardware_file, array.tally, len(rows), same, loss, (built - started, ran - built)))
    tally = array.tally
    compared = (tally.equal_sums, tally.equal_cycles, tally.gemms)
    return 0 if same and compared == (len(rows),) * 3 and tally.equal_codes == tally.requantizations else 1


def simulated(recorder: Recorder, hardware_file: str, folder: Path) -> list[Row]:
    """The INT8 GEMMs of the trace in order, as `intaglio simulate --trace` maps them."""
    trace = recorder.trace(model="embedded", method="int8_lora")
    write_trace(folder / "step.jsonl", trace.header, trace.events)
    arguments = ["--trace", str(folder / "step.jsonl"), "--hardware", hardware_file, "--out", str(folder / "simulated")]
    done = CliRunner().invoke(simulate.command, [*arguments, "--no_report"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    with (folder / "simulated" / "operations.csv").open(encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if line["M"] not in ("", "0")]
    events = [event for event in trace.events if event.is_product]
    assert len(events) == len(lines)
    return [
        _row(event, line)
        for event, line in zip(events, lines, strict=True)
        if all(operand.bits == 8 for operand in event.operands)
    ]


TURNED: dict[tuple[str, str], tuple[Edge, ...]] = {
    ("output", "weight_stationary"): ("right",),
    ("output", "output_stationary"): ("left", "right"),
    ("grad_input", "output_stationary"): ("left",),
    ("grad_weight", "weight_stationary"): ("left",),
}
"""What must be turned of x W^T, g W and g^T h, all row by row in memory."""


def _row(event: Event, line: dict[str, str]) -> Row:
    turned = TURNED.get((event.pass_name, line["dataflow"]), ())
    if bool(turned) != (float(line["transposed_bytes"]) > 0):
        raise AssertionError(f"{event.layer} {event.pass_name}: {turned} against the model's {line}")
    return Row(
        event.M,
        event.N,
        event.K,
        line["dataflow"],
        int(float(line["compute_cycles"])),
        turned,  # type: ignore[arg-type]
    )


def table(hardware_file: str, tally: Tally, gemms: int, same: bool, loss: float, seconds: tuple[float, float]) -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    verilator = subprocess.run(["verilator", "--version"], capture_output=True, text=True).stdout.split(" 20")[0]
    equal = "equal" if same else "DIFFERENT"
    cycles = "equal" if tally.equal_cycles == gemms else "DIFFERENT"
    lines = [
        f"{tally.equal_sums} of {gemms} products equal, adapter {equal}, cycles {cycles}",
        "",
        f"{'hardware':<28}{hardware_file}, {verilator}, commit {commit}",
        f"{'INT8 GEMMs with equal sums':<28}{tally.equal_sums:,} of {gemms:,}",
        f"{'GEMMs with equal cycles':<28}{tally.equal_cycles:,} of {gemms:,}",
        f"{'requantizations':<28}{tally.equal_codes:,} of {tally.requantizations:,} with equal codes and exponents",
        f"{'compute cycles':<28}{tally.array_cycles:,} on the array, {tally.model_cycles:,} by simulate --trace",
        f"{'operands turned':<28}{tally.turned:,} by transposers, `rows` cycles to fill a product",
        f"{'cycles of the machine':<28}{tally.machine_cycles:,}, with loads, stores and requantizations",
        f"{'loss of the step':<28}{loss!r}",
        f"{'time':<28}{seconds[0]:.0f} s to prepare and build, {seconds[1]:.0f} s to run",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
