"""Step time and memory of every method on the embedded base, on this machine.

    python benchmarks/methods.py            # writes benchmarks/results/methods.md

One process a method, one after the other; run it when nothing else runs. The ratios within one run are what counts.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from intaglio.kernels.binding import path_in_use
from intaglio.metrics.subject import sample_cat
from intaglio.training.summary import human_bytes

METHODS = ["full", "lora", "qlora", "peqa", "tuneqdm", "int8_lora"]
STEPS = 30


def measure(method: str, folder: Path) -> dict:
    """The summary of one short run in a process of its own."""
    task = sample_cat()
    command = [sys.executable, "-m", "intaglio.cli", "train", "--method", method, "--output_dir", str(folder / method)]
    command += ["--instance_data_dir", str(task.train_folder), "--instance_prompt", task.instance_prompt]
    command += ["--max_train_steps", str(STEPS), "--report_to", "none"]
    subprocess.run(command, check=True)
    return json.loads((folder / method / "summary.json").read_text())


def main() -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(method, Path(folder)) for method in METHODS]
    lines = [
        "# One step of each method on the embedded base",
        "",
        f"`make bench-methods`, commit {commit or 'unknown'}, {platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}; batch {rows[0]['train_batch_size']}, "
        f"median of {STEPS} steps, as `intaglio train` does by default (kernels: {path_in_use()}).",
        "",
        "| method | base | denoiser in memory | trained | adapter | s a step | to lora | peak memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lora = next(r for r in rows if r["method"] == "lora")["seconds_per_step"]
    lines += [
        f"| {r['method']} | {r['base_format'] or 'float32'} | {human_bytes(r['base_bytes'])} | "
        f"{r['trainable_parameters']:,} | {human_bytes(r['adapter_bytes'])} | {r['seconds_per_step']:.3f} | "
        f"{r['seconds_per_step'] / lora:.2f} | {human_bytes(r['peak_memory_bytes'])} |"
        for r in rows
    ]
    path = Path(__file__).parent / "results" / "methods.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
