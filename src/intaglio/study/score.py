"""The scores of drawn pictures on a task, each beside the score of real pictures.

| score | what | range |
|---|---|---|
| subject | mean cosine to the held-out pictures, laid on the prompt's background | [-1, 1] |
| subject_real | the same of the training pictures | |
| subject_ceiling, identity_ceiling | the same of real pictures put through the model's autoencoder | |
| subject_second, identity_second | the same by the second encoder | |
| identity | share whose nearest picture of the gallery is the right one | [0, 1] |
| identity_real | the same of the held-out pictures that are not in the gallery | |
| background, team_colour | share with what the prompt names, by pixels | [0, 1] |
| prompt | mean cosine of picture and prompt where an encoder reads text, else the mean of the pixel checks | |
| prompt_real | the same of the true pictures | |
| style, style_real | share whose nearest style, by a judge that reads text, is the right one (style tasks) | [0, 1] |
| fd | Fréchet distance of all that was drawn to as many held-out pictures; small counts inflate it | >= 0 |
| fd_floor | the same of the training pictures | |
| diversity | 1 - mean cosine among the pictures of one prompt | [0, 2] |
| memorisation | nearest training picture less nearest held-out picture, in cosine | [-2, 2] |
| drift | 1 - mean cosine to the base's pictures of unrelated prompts, with equal noise | [0, 2] |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import torch
from PIL import Image
from torch import Tensor

from intaglio.metrics.colour import background_colour, nearest_palette
from intaglio.metrics.encoders import TextEncoder
from intaglio.metrics.frechet import frechet_distance
from intaglio.metrics.scores import (
    diversity,
    mean_matched_cosine,
    mean_pairwise_cosine,
    memorisation,
    win_rate,
)
from intaglio.study.draw import spread
from intaglio.study.manifest import Prompt, Task
from intaglio.study.truth import Truth

TOKEN = "sks"
PIXELS = "pixels"
"""What the prompt score is called where no encoder reads the prompts."""
Drawn = Sequence[tuple[Prompt, Sequence[Image.Image]]]


def score_task(task: Task, drawn: Drawn, truth: Truth, text_encoder: TextEncoder | None = None) -> dict[str, float]:
    """Scores by name; what a task does not have (a gallery, a known background) is left out.

    Args:
        drawn: each prompt with its pictures, at least one.
        text_encoder: reads the prompts; None scores them by the pixel checks alone.
    """
    features = [truth.encoder.features(images) for _, images in drawn]
    per_prompt = [
        _score_prompt(task, *one, made, truth, text_encoder) for one, made in zip(drawn, features, strict=True)
    ]
    means = _means(per_prompt) | _distribution(task, drawn, torch.cat(features), truth)
    return {name: value for name, value in means.items() if not math.isnan(value)}


def subject_scores(task: Task, drawn: Drawn, truth: Truth) -> dict[str, float]:
    """`subject` and, where the task has a gallery, `identity` alone."""
    per_prompt = []
    for prompt, images in drawn:
        features, side = truth.encoder.features(images), images[0].width
        heldout = truth.features(task.references[prompt.reference], prompt, side)
        per_prompt.append({"subject": mean_pairwise_cosine(features, heldout)})
        if task.gallery is not None:
            per_prompt[-1]["identity"] = win_rate(features, *_gallery(task, prompt, truth, side))
    return {name: value for name, value in _means(per_prompt).items() if not math.isnan(value)}


def drift(images: Sequence[Image.Image], base_images: Sequence[Image.Image], truth: Truth) -> float:
    """1 - mean cosine of pictures of unrelated prompts by the adapted model and by its base, from equal noise."""
    encode = truth.encoder.features
    return 1 - mean_matched_cosine(encode(images), encode(base_images))


def _score_prompt(
    task: Task,
    prompt: Prompt,
    images: Sequence[Image.Image],
    features: Tensor,
    truth: Truth,
    text_encoder: TextEncoder | None,
) -> dict[str, float]:
    side = images[0].width
    heldout = truth.features(task.references[prompt.reference], prompt, side)
    learned_files = task.learned_for(prompt)
    learned = truth.features(learned_files, prompt, side)
    scores = {
        "subject": mean_pairwise_cosine(features, heldout),
        "diversity": diversity(features),
    }
    if learned_files == task.references[prompt.reference]:  # published protocol: nothing is held out
        scores["subject_real"] = 1 - diversity(heldout)
    elif task.kind != "style":
        scores["subject_real"] = mean_pairwise_cosine(learned, heldout)
        scores["memorisation"] = memorisation(features, learned, heldout)
    if task.gallery is not None:
        scores |= _identity(task, prompt, features, heldout, truth, side)
    checks = _pixel_checks(task, prompt, images, truth)
    scores |= checks
    real = truth.pictures(task.references[prompt.reference], prompt, side)
    if text_encoder is not None:
        text = text_encoder.text_features([prompt.text])
        scores["prompt"] = mean_pairwise_cosine(text_encoder.features(images), text)
        scores["prompt_real"] = mean_pairwise_cosine(text_encoder.features(real), text)
    elif checks:
        scores["prompt"] = fmean(checks.values())
        scores["prompt_real"] = fmean(_pixel_checks(task, prompt, real, truth).values())
    return scores


def _distribution(task: Task, drawn: Drawn, made: Tensor, truth: Truth) -> dict[str, float]:
    """`fd` of all that was drawn to the held-out pictures on the same backgrounds, and `fd_floor`, that of the learned
    ones to them, as many of each."""

    def real(files_of: Callable[[Prompt], Sequence[Path]]) -> Tensor:
        return torch.cat([truth.features(files_of(prompt), prompt, images[0].width) for prompt, images in drawn])

    heldout, learned = real(lambda prompt: task.references[prompt.reference]), real(task.learned_for)
    count = min(map(len, (made, heldout, learned)))
    if count < 2:
        return {}
    made, heldout, learned = (part[spread(range(len(part)), count)] for part in (made, heldout, learned))
    scores = {"fd": frechet_distance(made, heldout)}
    if task.kind != "style" and not torch.equal(learned, heldout):
        scores["fd_floor"] = frechet_distance(learned, heldout)
    return scores


def _identity(
    task: Task, prompt: Prompt, features: Tensor, heldout: Tensor, truth: Truth, side: int
) -> dict[str, float]:
    everyone, right = _gallery(task, prompt, truth, side)
    scores = {"identity": win_rate(features, everyone, right)}
    # The subject's own place in the gallery is its first held-out picture.
    if len(heldout) > 1:
        scores["identity_real"] = win_rate(heldout[1:], everyone, right)
    return scores


def _gallery(task: Task, prompt: Prompt, truth: Truth, side: int) -> tuple[Tensor, int]:
    """Features of everyone in the task's gallery, and the place of the one that the prompt asks for."""
    gallery = truth.manifest.galleries[str(task.gallery)]
    return truth.features(list(gallery.values()), prompt, side), list(gallery).index(prompt.reference)


def _pixel_checks(task: Task, prompt: Prompt, images: Sequence[Image.Image], truth: Truth) -> dict[str, float]:
    checks: dict[str, float] = {}
    if prompt.background is not None:
        colours, textures = truth.colours(), truth.textures()
        if prompt.background in colours:
            found = [background_colour(image, colours) for image in images]
        else:
            found = nearest_palette(images, textures, border=True)
        checks["background"] = fmean(name == prompt.background for name in found)
    if prompt.team_colour is not None and prompt.team_colour != task.team_colour:
        files, side = task.references[prompt.reference], images[0].width
        candidates = {
            team: truth.pictures(files, prompt.model_copy(update={"team_colour": team}), side)
            for team in truth.manifest.team_colours
        }
        found = nearest_palette(images, candidates, border=False)
        checks["team_colour"] = fmean(name == prompt.team_colour for name in found)
    return checks


def score_style(task: Task, drawn: Drawn, styles: Sequence[str], judge: TextEncoder) -> float:
    """Share of pictures whose prompt, with the token replaced by each style's name, fits best with the right name."""
    if task.style not in styles:
        raise ValueError(f"the style {task.style!r} is none of {', '.join(styles)}")
    hits: list[float] = []
    for prompt, images in drawn:
        texts = judge.text_features([prompt.text.replace(TOKEN, style) for style in styles])
        hits.append(win_rate(judge.features(images), texts, styles.index(str(task.style))))
    return fmean(hits)


def _means(per_prompt: Sequence[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for scores in per_prompt for name in scores)
    return {name: _mean([scores[name] for scores in per_prompt if name in scores]) for name in names}


def _mean(values: list[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return fmean(known) if known else math.nan
