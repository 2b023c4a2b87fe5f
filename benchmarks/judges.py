"""Which shipped encoder tells the benchmark's subjects apart, in images as soft as a model's, into results/judges.md.

    intaglio study build && python benchmarks/judges.py

Training images of every family and object are put through the autoencoder: the best that any method could draw.
Each is compared with the held-out images of all of them, on the same background. No method is looked at.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean, stdev

from torch.nn import functional as F

from intaglio.checkpoints.load import load_pipeline
from intaglio.metrics.encoders import DEFAULT_ENCODER, SECOND_ENCODER, load_encoder
from intaglio.metrics.scores import spread
from intaglio.study.evaluate import through_autoencoder
from intaglio.study.tasks.load import load_manifest
from intaglio.study.tasks.manifest import Task
from intaglio.study.truth import Truth

RESULTS = Path(__file__).parent / "results" / "judges.md"
SIDE_PIXELS, NUM_BACKGROUNDS = 64, 4


def margins(truth: Truth, pipeline, tasks: list[Task]) -> tuple[list[float], list[float]]:
    """Of every soft image: its cosine to its own subject, and that less its cosine to the nearest other subject."""
    own, over_others = [], []
    for prompt in spread(tasks[0].prompts["colour"], NUM_BACKGROUNDS):
        heldout, soft = {}, {}
        for task in tasks:
            (files,), (learned,) = task.references.values(), task.learned.values()
            images = through_autoencoder(pipeline, truth.images(learned, prompt, SIDE_PIXELS))
            heldout[task.name] = F.normalize(truth.features(files, prompt, SIDE_PIXELS), dim=1)
            soft[task.name] = F.normalize(truth.encoder.features(images), dim=1)
        for name, features in soft.items():
            for feature in features:
                cosines = {other: float((h @ feature).mean()) for other, h in heldout.items()}
                own.append(cosines.pop(name))
                over_others.append(own[-1] - max(cosines.values()))
    return own, over_others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, default=Path("out/bench"))
    parser.add_argument("--model", default="embedded")
    arguments = parser.parse_args()
    manifest, pipeline = load_manifest(arguments.bench), load_pipeline(arguments.model)
    tasks = [task for task in manifest.tasks if task.kind in ("family", "object")]
    lines = [
        "# Judges",
        "",
        f"`python benchmarks/judges.py`: training images of {len(tasks)} subjects, through the autoencoder of "
        f"`{arguments.model}`, against the held-out images of all.",
        "",
        "| encoder | told right | cosine to its own subject | less the nearest other | deviation of that | "
        "mean / deviation |",
        "|---|---|---|---|---|---|",
    ]
    for name in (DEFAULT_ENCODER, SECOND_ENCODER):
        own, over = margins(Truth(manifest, load_encoder(name)), pipeline, tasks)
        right, mean, deviation = fmean(m > 0 for m in over), fmean(over), stdev(over)
        cells = f"{right:.3f} | {fmean(own):.3f} | {mean:.3f} | {deviation:.3f} | {mean / deviation:.2f}"
        lines.append(f"| `{name}` | {cells} |")
        print(lines[-1], flush=True)
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
