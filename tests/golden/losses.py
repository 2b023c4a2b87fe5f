"""Golden losses: what every method's first 20 steps give, with fixed seeds, on three models.

`python tests/golden/losses.py` writes `<model>.txt` anew on this machine. Do that only in a commit that says which
number moved and why.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

HERE = Path(__file__).parent
STEPS = 20
MODELS = ("sd", "sdxl", "embedded")
INTEGER, FLOAT = "integer", "float"
CASES = (
    ("full", FLOAT),
    ("lora", FLOAT),
    *(
        (method, how)
        for method in ("qlora", "peqa", "tuneqdm", "scaled_lora", "smooth_scales")
        for how in (FLOAT, INTEGER)
    ),
    ("int8_lora", INTEGER),
)
RATES = {"full": 1e-4}


def photos(folder: Path, side: int) -> Path:
    """Three photos of a red square that grows."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        image = Image.new("RGB", (side, side), "white")
        ImageDraw.Draw(image).rectangle((4, 4, side // 2 + 4 * number, side // 2), fill="red")
        image.save(folder / f"{number}.png")
    return folder


def model_folder(model: str, folder: Path) -> str:
    """The name or folder of the base model, made in `folder` where it is a tiny one."""
    if model == "embedded":
        return model
    from tiny_pipelines import make_pipeline

    if not folder.exists():
        make_pipeline(model).save_pretrained(folder)
    return str(folder)


def run(model: str, method: str, compute: str, work: Path) -> list[float]:
    """The loss of each of the first 20 steps."""
    from intaglio.training.recipe import Recipe

    values: dict[str, Any] = {
        "pretrained_model_name_or_path": model_folder(model, work / model),
        "instance_data_dir": photos(work / "photos", 64),
        "instance_prompt": "sks square",
        "output_dir": work / f"{model}-{method}-{compute}",
        "max_train_steps": STEPS,
        "train_batch_size": 2,
        "report_to": "none",
        "method": method,
        "learning_rate": RATES.get(method, 1e-3),
    }
    if method not in ("full", "lora"):
        values |= {"base": "int4", "compute": compute}
    if method == "int8_lora":
        values |= {"rank": 16, "targets": ("to_q", "to_k", "to_v", "to_out.0")}
    return losses_of(Recipe.model_validate(values))


def losses_of(recipe: Any) -> list[float]:
    from accelerate import Accelerator

    from intaglio.training.run import train

    losses: list[float] = []
    log = Accelerator.log
    Accelerator.log = lambda self, values, **_: losses.append(values["loss"])  # type: ignore[method-assign]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order
    try:
        train(recipe)
    finally:
        Accelerator.log = log  # type: ignore[method-assign]
        torch.set_num_threads(threads)
    return losses


def machine() -> dict[str, str]:
    """What the last bits of a loss depend on."""
    from intaglio.kernels.binding import path_in_use

    return {"processor": processor(), "torch": torch.__version__, "kernels": path_in_use()}


def processor() -> str:
    """Vendor, family and model: the name alone hides the generation on rented machines."""
    found: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    parts = [found.get(k, "") for k in ("vendor_id", "cpu family", "model")]
    return " ".join(p for p in parts if p) or platform.machine()


def write(path: Path, rows: dict[str, list[float]]) -> None:
    head = f"# Losses of steps 1 to {STEPS}; tests/golden/README.md explains one. Made on: {json.dumps(machine())}"
    lines = [f"{case}: {' '.join(map(repr, losses))}" for case, losses in rows.items()]
    path.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")


def read(path: Path) -> tuple[dict[str, str], dict[str, list[float]]]:
    """The machine that a file was made on, and the losses of each case."""
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    rows = {}
    for line in lines:
        case, _, numbers = line.partition(": ")
        rows[case] = [float(n) for n in numbers.split()]
    return json.loads(head.partition("Made on: ")[2]), rows


def main() -> None:
    sys.path.insert(0, str(HERE.parent))
    with tempfile.TemporaryDirectory() as work:
        for model in MODELS:
            rows = {f"{m} {c}": run(model, m, c, Path(work)) for m, c in CASES}
            write(HERE / f"{model}.txt", rows)


if __name__ == "__main__":
    main()
