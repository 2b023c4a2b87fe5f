"""Scores with answers worked out by hand."""

import math

import pytest
import torch

from intaglio.metrics.scores import closed_gap, mean_matched_cosine, mean_pairwise_cosine


def test_pairwise_cosine_by_hand():
    a = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    b = torch.tensor([[5.0, 0.0], [-1.0, 0.0], [1.0, 1.0]])
    # cosines: 1, -1, sqrt(1/2); 0, 0, sqrt(1/2)
    assert mean_pairwise_cosine(a, b) == pytest.approx(2 * math.sqrt(0.5) / 6)
    assert mean_pairwise_cosine(a, b) == mean_pairwise_cosine(b, a)


def test_pairwise_cosine_is_the_mean_over_all_pairs():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(7, 13, generator=generator), torch.randn(5, 13, generator=generator)
    slow = torch.stack([torch.cosine_similarity(x, y, dim=0) for x in a.double() for y in b.double()]).mean()
    assert mean_pairwise_cosine(a, b) == pytest.approx(float(slow), abs=1e-12)


def test_matched_cosine_by_hand():
    a, b = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 4.0], [0.0, 7.0]])
    assert mean_matched_cosine(a, b) == pytest.approx((3 / 5 + 1) / 2)


def test_wrong_shapes():
    with pytest.raises(ValueError, match=r"not \(0, 2\) and \(1, 2\)"):
        mean_pairwise_cosine(torch.ones(0, 2), torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"not \(1, 3\) and \(1, 2\)"):
        mean_pairwise_cosine(torch.ones(1, 3), torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"not \(2, 2\) and \(1, 2\)"):
        mean_matched_cosine(torch.ones(2, 2), torch.ones(1, 2))


def test_closed_gap():
    assert closed_gap(0.5, 0.75, 1.0) == 0.5
    assert closed_gap(0.5, 0.25, 1.0) == -0.5
    assert math.isnan(closed_gap(0.5, 0.6, 0.5))
