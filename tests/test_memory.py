"""Huge pages are asked for before torch's first tensor, and users decide for themselves."""

import os
import sys

import pytest

from fresh_interpreter import run_fresh
from intaglio.runtime import memory


def test_a_user_decides(monkeypatch):
    monkeypatch.delenv(memory.HUGE_PAGES, raising=False)
    memory.ask_for_huge_pages()
    assert os.environ[memory.HUGE_PAGES] == "1"
    monkeypatch.setenv(memory.HUGE_PAGES, "0")
    memory.ask_for_huge_pages()
    assert os.environ[memory.HUGE_PAGES] == "0"
    assert not memory.map_large_blocks.__wrapped__()


def test_a_tuned_allocator_is_left_alone(monkeypatch):
    monkeypatch.setenv(memory.HUGE_PAGES, "1")
    monkeypatch.setenv("MALLOC_TOP_PAD_", "0")
    assert not memory.map_large_blocks.__wrapped__()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_freed_tensors_go_back():
    code = """
import os
for name in ("THP_MEM_ALLOC_ENABLE", "GLIBC_TUNABLES"):
    os.environ.pop(name, None)
import torch, intaglio
from intaglio.runtime.memory import map_large_blocks
def resident():
    return int(next(x for x in open("/proc/self/status") if x.startswith("VmRSS")).split()[1]) >> 10
if not map_large_blocks():
    print(0, 0)
else:
    large = [torch.ones(2**21) for _ in range(20)]
    small = torch.ones(2**18)
    before = resident()
    large[::2] = [None] * 10
    print(before, resident())
"""
    before, after = map(int, run_fresh(code).split())
    assert before == after == 0 or before - after > 70
