"""Samples over the iterations: full, PEQA and TuneQDM on one task, from equal noise (TuneQDM, Figure 1).

    python benchmarks/iteration_strip.py --task elvish-archer --steps 400 --every 100

Rows are methods, columns optimizer steps; the first column is the base. Writes strip.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from intaglio.adapters.attach import load_adapter
from intaglio.checkpoints.load import denoiser_of
from intaglio.config import build
from intaglio.files import write_atomic
from intaglio.methods.registry import METHODS
from intaglio.metrics.grid import contact_sheet
from intaglio.study.draw import Drawing, draw
from intaglio.study.evaluate import open_base
from intaglio.study.tasks.load import load_manifest
from intaglio.training.checkpoint import list_checkpoints
from intaglio.training.loop import fit
from intaglio.training.recipe import Recipe

RATES = {"full": 1e-4, "peqa": 3e-2, "tuneqdm": 3e-2}
"""As tuned for the embedded base (docs/results/single-subject)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, default=Path("out/bench"))
    parser.add_argument("--task", default="elvish-archer")
    parser.add_argument("--prompt", help="[the task's second]")
    parser.add_argument("--methods", default=",".join(RATES))
    parser.add_argument("--base", default="int4", help="format of quantized bases")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--num_inference_steps", type=int, default=25)
    parser.add_argument("--guidance_scale", type=float, default=2.0)
    parser.add_argument("--out", type=Path, default=Path("out/strip"))
    arguments = parser.parse_args()
    manifest = load_manifest(arguments.bench)
    task = manifest.task(arguments.task)
    prompts = next(iter(task.prompts.values()))
    prompt = arguments.prompt or prompts[min(1, len(prompts) - 1)].text
    drawing = Drawing(num_inference_steps=arguments.num_inference_steps, guidance_scale=arguments.guidance_scale)
    rows: list[list[Image.Image]] = []
    names = arguments.methods.split(",")
    for name in names:
        folder = arguments.out / name
        values = {
            "pretrained_model_name_or_path": arguments.model,
            "method": name,
            "base": arguments.base if METHODS[name].needs_base else None,
            "instance_data_dir": manifest.folder / task.train,
            "instance_prompt": task.instance_prompt,
            "output_dir": folder,
            "max_train_steps": arguments.steps,
            "checkpointing_steps": arguments.every,
            "learning_rate": RATES.get(name),
            "report_to": "none",
        }
        fit(build(Recipe, values, name))
        pipeline = open_base(folder, None)
        row = [draw(pipeline, [prompt], 1, drawing, "strip")[0][0]]
        handle = None
        for checkpoint in list_checkpoints(folder):
            if handle is None:
                handle = load_adapter(denoiser_of(pipeline)[1], checkpoint)
            else:
                handle.load(checkpoint)
            row += draw(pipeline, [prompt], 1, drawing, "strip")[0]
        rows.append(row)
    steps = ["base", *(str(s) for s in range(arguments.every, arguments.steps + 1, arguments.every))]
    sheet = contact_sheet(rows, row_labels=names, column_labels=steps, title=prompt, cell=128)
    write_atomic(arguments.out / "strip.png", lambda temporary: sheet.save(temporary, format="PNG"))
    print(f"{arguments.out / 'strip.png'}: {len(rows)} methods, steps {', '.join(steps)}")


if __name__ == "__main__":
    main()
