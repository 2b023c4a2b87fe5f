"""A training step of the U-Net of Stable Diffusion 1.5, peers and ours alternating, into benchmarks/results/.

    python benchmarks/training_step.py                   # all groups: a quarter of an hour, 20 GB
    python benchmarks/training_step.py ours peers        # these groups; the file keeps the others

A group is one run of `intaglio bench`: its processes live together and take turns, bfloat16 LoRA among them, and the
ratios within it are what counts. Run it when nothing else runs. Peers that are not installed are left out:
`pip install bitsandbytes optimum-quanto torchao`.

Writes training_step.json, and training_step.md from it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from intaglio.cli.bench import MIB, Work, measure, table
from intaglio.cli.contestants import CONTESTANTS
from intaglio.errors import UnknownChoice

RESULTS = Path(__file__).parent / "results"
REFERENCE = "peft-bf16"


@dataclass(frozen=True)
class Group:
    title: str
    contestants: tuple[str, ...]
    work: Work = field(default_factory=Work)
    steps: int = 3
    kernels: str | None = None
    """What INTAGLIO_KERNELS forces."""


LARGER = (REFERENCE, "qlora-int", "qlora-int-ckpt", "tuneqdm-int")
FALLBACK = (REFERENCE, "peft", "qlora-int", "qlora-int-f32")
GROUPS = {
    "ours": Group("Ours", (*LARGER, "int8_lora-int4", "int8_lora-attention"), steps=5),
    "floats": Group("LoRA in float, and qlora", (REFERENCE, "peft", "peft-bf16-ckpt", "qlora-int")),
    "formats": Group("Ours, other formats", (REFERENCE, "qlora-int8", "qlora-nf4", "peqa-int", "int8_lora")),
    "every-layer": Group(
        "A pair of rank 2 beside every layer", (REFERENCE, "peft-bf16-all", "qlora-all", "int8_lora-all")
    ),
    "peers": Group("Quantized by others", (REFERENCE, "bitsandbytes", "quanto", "torchao"), steps=2),
    "official": Group("TuneQDM, its authors' way and ours", (REFERENCE, "official-tuneqdm", "tuneqdm-int"), steps=2),
    "512px": Group("512 px", LARGER, Work(resolution=512), steps=4),
    "batch4": Group("Batch 4", LARGER, Work(batch=4), steps=4),
    "avx2": Group("Kernels for AVX2 alone", FALLBACK, steps=2, kernels="avx2"),
    "avx512vl": Group("Kernels for VNNI on 256-bit registers", FALLBACK, steps=2, kernels="avx512vl"),
    "torch": Group("No compiled kernels", (*FALLBACK, "tuneqdm-int", "int8_lora-int4"), steps=2, kernels="torch"),
}


def run(name: str, group: Group) -> dict[str, Any]:
    """Measure a group; what the file keeps of it."""
    if group.kernels is None:
        os.environ.pop("INTAGLIO_KERNELS", None)
    else:
        os.environ["INTAGLIO_KERNELS"] = group.kernels
    rows, notes = measure(group.contestants, group.work, group.steps)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    text = table(rows, f"{group.work.title()}; median of {group.steps} steps")
    notes.append(f"`python benchmarks/training_step.py {name}`, commit {commit or 'unknown'}.")
    return {"rows": rows, "text": "\n\n".join([text, *notes])}


def together(kept: dict[str, Any]) -> list[str]:
    """Everything at 256 px and batch 1 in one table, as ratios to bfloat16 LoRA of the same run."""
    lines = ["| method, 256 px, batch 1 | step time | memory | s a step | MiB |", "|---|---|---|---|---|"]
    seen = set()
    for name, group in GROUPS.items():
        if name not in kept or group.work != Work() or group.kernels is not None:
            continue
        first = kept[name]["rows"][0]
        for row in kept[name]["rows"]:
            if row["name"] in seen:
                continue
            seen.add(row["name"])
            ratios = (row[key] / first[key] for key in ("seconds", "peak_bytes"))
            lines.append(
                f"| {CONTESTANTS[row['name']].title} | {' | '.join(f'{r:.2f}' for r in ratios)} | "
                f"{row['seconds']:.2f} | {row['peak_bytes'] / MIB:,.0f} |"
            )
    return lines


def main() -> None:
    names = sys.argv[1:] or list(GROUPS)
    for name in names:
        if name not in GROUPS:
            raise UnknownChoice("group", name, GROUPS)
    file = RESULTS / "training_step.json"
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for name in names:
        kept[name] = run(name, GROUPS[name])
        file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        parts = ["# One training step", "Ratios are to bfloat16 LoRA in the same run.", "\n".join(together(kept))]
        parts += [f"## {GROUPS[n].title}\n\n{kept[n]['text']}" for n in GROUPS if n in kept]
        file.with_suffix(".md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
        print(kept[name]["text"], flush=True)


if __name__ == "__main__":
    main()
