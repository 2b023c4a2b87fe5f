"""A training step of the U-Net of Stable Diffusion 1.5, peers and ours alternating, into benchmarks/results/.

    python benchmarks/training_step.py            # training_step.md: 256 px, batch 1
    python benchmarks/training_step.py --resolution 512 --train_batch_size 4 --methods peft-bf16,qlora-int

What it takes is what `intaglio bench` takes. One process a method, all alive: 14 GB at 256 px and batch 1. Run it when
nothing else runs; the ratios within one run are what counts.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    out = RESULTS / "training_step.md"
    subprocess.run([sys.executable, "-m", "intaglio.cli", "bench", "--out", str(out), *sys.argv[1:]], check=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    given = " ".join(["python benchmarks/training_step.py", *sys.argv[1:]])
    out.write_text(f"{out.read_text(encoding='utf-8')}\n`{given}`, commit {commit or 'unknown'}.\n", encoding="utf-8")


if __name__ == "__main__":
    main()
