"""Tiles against a loop nest that is walked tile by tile, and the message when nothing fits."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intaglio.accelerator.limits import Limits, require_room
from intaglio.accelerator.products import products_of
from intaglio.accelerator.tiling import ORDERS, STREAMED, _refetch, candidates_of, tile_products
from intaglio.accelerator.window import longest_under, window_elements
from intaglio.errors import UserError

LIMITS = Limits(16384, 16384, 16384, 16, 16, 32, 8)


def tilings(p, dataflow, temporal_tiling=True):
    found = candidates_of(p, LIMITS, dataflow, temporal_tiling)
    return tile_products(p, found, dataflow, "wavefront", LIMITS.rows, LIMITS.cols)


def walked_fetches(order, trips, indexed):
    """Times an operand's tile is fetched in all, by walking the loops with room for one tile; oracle, slow."""
    fetches, held = 0, None
    for point in itertools.product(*(range(trips[name]) for name in order)):
        at = dict(zip(order, point, strict=True))
        tile = tuple(at[name] for name in indexed)
        fetches += tile != held
        held = tile
    return fetches


@pytest.mark.parametrize("order", list(itertools.permutations("mnk")))
@pytest.mark.parametrize("indexed", ["mk", "kn", "mn"])
def test_refetch_is_what_a_walk_through_the_loops_counts(order, indexed):
    for trips in itertools.product((1, 2, 3), repeat=3):
        named = dict(zip("mnk", trips, strict=True))
        factor = int(_refetch(order, {n: np.array(t) for n, t in named.items()}, indexed))
        tiles = named[indexed[0]] * named[indexed[1]]
        assert factor * tiles == walked_fetches(order, named, indexed)


def test_three_orders_are_as_good_as_six():
    for trips in itertools.product((1, 2, 5), repeat=3):
        named = {n: np.array(t) for n, t in zip("mnk", trips, strict=True)}

        def traffic(order, named=named):
            return [int(_refetch(order, named, indexed)) for indexed in ("mk", "kn", "mn")]

        of_three = [traffic(order) for order in ORDERS]
        assert all(traffic(order) in of_three for order in itertools.permutations("mnk"))


@settings(max_examples=80, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 3000)),
    dataflow=st.sampled_from(["weight_stationary", "output_stationary"]),
)
def test_tiles_fit_and_traffic_is_never_below_the_compulsory(shape, dataflow):
    M, N, K = shape
    t = tilings(products_of([{"M": M, "N": N, "K": K}]), dataflow)
    assert t.feasible.all()
    assert (t.dram_bytes >= M * K + K * N + M * N).all()
    assert (np.diff(t.dram_bytes) < 0).all()
    resident = t.order != STREAMED
    assert (t.tile_m * t.tile_k <= LIMITS.input_bytes)[resident].all()
    assert (t.tile_k * t.tile_n <= LIMITS.weight_bytes)[resident].all()
    streams = M if dataflow == "weight_stationary" else K
    assert (t.pieces <= streams).all()


def test_what_fits_whole_is_fetched_once():
    t = tilings(products_of([{"M": 60, "N": 70, "K": 80}]), "output_stationary")
    assert t.dram_bytes.tolist() == [60 * 80 + 80 * 70 + 60 * 70]


def test_streamed_traffic_by_hand():
    # WS, M = 4096, N = 32, K = 32, 16 x 16: the 4096 x 16 strip (64 KiB) does not stay in 16 KiB, so X passes once
    # for each of
    # the 2 column folds; sums of 4096 x 16 x 4 bytes do not stay either and go out and back between the 2 row folds.
    t = tilings(products_of([{"M": 4096, "N": 32, "K": 32}]), "weight_stationary", temporal_tiling=False)
    assert t.left_bytes.tolist() == [2 * 4096 * 32]
    assert t.right_bytes.tolist() == [32 * 32]
    assert t.result_bytes.tolist() == [4096 * 32 * (1 + 2 * 4)]


def test_a_convolutions_window_is_its_pixels_not_its_columns():
    # 3 x 3 over 8 x 8 pixels of 4 channels: im2col is 64 x 36 = 2304 elements, the image 8 * 8 * 4 = 256.
    p = products_of([{"M": 64, "N": 4, "K": 36, "taps": 9, "reach": 3, "out_w": 8, "in_w": 8, "in_pixels": 64}])
    assert window_elements(p, p.M, p.K).tolist() == [256]
    # two rows of pixels need four rows of the input
    assert window_elements(p, np.array([16]), p.K).tolist() == [4 * 8 * 4]


@pytest.mark.parametrize("limit", [10, 300, 5000])
def test_the_longest_tile_under_a_window(limit):
    p = products_of([{"M": 64, "N": 4, "K": 36, "taps": 9, "reach": 3, "out_w": 8, "in_w": 8, "in_pixels": 64}])
    found = int(longest_under(p, np.array([[36]]), np.array([[64]]), np.array([[float(limit)]]), streams_m=True)[0, 0])
    held = [float(window_elements(p, np.array([m]), np.array([36]))[0]) for m in range(1, 65)]
    assert found == max((m for m, elements in enumerate(held, 1) if elements <= limit), default=0)


def test_nothing_fits():
    small = Limits(16384, 100, 64, 16, 16, 32, 8)
    p = products_of([{"M": 64, "N": 64, "K": 64}, {"M": 1, "N": 1, "K": 1}])
    with pytest.raises(UserError) as error:
        require_room(p, ["to_q", "tiny"], small, ("weight_stationary", "output_stationary"))
    assert str(error.value) == (
        "to_q: the product M=64 N=64 K=64 does not fit on this accelerator, nor do 0 others\n"
        "  weight_stationary: one fold needs 256 bytes of the weight buffer, usable are 100, short of 156\n"
        "  output_stationary: one fold needs 1,024 bytes of the output buffer, usable are 64, short of 960\n"
        "  what would help: a larger buffer, double_buffered = false (doubles what is usable, and nothing "
        "overlaps), fewer rows or cols, fewer operand_bits, or the other dataflow in `modes`"
    )
