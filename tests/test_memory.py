"""Our commands tune the allocator before torch's first tensor; `import intaglio` does not; users decide."""

import os
import sys

import pytest

from fresh_interpreter import run_fresh
from intaglio.runtime import memory


@pytest.fixture
def tune(monkeypatch):
    for name in (memory.HUGE_PAGES, *memory._GLIBC):
        monkeypatch.delenv(name, raising=False)
    return memory.tune_allocator.__wrapped__


def test_a_user_decides(tune, monkeypatch):
    tune()
    assert os.environ[memory.HUGE_PAGES] == "1"
    monkeypatch.setenv(memory.HUGE_PAGES, "0")
    assert not tune()
    assert os.environ[memory.HUGE_PAGES] == "0"


def test_a_tuned_allocator_is_left_alone(tune, monkeypatch):
    monkeypatch.setenv("MALLOC_TOP_PAD_", "0")
    assert not tune()


FRESH = """
import ctypes, os
for name in ("THP_MEM_ALLOC_ENABLE", "GLIBC_TUNABLES"):
    os.environ.pop(name, None)
calls = []
real = ctypes.CDLL
class Watched:
    def __init__(self, *a, **k): self._lib = real(*a, **k)
    def __getattr__(self, name):
        if name == "mallopt": calls.append(name)
        return getattr(self._lib, name)
ctypes.CDLL = Watched
before = dict(os.environ)
"""


def test_import_changes_neither_environment_nor_allocator():
    code = FRESH + "import intaglio, intaglio.adapters.attach\nprint(os.environ == before, calls)"
    assert run_fresh(code).strip() == "True []"


def test_a_command_tunes_before_torch_is_imported():
    code = (
        FRESH
        + """
import sys
from intaglio.runtime import memory
import intaglio.cli
sys.argv = ["intaglio", "--version"]
intaglio.cli.main()
print(os.environ["THP_MEM_ALLOC_ENABLE"], calls[:1], "torch" in sys.modules)
"""
    )
    expected = "1 ['mallopt'] False" if sys.platform.startswith("linux") else "1 [] False"
    assert run_fresh(code).splitlines()[-1] == expected


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_freed_tensors_go_back():
    code = """
import os
for name in ("THP_MEM_ALLOC_ENABLE", "GLIBC_TUNABLES"):
    os.environ.pop(name, None)
import intaglio
told = intaglio.tune_allocator()
import torch
def resident():
    return int(next(x for x in open("/proc/self/status") if x.startswith("VmRSS")).split()[1]) >> 10
if not told:
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
