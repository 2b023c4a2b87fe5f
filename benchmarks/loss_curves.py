"""Whether integer GEMMs change how training goes: loss curves with integer against float compute, equal seeds.

    python benchmarks/loss_curves.py                       # 300 steps of each, half an hour on one core
    python benchmarks/loss_curves.py --methods qlora --precisions no

The embedded base in int4 and the sample photos; both runs of a row have the same start, data, noise and timesteps.
Writes benchmarks/results/loss_curves.md and loss_curves.png, after every row.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from short_runs import Task, run

from intaglio.kernels.binding import path_in_use
from intaglio.speed.harness import commit, processor
from intaglio.study.tasks.sample import sample_cat

PRECISIONS = {"no": "float32", "bf16": "bfloat16"}
FILE = Path(__file__).parent / "results" / "loss_curves.md"
WINDOW = 10
"""Steps whose mean the plot shows: single losses jump with the timesteps that were drawn."""


def relative_difference(curve: list[float], twin: list[float]) -> float:
    return fmean(abs(a - b) / b for a, b in zip(curve, twin, strict=True))


def row(title: str, curve: list[float], last: float, twin: list[float], twin_last: float) -> str:
    tenth = max(1, len(curve) // 10)
    ends = [relative_difference(curve[s], twin[s]) for s in (slice(tenth), slice(-tenth, None))]
    total = relative_difference(curve, twin)
    return f"| {title} | {total:.3%} | {ends[0]:.3%} | {ends[1]:.3%} | {last:.5f} | {twin_last:.5f} |"


def plot(curves: dict[str, tuple[list[float], list[float]]]) -> None:
    figure, axes = plt.subplots(1, len(curves), figsize=(3.4 * len(curves), 3), sharey=True, squeeze=False)
    for axis, (title, (integer, floats)) in zip(axes[0], curves.items(), strict=True):
        window = min(WINDOW, len(integer))
        for label, curve, style in (("float", floats, "-"), ("integer", integer, "--")):
            axis.plot(np.convolve(curve, np.ones(window) / window, "valid"), style, label=label, linewidth=1.2)
        axis.set(title=title, xlabel="step")
    axes[0][0].set_ylabel(f"loss, mean of {WINDOW} steps")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(FILE.with_suffix(".png"), dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="qlora,tuneqdm,peqa")
    parser.add_argument("--precisions", default="no,bf16", help="as --mixed_precision: no, bf16")
    parser.add_argument("--base", default="int4", help="format of the frozen weights")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    cat = sample_cat()
    task = Task(arguments.steps, arguments.batch_size, arguments.seed, cat.train_folder, cat.instance_prompt)
    given = [f"--{k} {v}" for k, v in vars(arguments).items() if v != parser.get_default(k)]
    lines = [
        "# Loss curves: integer against float compute",
        "",
        f"`{' '.join(['python benchmarks/loss_curves.py', *given])}`, commit {commit()}, {processor()}, "
        f"kernels: {path_in_use()}, torch {torch.__version__}.",
        "",
        f"{task.steps} steps of {task.batch_size} images of the embedded base in {arguments.base}, seed {task.seed}; "
        f"integer: `compute=integer`. |difference| / loss, mean over the steps. Yardstick: float compute in "
        "bfloat16 against float compute in float32.",
        "",
        "| run against its twin | all steps | first tenth | last tenth | loss on the fixed set | the twin's |",
        "|---|---|---|---|---|---|",
    ]
    curves: dict[str, tuple[list[float], list[float]]] = {}
    exact: dict[str, tuple[list[float], float]] = {}

    def add(title: str, found: tuple[list[float], float], twin: tuple[list[float], float]) -> None:
        lines.append(row(title, *found, *twin))
        print(lines[-1], flush=True)
        FILE.write_text("\n".join([*lines, "", f"![curves]({FILE.with_suffix('.png').name})", ""]), encoding="utf-8")

    for precision in arguments.precisions.split(","):
        for method in arguments.methods.split(","):
            options = {"method": method, "base": arguments.base, "mixed_precision": precision}
            floats, integers = (run(task, **options, compute=compute) for compute in ("float", "integer"))
            title = f"{method}, {PRECISIONS[precision]}"
            curves[title] = (integers[0], floats[0])
            plot(curves)
            add(f"{title}: integer", integers, floats)
            exact.setdefault(method, floats)
            if exact[method] is not floats:
                add(f"{title}: float, yardstick", floats, exact[method])


if __name__ == "__main__":
    main()
