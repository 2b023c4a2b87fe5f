"""What a run leaves behind for people and programs: `summary.json`, a model card, a table."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from intaglio.files import write_text_atomic


@dataclass
class Summary:
    method: str
    options: dict[str, Any]
    base_format: str | None
    base_hash: str | None
    pretrained_model_name_or_path: str
    instance_prompt: str | None
    output_dir: str
    trainable_parameters: int
    adapter_bytes: int
    base_bytes: int
    """The denoiser's weights in memory, without what is trained."""
    peak_memory_bytes: int
    """Above what the imports and the loaded libraries take."""
    seconds_per_step: float
    steps: int
    train_batch_size: int
    learning_rate: float
    mixed_precision: str
    loss_first: float
    loss_last: float
    """Means over one fixed set of (image, timestep, noise), before and after."""
    seconds: float
    device: str
    versions: dict[str, str]
    accelerator: dict[str, Any] = field(default_factory=dict)
    """What a recorded step would cost on a modelled accelerator: hardware, latency_ms, energy_mj (low, typical, high).
    Filled in by the command line."""
    scores: dict[str, float] = field(default_factory=dict)
    """Filled in by commands that measure pictures."""
    encoder: str | None = None
    """What the pictures were measured with."""
    component: str = "unet"
    """The pipeline's name for what was trained."""
    resolution: int | None = None
    """Side of the training images in pixels."""

    def save(self, folder: Path) -> Path:
        path = folder / "summary.json"
        write_text_atomic(path, json.dumps(asdict(self), indent=2) + "\n")
        return path


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary beside an adapter, empty when there is none."""
    path = (folder if folder.is_dir() else folder.parent) / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def human_bytes(count: float) -> str:
    """1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def generate_command(summary: Summary) -> str:
    prompt = summary.instance_prompt or "a prompt with your subject"
    return f'intaglio generate --adapter {summary.output_dir} --prompt "{prompt}"'


def summary_rows(summary: Summary) -> list[tuple[str, str]]:
    """What the table at the end shows."""
    options = ", ".join(f"{k}={v}" for k, v in summary.options.items() if v is not None)
    change = summary.loss_last / summary.loss_first - 1
    rows = [
        ("method", f"{summary.method} ({options})" if options else summary.method),
        ("base", f"{summary.base_format or 'float'}, {human_bytes(summary.base_bytes)}"),
        ("trained", f"{summary.trainable_parameters:,} parameters"),
        ("adapter", human_bytes(summary.adapter_bytes)),
        ("loss (fixed set)", f"{summary.loss_first:.4f} -> {summary.loss_last:.4f} ({change:+.1%})"),
        ("time", f"{summary.steps} steps, {summary.seconds_per_step:.2f} s a step, {summary.seconds:.0f} s in all"),
        ("peak memory", human_bytes(summary.peak_memory_bytes)),
    ]
    if summary.accelerator:
        rows.append(("accelerator model", accelerator_row(summary)))
    return [*rows, ("everything is in", summary.output_dir)]


def accelerator_row(summary: Summary) -> str:
    """A modelled step beside the measured one."""
    cost = summary.accelerator
    low, typical, high = cost["energy_mj"]
    return (
        f"{cost['latency_ms']:,.4g} ms and {typical:,.4g} mJ ({low:,.4g} .. {high:,.4g}) a step on {cost['hardware']}; "
        f"measured here: {summary.seconds_per_step * 1e3:,.4g} ms on {summary.device}"
    )


def write_card(folder: Path, summary: Summary) -> None:
    """README.md of the output folder: a model card with a snippet that runs."""
    tags = ["text-to-image", "diffusers", "intaglio", summary.method]
    is_hub_id = summary.pretrained_model_name_or_path.count("/") == 1
    lines = ["---"]
    if is_hub_id:
        lines.append(f"base_model: {summary.pretrained_model_name_or_path}")
    if summary.instance_prompt:
        lines.append(f"instance_prompt: {json.dumps(summary.instance_prompt)}")
    lines += ["library_name: diffusers", "tags:", *(f"- {tag}" for tag in tags), "---", ""]
    base = f"quantized to {summary.base_format} (hash `{summary.base_hash}`)" if summary.base_format else "float"
    lines += [
        f"# {summary.method} adapter",
        "",
        f"Trained on `{summary.pretrained_model_name_or_path}`, {base}, for {summary.steps} steps of "
        f"{summary.train_batch_size} images with intaglio.",
        "",
        f"Trigger: `{summary.instance_prompt}`" if summary.instance_prompt else "Trained on captions.",
        "",
        "```python",
        "import intaglio",
        "",
        f"pipe = intaglio.load_pipeline({summary.pretrained_model_name_or_path!r})",
        f"intaglio.load_adapter(pipe.{summary.component}, {summary.output_dir!r})",
        f"pipe({(summary.instance_prompt or 'your prompt')!r}).images[0].save('picture.png')",
        "```",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in summary_rows(summary)),
        "",
    ]
    write_text_atomic(folder / "README.md", "\n".join(lines))
