"""Peak memory of known allocations."""

import time

import numpy as np
import pytest
import torch

from intaglio.runtime.peak import PeakMemory

MIB = 1 << 20


def touch(mebibytes: int) -> np.ndarray:
    return np.ones(mebibytes * MIB, dtype=np.uint8)


def test_a_block_that_is_freed_before_the_end_counts():
    with PeakMemory() as peak:
        block = touch(200)
        time.sleep(0.05)
        del block
    assert 195 * MIB < peak.bytes < 230 * MIB


def test_what_was_there_before_does_not_count():
    before = touch(100)
    with PeakMemory() as peak:
        block = touch(50)
        time.sleep(0.05)
    assert peak.bytes < 80 * MIB
    assert before.size + block.size == 150 * MIB


def test_what_the_process_had_freed_before_counts_in_full():
    """Blocks that malloc keeps after `free`, and hands out again without new pages."""
    freed = [torch.ones(2**16) for _ in range(400)]  # 100 MiB from the heap
    last = torch.ones(2**16)
    del freed
    with PeakMemory() as peak:
        again = [torch.ones(2**16) for _ in range(400)]
        time.sleep(0.05)
    assert peak.bytes > 90 * MIB
    assert peak.process_bytes > peak.bytes + 90 * MIB
    assert len(again) == 400
    assert len(last)


def test_it_can_be_used_again_and_passes_errors_on():
    peak = PeakMemory()
    with pytest.raises(KeyError), peak:
        raise KeyError
    with peak:
        block = touch(64)
        time.sleep(0.05)
    assert peak.bytes > 60 * MIB
    assert block.size


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_is_exact():
    with PeakMemory("cuda") as peak:
        block = torch.ones(64 * MIB, dtype=torch.uint8, device="cuda")
        del block
    assert peak.bytes == 64 * MIB
