"""What training LoRA in integers costs in precision, on the embedded base and the sample photos.

    python benchmarks/int8_lora.py errors    # rounding errors of one step, by setting: minutes
    python benchmarks/int8_lora.py losses    # 300 steps of each setting against qlora on the same base: an hour or more
    python benchmarks/int8_lora.py sweep     # the same for 8 to 4 bits of weights, activations, gradients: a night

Writes benchmarks/results/int8_lora_<part>.md. Every run has the same seed: the same start, data, noise and timesteps.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import tempfile
from pathlib import Path
from statistics import fmean, median

from intaglio.evaluation.subject import sample_cat
from intaglio.layers.gemm_errors import GEMMS, layer_errors
from intaglio.training.diagnose import capture
from intaglio.training.recipe import Recipe
from intaglio.training.run import train

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
"""For the errors of one step and for the losses."""
SWEEP = {
    f"{what} {bits} bits, {rounding}, by {granularity}": {
        ("base" if what == "weights" else f"{what[:-1]}_bits"): (f"int{bits}" if what == "weights" else bits),
        "rounding": rounding,
        "granularity": granularity,
    }
    for what in ("weights", "activations", "gradients")
    for bits in (8, 7, 6, 5, 4)
    for rounding in ("nearest", "stochastic")
    for granularity in ("token", "tensor")
}


def recipe(folder: Path, steps: int, batch_size: int, **options: object) -> Recipe:
    task = sample_cat()
    values = {
        "instance_data_dir": task.train_folder,
        "instance_prompt": task.instance_prompt,
        "output_dir": folder,
        "max_train_steps": steps,
        "train_batch_size": batch_size,
        "report_to": "tensorboard",
    }
    return Recipe.model_validate({**values, **options})


def errors(steps: int, batch_size: int) -> list[str]:
    """Each setting on the same inputs, gradients and pairs."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = recipe(Path(folder), steps, batch_size, method="int8_lora")
        layers, captured = capture(chosen, warmup=steps, batches=1)
    lines = [
        f"Medians over {len(layers)} layers after {steps} steps of {batch_size} pictures. A product's figure is the "
        "relative error of its own rounding, noise over signal; of the adapter's gradients the whole error, "
        "sqrt(2 - 2 cosine).",
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
    return lines


def losses(steps: int, batch_size: int, variants: dict[str, dict]) -> list[str]:
    """Mean |difference| / loss over all steps, and the loss on the fixed set, against qlora on the same base."""
    twins: dict[str, tuple[list[float], float]] = {}
    lines = [
        f"{steps} steps of {batch_size} pictures, seed 0. Float twin: qlora on the same base.",
        "",
        "| setting | mean abs. difference / loss | loss on the fixed set | float twin's |",
        "|---|---|---|---|",
    ]
    for title, options in variants.items():
        base = options.get("base", "int8")
        if base not in twins:
            twins[base] = run(steps, batch_size, method="qlora", base=base)
        curve, last = run(steps, batch_size, method="int8_lora", **{"base": base, **options})
        twin, twin_last = twins[base]
        difference = fmean(abs(a - b) / b for a, b in zip(curve, twin, strict=True))
        lines.append(f"| {title} | {difference:.3%} | {last:.5f} | {twin_last:.5f} |")
        print(lines[-1], flush=True)
    return lines


def run(steps: int, batch_size: int, **options: object) -> tuple[list[float], float]:
    """The loss of every step, from the log, and the last one on the fixed set."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tempfile.TemporaryDirectory() as name:
        summary = train(recipe(Path(name), steps, batch_size, **options))
        log = EventAccumulator(name + "/logs/train", size_guidance={"scalars": 0})
        log.Reload()
        return [event.value for event in log.Scalars("loss")], summary.loss_last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["errors", "losses", "sweep"])
    parser.add_argument("--steps", type=int, help="[20 of errors, else 300]")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--settings", nargs="+", help="only these, of losses or sweep")
    arguments = parser.parse_args()
    if arguments.part == "errors":
        lines = errors(arguments.steps or 20, arguments.batch_size)
    else:
        variants = VARIANTS if arguments.part == "losses" else SWEEP
        chosen = {title: variants[title] for title in arguments.settings or variants}
        lines = losses(arguments.steps or 300, arguments.batch_size, chosen)
    path = Path(__file__).parent / "results" / f"int8_lora_{arguments.part}.md"
    path.parent.mkdir(exist_ok=True)
    command = f"python benchmarks/int8_lora.py {arguments.part}"
    command += f" --steps {arguments.steps}" if arguments.steps else ""
    command += f" --batch_size {arguments.batch_size}"
    command += (
        "".join(f" {word}" for word in ["--settings", *map(repr, arguments.settings)]) if arguments.settings else ""
    )
    text = "\n".join([f"# int8_lora: {arguments.part}", "", f"`{command}`", "", *lines, ""])
    path.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
