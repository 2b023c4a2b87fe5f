"""What the linker may share: one copy of an inline function serves all units, whatever processor they are for."""

import shutil
import subprocess

import pytest

from intaglio.kernels import build

pytestmark = pytest.mark.slow


@pytest.fixture
def path():
    """Nothing is computed here: once, not on every path."""


@pytest.mark.skipif(build.compiler() is None or shutil.which("nm") is None, reason="needs a C++ compiler")
def test_no_code_is_shared_between_processors(tmp_path):
    owners: dict[str, set[tuple[str, ...]]] = {}
    for unit, flags in build.UNITS.items():
        made = tmp_path / f"{unit}.o"
        command = [
            build.compiler(),
            *build.FLAGS,
            *flags,
            '-DINTAGLIO_SOURCES=""',
            "-c",
            build.SOURCES / unit,
            "-o",
            made,
        ]
        subprocess.run(command, check=True)
        for line in subprocess.run(["nm", made], check=True, capture_output=True, text=True).stdout.splitlines():
            kind, name = line.split()[-2:]
            if kind == "W":  # a function; V is data
                owners.setdefault(name, set()).add(tuple(flags))
    assert {name: flags for name, flags in owners.items() if len(flags) > 1} == {}
