"""Drawing with an adapter, in integers beside bfloat16, into benchmarks/results/generation.md.

    python benchmarks/generation.py        # two minutes; 6 GB

The U-Net of Stable Diffusion 1.5 with random weights, 256 px, 10 steps with guidance: the denoiser alone, since no text
encoder or VAE of that size is at hand; they cost the same whatever the denoiser computes in. The processes take turns.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from intaglio.cli.bench import Work, measure, table

CONTESTANTS = ("bf16", "peft-bf16", "qlora-int", "tuneqdm-int")
IMAGES = 2


def main() -> None:
    work = Work(task="generate")
    rows, notes = measure(CONTESTANTS, work, IMAGES)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    text = table(rows, f"{work.title()}; median of {IMAGES} images")
    notes.append(f"`python benchmarks/generation.py`, commit {commit or 'unknown'}.")
    path = Path(__file__).parent / "results" / "generation.md"
    path.write_text("\n\n".join(["# One image", text, *notes]) + "\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
