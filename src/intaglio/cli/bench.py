"""`intaglio bench`: time and memory of one training step on this machine, peers and ours alternating."""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import click

from intaglio.cli import SETTINGS
from intaglio.errors import UnknownChoice, UserError

MIB = 2**20


@dataclass(frozen=True)
class Contestant:
    """One row of the table. `method` None: LoRA by diffusers and PEFT on the float model."""

    title: str
    method: str | None
    options: dict[str, Any]
    dtype: str = "float32"
    checkpointing: bool = False


BOTH = {"integer_gemms": ("output", "grad_input")}
CONTESTANTS = {
    "peft": Contestant("diffusers + PEFT LoRA, float32", None, {}),
    "peft-bf16": Contestant("diffusers + PEFT LoRA, bfloat16", None, {}, "bfloat16"),
    "peft-bf16-ckpt": Contestant("the same, gradient checkpointing", None, {}, "bfloat16", True),
    "qlora": Contestant("qlora int4, float products", "qlora", {"base": "int4"}),
    "qlora-int": Contestant("qlora int4, integer products, bfloat16", "qlora", {"base": "int4", **BOTH}, "bfloat16"),
    "qlora-int-ckpt": Contestant(
        "the same, gradient checkpointing", "qlora", {"base": "int4", **BOTH}, "bfloat16", True
    ),
    "qlora-int8": Contestant("qlora int8, integer products, bfloat16", "qlora", {"base": "int8", **BOTH}, "bfloat16"),
    "qlora-nf4": Contestant("qlora nf4, integer products, bfloat16", "qlora", {"base": "nf4", **BOTH}, "bfloat16"),
    "int8_lora": Contestant("int8_lora, bfloat16", "int8_lora", {"base": "int8"}, "bfloat16"),
    "int8_lora-int4": Contestant("int8_lora over int4, bfloat16", "int8_lora", {"base": "int4"}, "bfloat16"),
    "int8_lora-shifts": Contestant(
        "int8_lora, power-of-two scales, bfloat16", "int8_lora", {"base": "int8", "scale": "power_of_two"}, "bfloat16"
    ),
    "tuneqdm": Contestant("tuneqdm int4, float products", "tuneqdm", {"base": "int4"}),
    "tuneqdm-int": Contestant(
        "tuneqdm int4, integer products, bfloat16", "tuneqdm", {"base": "int4", **BOTH}, "bfloat16"
    ),
}
DEFAULT = ("peft", "peft-bf16", "qlora", "qlora-int", "qlora-int-ckpt", "tuneqdm-int")

# Blocks and widths of the U-Net of Stable Diffusion 1.5, which are diffusers' own defaults; and one for a quick look.
MODELS: dict[str, dict[str, Any]] = {
    "sd15": {"cross_attention_dim": 768},
    "small": {"cross_attention_dim": 256, "block_out_channels": (64, 128, 256, 256), "attention_head_dim": 8},
}


def command_line() -> list[str]:
    return [sys.executable, "-m", "intaglio.cli", "bench"]


@click.command(name="bench", context_settings={**SETTINGS, "show_default": True})
@click.option("--model", type=click.Choice(list(MODELS)), default="sd15", help="Shape of the U-Net; random weights.")
@click.option("--methods", default=",".join(DEFAULT), help=f"Of {', '.join(CONTESTANTS)}.")
@click.option("--resolution", type=click.IntRange(64), default=256, help="Side of the images in pixels.")
@click.option("--train_batch_size", type=click.IntRange(1), default=1, help="Images a step.")
@click.option("--steps", type=click.IntRange(1), default=5, help="Measured steps of each, after one that is not.")
@click.option("--threads", type=click.IntRange(1), default=os.cpu_count() or 1, help="Of torch and of the kernels.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the table here too, as Markdown.")
@click.option("--worker", hidden=True, help="Internal: be one contestant, stepping at each line of input.")
def command(
    model: str,
    methods: str,
    resolution: int,
    train_batch_size: int,
    steps: int,
    threads: int,
    out: Path | None,
    worker: str | None,
) -> None:
    """Measure one training step of several methods on this machine, on a U-Net with random weights.

    One process a method, alive together, so leave memory for all of them; the steps alternate. Ratios within a run
    are what counts, on a machine that does nothing else.
    """
    if worker is not None:
        _work(CONTESTANTS[worker], model, resolution, train_batch_size, threads)
        return
    names = [name.strip() for name in methods.split(",") if name.strip()]
    for name in names:
        if name not in CONTESTANTS:
            raise UnknownChoice("method", name, CONTESTANTS)
    arguments = ["--model", model, "--resolution", str(resolution), "--train_batch_size", str(train_batch_size)]
    rows = measure(names, [*arguments, "--threads", str(threads)], steps)
    work = f"U-Net {model}, {resolution} px, batch {train_batch_size}, LoRA rank 16, AdamW, {threads} threads"
    text = table(rows, f"{work}; median of {steps} steps")
    click.echo(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(f"# One training step\n\n{text}", encoding="utf-8")


def measure(names: Sequence[str], arguments: Sequence[str], steps: int) -> list[dict[str, Any]]:
    """A row for each contestant: `name`, `seconds` (median), `spread` (fastest, slowest), `peak_bytes`, `kernels`."""
    workers: dict[str, subprocess.Popen[str]] = {}
    try:
        for name in names:
            click.echo(f"preparing {CONTESTANTS[name].title}", err=True)
            workers[name] = subprocess.Popen(
                [*command_line(), *arguments, "--worker", name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": arguments[-1]},
            )
            _line(workers[name].stdout, name)
        times: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for step in range(steps + 1):
            click.echo(f"step {step} of {steps}", err=True)
            for name, worker in workers.items():
                assert worker.stdin is not None
                worker.stdin.write("step\n")
                worker.stdin.flush()
                times[name].append(_line(worker.stdout, name))
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
    rows = []
    for name, all_steps in times.items():
        seconds = [s["seconds"] for s in all_steps[1:]]
        rows.append(
            {
                "name": name,
                "seconds": statistics.median(seconds),
                "spread": (min(seconds), max(seconds)),
                "peak_bytes": max(s["peak_bytes"] for s in all_steps),
                "kernels": all_steps[0]["kernels"],
            }
        )
    return rows


def table(rows: list[dict[str, Any]], caption: str) -> str:
    """Markdown, with the machine, the versions and the ratios to the first row."""
    import torch

    kernels = ", ".join(sorted({r["kernels"] for r in rows}))
    lines = [
        f"{caption}. {processor()}, kernels: {kernels}, torch {torch.__version__}, Python {platform.python_version()}.",
        "Memory is the peak of the steps above what the imports take.",
        "",
        "| method | s a step | (fastest, slowest) | MiB | time | memory |",
        "|---|---|---|---|---|---|",
    ]
    first = rows[0]
    for r in rows:
        low, high = r["spread"]
        lines.append(
            f"| {CONTESTANTS[r['name']].title} | {r['seconds']:.2f} | {low:.2f}, {high:.2f} | "
            f"{r['peak_bytes'] / MIB:,.0f} | {r['seconds'] / first['seconds']:.2f} | "
            f"{r['peak_bytes'] / first['peak_bytes']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def _line(stream: IO[str] | None, name: str) -> dict[str, Any]:
    """The next report of a worker; what libraries print in between is passed over."""
    assert stream is not None
    for line in stream:
        if line.startswith("{"):
            return json.loads(line)
    raise UserError(f"{name} stopped: see its messages above; often memory is short, then name fewer --methods")


def processor() -> str:
    """The name of this machine's processor."""
    info = Path("/proc/cpuinfo")
    names = [x for x in info.read_text().splitlines() if x.startswith("model name")] if info.exists() else []
    return names[0].partition(": ")[2] if names else platform.processor() or platform.machine()


def _work(contestant: Contestant, model: str, resolution: int, batch: int, threads: int) -> None:
    """Prepare, say so, then make one step for each line of input."""
    import torch

    torch.set_num_threads(threads)
    step = _prepare(contestant, model, resolution, batch)
    from intaglio.kernels.binding import path_in_use

    kernels = path_in_use() if contestant.method else "torch"
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        seconds = time.perf_counter() - start
        report = {"seconds": seconds, "peak_bytes": _peak_bytes() - IMPORTS_BYTES[0], "kernels": kernels}
        print(json.dumps(report), flush=True)


IMPORTS_BYTES = [0]
"""Resident memory after the imports; filled in by a worker."""


def _prepare(contestant: Contestant, model: str, resolution: int, batch: int) -> Callable[[], None]:
    import torch
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig

    import intaglio
    from intaglio.layers.model import return_memory
    from intaglio.methods.registry import build_method

    IMPORTS_BYTES[0] = _resident_bytes()
    torch.manual_seed(0)
    dtype = getattr(torch, contestant.dtype)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**MODELS[model]).to(dtype)
    unet = unet.to_empty(device="cpu")
    with torch.no_grad():
        for name, p in unet.named_parameters():
            p.fill_(1.0) if "norm" in name and name.endswith("weight") else p.normal_(std=0.02)
    if contestant.method is None:
        unet.requires_grad_(False)
        unet.add_adapter(LoraConfig(r=16, lora_alpha=16, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
        trained = [p for p in unet.parameters() if p.requires_grad]
    else:
        method = build_method(contestant.method, contestant.options)
        trained = intaglio.attach(unet, method, range_search="absmax").parameters()
    if contestant.checkpointing:
        unet.enable_gradient_checkpointing()
    unet.train()
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    size = resolution // 8
    sample, noise = (torch.randn(batch, 4, size, size, dtype=dtype) for _ in range(2))
    text = torch.randn(batch, 77, MODELS[model]["cross_attention_dim"], dtype=dtype)
    timesteps = torch.randint(1000, (batch,))

    def step() -> None:
        loss = torch.nn.functional.mse_loss(unet(sample, timesteps, text).sample, noise)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return_memory()
    gc.collect()
    gc.freeze()  # what stays is not looked through again in the middle of a step
    _forget_peak()
    return step


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise UserError("intaglio bench reads memory from /proc, which only Linux has")


def _resident_bytes() -> int:
    return _status_bytes("VmRSS:")


def _peak_bytes() -> int:
    return _status_bytes("VmHWM:")


def _forget_peak() -> None:
    """Preparing may take more than the steps: begin the peak anew."""
    Path("/proc/self/clear_refs").write_text("5")
