"""The order of photos is a pure function; processes share one batch."""

import pytest
import torch

from intaglio.data.noise import step_generator
from intaglio.data.sampling import batch_indices, derive_seed, epoch_order, repeated


@pytest.mark.parametrize(("num_items", "batch_size"), [(1, 1), (1, 3), (5, 2), (7, 7), (3, 8), (10, 4)])
def test_every_epoch_shows_every_item_once(num_items, batch_size):
    steps = range(3 * num_items)
    row = [i for s in steps for i in batch_indices(s, seed=3, num_items=num_items, batch_size=batch_size)]
    for start in range(0, len(row) - num_items + 1, num_items):
        assert sorted(row[start : start + num_items]) == list(range(num_items))


@pytest.mark.parametrize(("batch_size", "world_size"), [(1, 2), (3, 2), (2, 5)])
def test_processes_share_the_batch_of_one(batch_size, world_size):
    for step in range(20):
        shares = [
            batch_indices(step, seed=1, num_items=7, batch_size=batch_size, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        row = [i for share in shares for i in share]
        assert row == batch_indices(step, seed=1, num_items=7, batch_size=batch_size * world_size)


def test_accumulated_micro_steps_are_one_larger_batch():
    micro = [batch_indices(step, seed=1, num_items=5, batch_size=2) for step in (6, 7)]
    assert micro[0] + micro[1] == batch_indices(3, seed=1, num_items=5, batch_size=4)


def test_epochs_and_seeds_differ_and_the_order_never_changes():
    assert epoch_order(0, 0, 6) != epoch_order(0, 1, 6) != epoch_order(1, 1, 6)
    # A resumed run must see the same order after an upgrade: this line changes only with a note in the CHANGELOG.
    assert epoch_order(0, 0, 6) == (0, 5, 1, 2, 3, 4)


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_items must be at least 1, not 0"):
        batch_indices(0, seed=0, num_items=0, batch_size=1)
    with pytest.raises(ValueError, match="0 <= rank < world_size"):
        batch_indices(0, seed=0, num_items=1, batch_size=1, rank=2, world_size=2)


def test_repeats():
    assert repeated([2, 0, 1]) == [0, 0, 2]


def test_noise_depends_on_step_item_and_stream_only():
    def draw(*key):
        return torch.randn(8, generator=step_generator(*key))

    assert torch.equal(draw(0, 5, 1), draw(0, 5, 1))
    others = [(0, 5, 2), (0, 6, 1), (1, 5, 1), (0, 5, 1, "crop"), (0, 51, 1), (0, 5, 11)]
    assert not any(torch.equal(draw(0, 5, 1), draw(*other)) for other in others)


def test_seeds_fit_63_bits():
    assert derive_seed("order", 0, 0) != derive_seed("order", 0, 1)
    assert 0 <= derive_seed("a", 2**70) < 2**63
