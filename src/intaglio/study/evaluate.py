"""An adapter's scores on a task: load, draw, score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from intaglio.errors import UnknownChoice
from intaglio.metrics.encoders import DEFAULT_ENCODER, load_encoder, load_text_encoder
from intaglio.metrics.encoders.protocol import TextEncoder
from intaglio.metrics.grid import contact_sheet
from intaglio.metrics.prompt import PIXELS
from intaglio.metrics.registry import measure, metrics
from intaglio.metrics.scores import spread
from intaglio.metrics.shown import Shown
from intaglio.study.draw import Drawing, draw
from intaglio.study.show import show
from intaglio.study.tasks.load import load_manifest
from intaglio.study.tasks.manifest import Manifest, Prompt, Task
from intaglio.study.truth import Truth


@dataclass(frozen=True)
class Report:
    """Scores with what they were measured by; a score means nothing without the names."""

    task: str
    prompt_set: str
    encoder: str
    second_encoder: str | None
    """Whose scores end in `_second`."""
    prompt_encoder: str
    """"pixels" where no encoder reads the prompts."""
    drawing: dict[str, Any]
    scores: dict[str, float]
    drawn: list[tuple[Prompt, list[Image.Image]]] = field(repr=False, default_factory=list)

    def table(self) -> dict[str, Any]:
        """Everything but the images, for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "drawn"}

    def sheet(self) -> Image.Image:
        rows = [images for _, images in self.drawn]
        return contact_sheet(rows, row_labels=[prompt.text for prompt, _ in self.drawn], cell=96)


class Evaluator:
    """Scores pipelines on tasks of one benchmark; encoders are loaded and true images are encoded once."""

    def __init__(
        self,
        manifest: Manifest,
        drawing: Drawing,
        *,
        encoder: str = DEFAULT_ENCODER,
        second_encoder: str | None = None,
        prompt_encoder: str | None = None,
        device: str = "cpu",
    ):
        self.manifest, self.drawing = manifest, drawing
        self.truth = Truth(manifest, load_encoder(encoder, device))
        self.second = None if second_encoder is None else Truth(manifest, load_encoder(second_encoder, device))
        self.text: TextEncoder | None = None if prompt_encoder is None else load_text_encoder(prompt_encoder, device)

    def unrelated(self, pipeline: Any) -> list[Image.Image]:
        """One image of each unrelated prompt; drawn by the base first, it is what drift is measured from."""
        texts = spread(self.manifest.unrelated, self.drawing.num_unrelated)
        return [images[0] for images in draw(pipeline, texts, 1, self.drawing, "unrelated")] if texts else []

    def __call__(
        self,
        pipeline: Any,
        task: Task,
        prompt_set: str | None = None,
        base_unrelated: Sequence[Image.Image] = (),
        ceiling: bool = False,
    ) -> Report:
        """Draw the task's prompts with the pipeline as it is, and score them.

        Args:
            prompt_set: key of `task.prompts`; None takes the first.
            base_unrelated: what `unrelated` gave for the base; empty leaves drift out.
            ceiling: score real images, put through the pipeline's autoencoder, too.

        Raises:
            UnknownChoice: the task has no such prompts.
        """
        name = prompt_set or next(iter(task.prompts))
        if name not in task.prompts:
            raise UnknownChoice(f"prompt set of {task.name}", name, task.prompts)
        prompts = spread(task.prompts[name], self.drawing.num_prompts)
        images = draw(pipeline, [p.text for p in prompts], self.drawing.images_per_prompt, self.drawing, "task")
        drawn = list(zip(prompts, images, strict=True))
        unrelated = self.unrelated(pipeline) if base_unrelated else []
        shown = Shown(show(task, drawn, self.truth, self.text), self.truth.encoder, unrelated, base_unrelated)
        scores = measure(shown)
        if self.second is not None:
            seen = Shown(show(task, drawn, self.second), self.second.encoder)
            scores |= _named("second", measure(seen, [m for m in metrics() if m.second], real=False))
        if ceiling:
            best = [(p, through_autoencoder(pipeline, self._best(task, p, images[0][0].width))) for p in prompts]
            seen = Shown(show(task, best, self.truth), self.truth.encoder)
            scores |= _named("ceiling", measure(seen, [m for m in metrics() if m.ceiling], real=False))
        encoder, second = self.truth.encoder.name, None if self.second is None else self.second.encoder.name
        read_by = PIXELS if self.text is None else self.text.name
        return Report(task.name, name, encoder, second, read_by, self.drawing.model_dump(), scores, drawn)

    def _best(self, task: Task, prompt: Prompt, side: int) -> list[Image.Image]:
        """Real images of what the prompt asks for: the learned ones, or where these show other things, as those of a
        style do, the held-out ones."""
        files = task.references[prompt.reference] if task.kind == "style" else task.learned_for(prompt)
        return self.truth.images(files, prompt, side)


def _named(ending: str, scores: dict[str, float]) -> dict[str, float]:
    return {f"{name}_{ending}": value for name, value in scores.items()}


def evaluate(
    adapter: Path | None,
    task: str,
    *,
    bench: Path = Path("out/bench"),
    model: str | None = None,
    prompt_set: str | None = None,
    drawing: Drawing | None = None,
    encoder: str = DEFAULT_ENCODER,
    second_encoder: str | None = None,
    prompt_encoder: str | None = None,
) -> Report:
    """The scores of a trained adapter on a task.

    Args:
        adapter: folder of a training run; None scores the model alone.
        task: a name in the benchmark's manifest.
        bench: folder of `study build`, or google/dreambooth's `dataset`.
        model: what the adapter was trained on; None reads it from the adapter's summary.json.
        prompt_set: "colour", "terrain", "style" or "dreambooth"; None takes the task's first.
        encoder: of images; every report names it.
        second_encoder: scores subjects too, for a second opinion.
        prompt_encoder: one that reads text (`clip:MODEL`, `judge:FOLDER`); None checks prompts by pixels.

    Raises:
        UserError: no such benchmark, task, adapter, model or encoder.
    """
    from intaglio.adapters.attach import load_adapter
    from intaglio.checkpoints.load import denoiser_of

    manifest = load_manifest(bench)
    chosen = manifest.task(task)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoders = {"encoder": encoder, "second_encoder": second_encoder, "prompt_encoder": prompt_encoder}
    evaluator = Evaluator(manifest, drawing or Drawing(), **encoders, device=device)
    pipeline = open_base(adapter, model).to(device)
    if adapter is None:
        return evaluator(pipeline, chosen, prompt_set, ceiling=True)
    base_unrelated = evaluator.unrelated(pipeline)
    load_adapter(denoiser_of(pipeline)[1], adapter)
    return evaluator(pipeline, chosen, prompt_set, base_unrelated, ceiling=True)


def open_base(adapter: Path | None, model: str | None) -> Any:
    """The pipeline that an adapter was trained on, quantized as it was then."""
    from intaglio.adapters.header import read_header
    from intaglio.checkpoints.load import load_pipeline
    from intaglio.errors import UserError
    from intaglio.training.summary import read_summary

    header = None if adapter is None else read_header(adapter)
    source = model or (None if adapter is None else read_summary(adapter).get("pretrained_model_name_or_path"))
    if source is None and adapter is not None:
        raise UserError(f"{adapter} has no summary.json that names its model: give --pretrained_model_name_or_path")
    options: dict[str, Any] = {}
    if header is not None and header.base is not None:
        options = {
            "quantize_to": header.base.format,
            "range_search": header.base.range_search,
            "keep_float": header.base.keep_float,
        }
    pipeline = load_pipeline(source or "embedded", **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def through_autoencoder(pipeline: Any, images: Sequence[Image.Image]) -> list[Image.Image]:
    """What a perfect denoiser would draw: the images, encoded and decoded by the pipeline's autoencoder."""
    levels = pipeline.image_processor.preprocess(list(images)).to(pipeline.device, pipeline.vae.dtype)
    decoded = pipeline.vae.decode(pipeline.vae.encode(levels).latent_dist.mode()).sample
    return pipeline.image_processor.postprocess(decoded, output_type="pil")


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Torch on `count` CPU threads for a while; None leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
