"""Metrics on cases with a known answer."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from intaglio.metrics.colour import nearest_palette
from intaglio.metrics.frechet import frechet_distance, real_floor
from intaglio.metrics.intervals import bootstrap, paired_difference
from intaglio.metrics.scores import mean_matched_cosine, mean_other_cosine, nearness, win_rate


def normal(rows, columns, seed):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_frechet_of_the_same_pictures_is_zero():
    assert frechet_distance(normal(50, 8, 0), normal(50, 8, 0)) == pytest.approx(0, abs=1e-9)
    few = normal(5, 40, 1)  # a singular covariance
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-9)


def test_frechet_by_hand():
    """One feature: (difference of means)^2 + (difference of deviations)^2. Shift by 3 and stretch by 2."""
    a = torch.tensor([[-1.0], [0.0], [1.0]])  # deviation 1
    assert frechet_distance(a, 2 * a + 3) == pytest.approx(3**2 + (2 - 1) ** 2)


def test_frechet_agrees_with_the_matrix_square_root():
    from scipy.linalg import sqrtm

    a, b = normal(200, 6, 0), normal(150, 6, 1) @ torch.diag(torch.arange(1.0, 7.0).double()) + 0.5
    cov_a, cov_b = np.cov(a.numpy().T), np.cov(b.numpy().T)
    expected = float((a.mean(0) - b.mean(0)).square().sum()) + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_the_floor_falls_with_the_size_and_another_population_lies_above_it():
    real = normal(800, 10, 0)
    floor_100, floor_400 = real_floor(real, 100), real_floor(real, 400)
    assert 0 < floor_400 < floor_100
    assert frechet_distance(normal(400, 10, 1) + 0.5, real[:400]) > 5 * floor_400
    assert frechet_distance(normal(400, 10, 1), real[:400]) < 2 * floor_400
    with pytest.raises(ValueError, match="n = 500 needs 1000 real images, not 800"):
        real_floor(real, 500)


def test_bootstrap_without_spread_is_a_point():
    interval = bootstrap({"a": [0.5, 0.5], "b": [0.5]})
    assert (interval.mean, interval.low, interval.high) == (0.5, 0.5, 0.5)
    assert math.isnan(bootstrap({}).mean)


def test_bootstrap_weighs_subjects_equally():
    assert bootstrap({"a": [1.0] * 9, "b": [0.0]}).mean == 0.5


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    hits = 0
    for trial in range(100):
        offsets = random.normal(0, 1, 20)
        interval = bootstrap({str(i): list(o + random.normal(0, 1, 3)) for i, o in enumerate(offsets)}, seed=trial)
        hits += interval.low <= 0 <= interval.high
    assert 0.88 < hits / 100 <= 0.99


def test_a_paired_difference_cancels_what_both_share():
    random = np.random.default_rng(1)
    noise = {s: {seed: float(random.normal(0, 10)) for seed in range(3)} for s in "abcdefgh"}
    better = {s: {seed: v + 0.2 for seed, v in seeds.items()} for s, seeds in noise.items()}
    interval = paired_difference(better, noise)
    assert (interval.low, interval.high) == (pytest.approx(0.2), pytest.approx(0.2))
    alone = bootstrap({s: list(v.values()) for s, v in better.items()})
    assert alone.high - alone.low > 1
    assert math.isnan(paired_difference({"a": {0: 1.0}}, {"a": {1: 1.0}}).mean)  # no seed in common


def test_identical_and_shuffled_pairs():
    rows = torch.eye(6)
    assert mean_matched_cosine(rows, rows) == pytest.approx(1)
    assert mean_matched_cosine(rows, rows.roll(1, 0)) == pytest.approx(0)  # drift of a shuffled set: 1


def test_win_rate():
    gallery = torch.eye(3)
    images = torch.tensor([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [2.0, 1.9, 0.0], [0.0, 0.0, 1.0]])
    assert win_rate(images, gallery, 0) == 0.5
    assert win_rate(gallery, gallery, 2) == pytest.approx(1 / 3)


def test_cosine_to_the_others():
    assert mean_other_cosine(torch.ones(4, 3)) == pytest.approx(1)
    assert mean_other_cosine(torch.eye(4)) == pytest.approx(0)
    assert math.isnan(mean_other_cosine(torch.ones(1, 3)))


def test_nearness_is_to_the_nearest_alone():
    others = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    assert nearness(torch.tensor([[2.0, 0.0], [0.0, 3.0]]), others) == pytest.approx((1 + 0.8) / 2)


def textured(colours, seed, size=48):
    levels = np.random.default_rng(seed).choice(len(colours), (size, size))
    return Image.fromarray(np.array(colours, dtype=np.uint8)[levels])


def test_a_texture_is_told_by_its_colours_whatever_stands_in_the_middle():
    sand = [(230, 200, 120), (200, 170, 90)]
    stone = [(200, 200, 205), (120, 120, 125)]
    candidates = {"sand": [textured(sand, 0)], "stone": [textured(stone, 0)]}
    image = textured(stone, 7)
    image.paste(textured(sand, 3, 36), (6, 6))  # a sandy subject
    assert nearest_palette([image], candidates, border=True) == ["stone"]
    assert nearest_palette([image], candidates, border=False) == ["sand"]
    assert nearest_palette([textured(sand, 9), image], candidates, border=True) == ["sand", "stone"]
    with pytest.raises(ValueError, match="no candidates"):
        nearest_palette([image], {}, border=True)
