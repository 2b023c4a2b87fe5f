"""Step time and memory of every method by `intaglio train` on the embedded base, into benchmarks/results/methods.jsonl.

    python benchmarks/methods.py

One process a method, one after the other; run it when nothing else runs. The ratios within one run are what counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from intaglio.files import write_text_atomic
from intaglio.speed.harness import Results, Row, describe
from intaglio.speed.render import Column, key, page
from intaglio.study.tasks.sample import sample_cat
from intaglio.training.summary import human_bytes

METHODS = ("lora", "full", "qlora", "peqa", "tuneqdm", "int8_lora")
STEPS = 30
COLUMNS = (
    key("method"),
    Column("base", lambda row, _: row["base_format"] or "float32"),
    Column("denoiser in memory", lambda row, _: human_bytes(row["base_bytes"])),
    Column("trained", lambda row, _: f"{row['trainable_parameters']:,}"),
    Column("adapter", lambda row, _: human_bytes(row["adapter_bytes"])),
    Column("s a step", lambda row, _: f"{row['seconds_per_step']:.3f}"),
    Column("to lora", lambda row, first: f"{row['seconds_per_step'] / first['seconds_per_step']:.2f}"),
    Column("peak memory", lambda row, _: human_bytes(row["peak_memory_bytes"])),
)


def measure(method: str, folder: Path) -> Row:
    """The summary of one short run in a process of its own."""
    task = sample_cat()
    command = [sys.executable, "-m", "intaglio.cli", "train", "--method", method, "--output_dir", str(folder / method)]
    command += ["--instance_data_dir", str(task.train_folder), "--instance_prompt", task.instance_prompt]
    command += ["--max_train_steps", str(STEPS), "--report_to", "none"]
    subprocess.run(command, check=True)
    return json.loads((folder / method / "summary.json").read_text())


def main() -> None:
    path = Path(__file__).parent / "results" / "methods.jsonl"
    note = f"Median of {STEPS} steps of 4 images, as `intaglio train` does by default."
    title = "One step of each method on the embedded base"
    results = Results(describe("methods", title, threads=os.cpu_count() or 1, note=note), path)
    with tempfile.TemporaryDirectory() as folder:
        for method in METHODS:
            results.add(measure(method, Path(folder)))
    write_text_atomic(path.with_suffix(".md"), page(results, COLUMNS))
    print(page(results, COLUMNS))


if __name__ == "__main__":
    main()
