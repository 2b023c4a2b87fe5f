"""Fréchet distance of features, and the distance that two halves of real images have at the same size."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def frechet_distance(a_ND: Tensor, b_MD: Tensor) -> float:
    """|mean difference|^2 + trace(A + B - 2 (A B)^(1/2)) of the Gaussians with the means and covariances of both.

    With Inception features this is FID (Heusel et al. 2017); with others it is called by its encoder (FD-SqueezeNet).
    It depends on N and M: compare only with `real_floor` at the same size.

    Raises:
        ValueError: fewer than two rows, or rows of unlike width.
    """
    if a_ND.ndim != 2 or b_MD.ndim != 2 or a_ND.shape[1] != b_MD.shape[1] or min(len(a_ND), len(b_MD)) < 2:
        raise ValueError(f"need (N, D) and (M, D) with N, M >= 2, not {tuple(a_ND.shape)} and {tuple(b_MD.shape)}")
    a, b = a_ND.double().numpy(), b_MD.double().numpy()
    # The trace of (A B)^(1/2) is the sum of the singular values of Sa^T Sb, where A = Sa Sa^T and B = Sb Sb^T: exact
    # for singular covariances too, on an N x M matrix.
    overlap = float(np.linalg.norm(_spread(a) @ _spread(b).T, ord="nuc"))
    variances = np.square(_spread(a)).sum() + np.square(_spread(b)).sum()
    mean = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    return float(max(0.0, mean + variances - 2 * overlap))


def real_floor(real_ND: Tensor, size: int, *, seed: int = 0, repeats: int = 5) -> float:
    """Mean distance of two disjoint random draws of `size` real images: what a perfect generator would score.

    Raises:
        ValueError: there are not 2 x `size` real images.
    """
    if len(real_ND) < 2 * size:
        raise ValueError(f"the floor at n = {size} needs {2 * size} real images, not {len(real_ND)}")
    generator = torch.Generator().manual_seed(seed)
    distances = []
    for _ in range(repeats):
        order = torch.randperm(len(real_ND), generator=generator)
        distances.append(frechet_distance(real_ND[order[:size]], real_ND[order[size : 2 * size]]))
    return sum(distances) / repeats


def _spread(features_ND: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, D) with `spread^T spread` the covariance (divided by N - 1)."""
    return (features_ND - features_ND.mean(axis=0)) / np.sqrt(len(features_ND) - 1)
