"""What training LoRA in integers costs in precision, on the embedded base and the sample photos.

    python benchmarks/int8_lora.py errors       # rounding errors of one step, by setting: minutes
    python benchmarks/int8_lora.py losses       # 300 steps of each setting against qlora on the same base: ten minutes
    python benchmarks/int8_lora.py sweep        # the same for 8 to 4 bits of weights, activations, gradients: an hour
    python benchmarks/int8_lora.py stability    # 2,000 steps

Writes benchmarks/results/int8_lora_<part>.md, after every row; an interrupted run of losses or sweep goes on. Runs of
one file have the same seed: the same start, data, noise and timesteps.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median

from short_runs import Task, recipe, run

from intaglio.layers.gemm_errors import GEMMS, layer_errors
from intaglio.study.tasks.sample import sample_cat
from intaglio.training.diagnose import capture

VARIANTS: dict[str, dict] = {
    "8 bits, float scales": {},
    "power-of-two scales": {"scale": "power_of_two"},
    "separate gradient": {"separate_gradient": True},
    "separate, power of two": {"separate_gradient": True, "scale": "power_of_two"},
    "one scale a tensor": {"granularity": "tensor"},
    "stochastic": {"rounding": "stochastic"},
    "activations 6 bits": {"activation_bits": 6},
    "activations 4 bits": {"activation_bits": 4},
    "gradients 6 bits": {"gradient_bits": 6},
    "gradients 4 bits": {"gradient_bits": 4},
    "gradients 4 bits, stochastic": {"gradient_bits": 4, "rounding": "stochastic"},
}
"""For the errors of one step."""
LOSSES: dict[str, dict] = {
    "8 bits, float scales": {},
    "power-of-two scales": {"scale": "power_of_two"},
    "power-of-two scales, stochastic": {"scale": "power_of_two", "rounding": "stochastic"},
    "separate gradient": {"separate_gradient": True},
    "one scale a tensor": {"granularity": "tensor"},
    "integer adapter, float scales": {"integer_adapter": True},
    "integer adapter, power-of-two scales": {"integer_adapter": True, "scale": "power_of_two"},
    "integer attention, bfloat16": {"integer_attention": True, "mixed_precision": "bf16"},
    "yardstick: qlora in bfloat16": {"method": "qlora", "compute": "float", "mixed_precision": "bf16"},
}


def _sweep() -> dict[str, dict]:
    """Each tensor alone, then all three; rounding and granularity where that tensor has them."""
    nearest, by_token = {"rounding": "nearest"}, {"granularity": "token"}
    stochastic, by_tensor = {"rounding": "stochastic"}, {"granularity": "tensor"}
    four = [nearest | by_token, nearest | by_tensor, stochastic | by_token, stochastic | by_tensor]
    found = {_title("all 8 bits", how): how for how in four}
    for bits in (4, 5, 6, 7):
        own = {"weights": {"base": f"int{bits}"}, "activations": {"activation_bits": bits}}
        own |= {"gradients": {"gradient_bits": bits}}
        own = {"all": {k: v for options in own.values() for k, v in options.items()}, **own}
        ways = {"weights": four[:1], "activations": four[:1], "gradients": four[:3:2], "all": four[:3:2]}
        if bits == 4:  # where it may break
            ways |= {"activations": four[:2], "gradients": four}
        found |= {_title(f"{what} {bits} bits", how): own[what] | how for what in own for how in ways[what]}
    return found


def _title(what: str, how: dict[str, str]) -> str:
    return f"{what}, {how['rounding']}, by {how['granularity']}"


SWEEP = _sweep()
STABILITY = {title: LOSSES[title] for title in ("8 bits, float scales", "power-of-two scales")}


def errors(task: Task, write: Callable[[list[str]], None]) -> None:
    """Each setting on the same inputs, gradients and pairs."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = recipe(task, Path(folder), method="int8_lora", base="int8")
        layers, captured = capture(chosen, warmup=task.steps, batches=1)
    lines = [
        f"Medians over {len(layers)} layers after {task.steps} steps of {task.batch_size} images. A product's "
        "figure is the relative error of its own rounding, noise over signal; of the adapter's gradients the whole "
        "error, sqrt(2 - 2 cosine).",
        "",
        f"| setting | {' | '.join(GEMMS)} | grad x | grad A | grad B |",
        "|" + "---|" * (len(GEMMS) + 4),
    ]
    for title, options in VARIANTS.items():
        found = []
        for name, layer in layers.items():
            own = layer.how
            layer.how = dataclasses.replace(own, **options)
            found.append(layer_errors(layer, *captured[0][name]))
            layer.how = own
        products = [median(10 ** (-e.sqnr_db[g] / 20) for e in found) for g in GEMMS]
        gradients = [median(math.sqrt(max(0.0, 2 - 2 * e.cosine[k])) for e in found) for k in "xab"]
        lines.append(f"| {title} | {' | '.join(f'{100 * v:.2f} %' for v in (*products, *gradients))} |")
    write(lines)


def losses(task: Task, variants: dict[str, dict], write: Callable[[list[str]], None], done: dict[str, str]) -> None:
    """Mean |difference| / loss over all steps, and the loss on the fixed set, against qlora on the same base.

    `done`: rows that are there already, by setting.
    """
    twins: dict[str, tuple[list[float], float]] = {}
    lines = [
        f"{task.steps} steps of {task.batch_size} images, seed {task.seed}. Float twin: qlora on the same base; its "
        "loss tells what the base's own bits cost.",
        "",
        "| setting | mean abs. difference / loss | loss on the fixed set | float twin's |",
        "|---|---|---|---|",
    ]
    for title, options in variants.items():
        if title in done:
            lines.append(done[title])
            write(lines)
            continue
        base = options.get("base", "int8")
        if base not in twins:
            twins[base] = run(task, method="qlora", base=base, compute="float")
        curve, last = run(task, **{"method": "int8_lora", "base": base, **options})
        twin, twin_last = twins[base]
        difference = fmean(abs(a - b) / b for a, b in zip(curve, twin, strict=True))
        lines.append(f"| {title} | {difference:.3%} | {last:.5f} | {twin_last:.5f} |")
        write(lines)


def stability(task: Task, variants: dict[str, dict], write: Callable[[list[str]], None]) -> None:
    """The mean loss of every twentieth part of a long run."""
    curves = {"qlora, float": run(task, method="qlora", base="int8", integer_gemms=())}
    for title, options in variants.items():
        curves[title] = run(task, method="int8_lora", **{"base": "int8", **options})
    width = max(1, task.steps // 20)
    lines = [
        f"{task.steps} steps of {task.batch_size} images of {task.data.name}, seed {task.seed}: mean loss of each "
        f"{width} steps, and on the fixed set at the end.",
        "",
        f"| steps | {' | '.join(curves)} |",
        "|" + "---|" * (len(curves) + 1),
    ]
    for start in range(0, task.steps, width):
        means = [f"{fmean(curve[start : start + width]):.4f}" for curve, _ in curves.values()]
        lines.append(f"| {start + 1} .. {start + width} | {' | '.join(means)} |")
    lines.append(f"| fixed set | {' | '.join(f'{last:.5f}' for _, last in curves.values())} |")
    write(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["errors", "losses", "sweep", "stability"])
    parser.add_argument("--steps", type=int, help="[20 of errors, 2000 of stability, else 300]")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", nargs="+", help="only these")
    parser.add_argument("--data", type=Path, help="folder of photos with captions [the sample cat]")
    arguments = parser.parse_args()
    cat = sample_cat()
    task = Task(
        arguments.steps or {"errors": 20, "stability": 2000}.get(arguments.part, 300),
        arguments.batch_size,
        arguments.seed,
        arguments.data or cat.train_folder,
        None if arguments.data else cat.instance_prompt,
    )
    words = [arguments.part]
    for name in ("steps", "batch_size", "seed", "data"):
        if getattr(arguments, name) != parser.get_default(name):
            words += [f"--{name}", str(getattr(arguments, name))]
    if arguments.settings:
        words += ["--settings", *map(repr, arguments.settings)]
    path = Path(__file__).parent / "results" / f"int8_lora_{arguments.part}.md"
    path.parent.mkdir(exist_ok=True)

    def write(lines: list[str]) -> None:
        text = "\n".join(
            [
                f"# int8_lora: {arguments.part}",
                "",
                f"`python benchmarks/int8_lora.py {' '.join(words)}`",
                "",
                *lines,
                "",
            ]
        )
        path.write_text(text, encoding="utf-8")
        print(lines[-1], flush=True)

    if arguments.part == "errors":
        errors(task, write)
        return
    command = f"`python benchmarks/int8_lora.py {' '.join(words)}`"
    before = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    done = {line.split(" | ")[0][2:]: line for line in before if line.startswith("| ")} if command in before else {}
    variants = {"losses": LOSSES, "sweep": SWEEP, "stability": STABILITY}[arguments.part]
    chosen = {title: variants[title] for title in arguments.settings or variants}
    if arguments.part == "stability":
        stability(task, chosen, write)
    else:
        losses(task, chosen, write, done)


if __name__ == "__main__":
    main()
