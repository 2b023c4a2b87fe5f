"""Scores of features. Which encoder made the features belongs beside every number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

ItemT = TypeVar("ItemT")


def mean_pairwise_cosine(a_ND: Tensor, b_MD: Tensor) -> float:
    """Mean cosine over all N x M pairs, in [-1, 1]. A zero vector has cosine 0 with everything.

    With features of generated images and of held-out images of the subject this is subject fidelity: the score
    DINO or CLIP-I of DreamBooth (Ruiz et al. 2023, section 4.2) when the features are of those networks.
    """
    if not len(a_ND) or not len(b_MD) or a_ND.shape[1:] != b_MD.shape[1:]:
        shapes = f"{tuple(a_ND.shape)} and {tuple(b_MD.shape)}"
        raise ValueError(f"need (N, D) and (M, D) with N, M >= 1, not {shapes}")
    # The mean of all products of unit vectors is the product of their means: no N x M matrix.
    mean_a_D, mean_b_D = (F.normalize(x.double(), dim=-1).mean(dim=0) for x in (a_ND, b_MD))
    return float(mean_a_D @ mean_b_D)


def mean_matched_cosine(a_ND: Tensor, b_ND: Tensor) -> float:
    """Mean cosine of row `i` of one with row `i` of the other: CLIP-T when they are CLIP images and their prompts."""
    if not len(a_ND) or a_ND.shape != b_ND.shape:
        raise ValueError(f"need two (N, D) with N >= 1, not {tuple(a_ND.shape)} and {tuple(b_ND.shape)}")
    return float(torch.cosine_similarity(a_ND.double(), b_ND.double(), dim=-1).mean())


def closed_gap(before: float, after: float, real: float) -> float:
    """Share of the way from `before` to the ceiling `real` that `after` has gone: 0 nothing, 1 all of it.

    NaN when the ceiling is not above the start: there is no gap that could be closed.
    """
    return (after - before) / (real - before) if real > before else math.nan


def win_rate(a_ND: Tensor, gallery_GD: Tensor, right: int) -> float:
    """Share of rows whose nearest row of the gallery, by cosine, is row `right`: the identity win rate."""
    similarity_NG = F.normalize(a_ND.double(), dim=-1) @ F.normalize(gallery_GD.double(), dim=-1).T
    return float((similarity_NG.argmax(dim=1) == right).double().mean())


def mean_other_cosine(a_ND: Tensor) -> float:
    """Mean cosine over all pairs of different rows: 1 for copies of one image. NaN for a single row."""
    if len(a_ND) < 2:
        return math.nan
    unit = F.normalize(a_ND.double(), dim=-1)
    total = float((unit @ unit.T).sum()) - float(unit.square().sum())
    return total / (len(a_ND) * (len(a_ND) - 1))


def nearness(a_ND: Tensor, b_MD: Tensor) -> float:
    """Mean over rows of one of the cosine to their nearest row of the other."""
    a, b = (F.normalize(x.double(), dim=-1) for x in (a_ND, b_MD))
    return float((a @ b.T).amax(dim=1).mean())


def spread(items: Sequence[ItemT], count: int | None) -> list[ItemT]:
    """`count` of the items at even distances, all when None or when there are no more."""
    if count is None or count >= len(items):
        return list(items)
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]
