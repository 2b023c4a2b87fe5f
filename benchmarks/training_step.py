"""A training step of the U-Net of Stable Diffusion 1.5, baselines and ours beside each other, into benchmarks/results/.

    python benchmarks/training_step.py                      # all groups: a quarter of an hour, 20 GB
    python benchmarks/training_step.py roads baselines      # these groups; the files of the others stay

A group is one run of `intaglio speed step`, bfloat16 LoRA first: ratios within it are what counts. Run it when nothing
else runs. Baselines that are not installed are left out: `pip install bitsandbytes optimum-quanto torchao`. Each group
is a file, step-GROUP.jsonl, and its table beside it.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from intaglio.errors import UnknownChoice
from intaglio.files import write_text_atomic
from intaglio.speed.render import STEPS, page
from intaglio.speed.steps import measure
from intaglio.speed.variants import DEFAULT, REFERENCE
from intaglio.speed.work import Work

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Group:
    variants: tuple[str, ...]
    work: Work = field(default_factory=Work)
    steps: int = 3
    kernels: str | None = None
    """What INTAGLIO_KERNELS forces."""


LARGER = (REFERENCE, "qlora-int4", "qlora-int4-ckpt", "tuneqdm-int4")
FALLBACK = (REFERENCE, "peft", "qlora-int4", "qlora-f32")
GROUPS = {
    "roads": Group(DEFAULT, steps=5),
    "floats": Group((REFERENCE, "peft", "peft-bf16-ckpt", "qlora-float", "qlora-int4")),
    "formats": Group((REFERENCE, "qlora-int8", "qlora-nf4", "peqa-int4", "int8_lora-int8", "int8_lora-attention")),
    "every-layer": Group((REFERENCE, "peft-bf16-all", "qlora-all", "int8_lora-all")),
    "baselines": Group((REFERENCE, "bitsandbytes", "quanto", "torchao"), steps=2),
    "official": Group((REFERENCE, "official-tuneqdm", "tuneqdm-int4"), steps=2),
    "512px": Group(LARGER, Work(resolution=512), steps=4),
    "batch4": Group(LARGER, Work(batch=4), steps=4),
    "generate": Group(("bf16", REFERENCE, "qlora", "tuneqdm"), Work(task="generate"), steps=2),
    "avx2": Group(FALLBACK, steps=2, kernels="avx2"),
    "avx512vl": Group(FALLBACK, steps=2, kernels="avx512vl"),
    "torch": Group((*FALLBACK, "tuneqdm-int4", "int8_lora-int4"), steps=2, kernels="torch"),
}


def run(name: str, group: Group) -> None:
    if group.kernels is None:
        os.environ.pop("INTAGLIO_KERNELS", None)
    else:
        os.environ["INTAGLIO_KERNELS"] = group.kernels
    path = RESULTS / f"step-{name}.jsonl"
    results = measure(group.variants, group.work, group.steps, say=lambda text: print(text, file=sys.stderr), path=path)
    text = page(results, STEPS)
    write_text_atomic(path.with_suffix(".md"), text)
    print(text, flush=True)


def main() -> None:
    names = sys.argv[1:] or list(GROUPS)
    for name in names:
        if name not in GROUPS:
            raise UnknownChoice("group", name, GROUPS)
    for name in names:
        run(name, GROUPS[name])


if __name__ == "__main__":
    main()
