"""Compile the CPU kernels: `python src/intaglio/kernels/build.py`, or as part of an installation from source.

With `--check TEST.cpp...` the tests are compiled with them under sanitizers, into build/, and run.

Plain C++ behind a C interface: no Python or torch headers, so one library serves every version of both. It takes GCC 11
or newer, the first with AVX-VNNI.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

if __package__:
    from intaglio.kernels import headers
else:  # a script, or setup.py: this folder is on the path, the package need not be
    import headers  # pyright: ignore[reportMissingImports]

ROOT = Path(__file__).parent
"""`native/` has what operations share, `<operation>/native/` what is its own."""
FOLDER = ROOT / "native"
LIBRARY = "libintaglio_kernels.so"

# -fwrapv: int32 sums may wrap on the way to a result that fits. -ffp-contract=off: a fused multiply-add would round
# once where the definition rounds twice.
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fopenmp", "-fvisibility=hidden", "-Wall", "-Wextra"]
FLAGS += ["-fwrapv", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
STATIC = ["-static-libstdc++", "-static-libgcc", "-Wl,--exclude-libs,ALL"]
AVX2 = ["-mavx2", "-mfma"]
AVX_VNNI = [*AVX2, "-mavxvnni"]
AVX512_VL = [*AVX2, "-mavx512vl", "-mavx512vnni"]
AVX512 = [
    *AVX2,
    *("-Wno-maybe-uninitialized", "-Wno-uninitialized"),  # GCC 12 warns of its own headers (GCC bug 105593)
    *(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "vbmi", "vnni")),
    "-mprefer-vector-width=512",
    "-mprfchw",
]
AVX512_BF16 = [*AVX512, "-mavx512bf16"]
FLAGS_OF = {
    "avx2": AVX2,
    "avxvnni": AVX_VNNI,
    "avx512vl": AVX512_VL,
    "avx512": AVX512,
    "avx512bf16": AVX512_BF16,
}
"""What a source may assume of the processor, by the end of its name: `product_avx2.cpp`. One without such an end serves
any processor, and is what chooses among the others (`native/dispatch.h`). Never -march=native."""


def units() -> dict[Path, list[str]]:
    """Every source and its flags."""
    found = sorted([*ROOT.glob("native/*.cpp"), *ROOT.glob("*/native/*.cpp")])
    return {path: FLAGS_OF.get(path.stem.rpartition("_")[2], []) for path in found}


def sources_hash() -> str:
    """SHA-256 over the sources, which the library also carries: tells a stale library."""
    digest = hashlib.sha256()
    for path in sorted([*ROOT.glob("**/native/*.cpp"), *ROOT.glob("**/native/*.h")]):
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


NO_COMPILER = "no C++ compiler for x86-64 under Linux (CXX names one, else it is g++)"


def compiler() -> list[str] | None:
    """The C++ compiler's command: `$CXX`, else g++; None where it is not there or this is no x86-64 under Linux."""
    if platform.machine() not in ("x86_64", "AMD64") or sys.platform != "linux":
        return None
    command = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    return command if shutil.which(command[0]) else None


def build(folder: Path = FOLDER) -> Path | None:
    """Compile into `folder`; returns the library, or None where there is no compiler.

    Raises:
        subprocess.CalledProcessError: the compiler failed; it has said why.
    """
    program = compiler()
    if program is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    library, unfinished = folder / LIBRARY, folder / f"{LIBRARY}.{os.getpid()}"
    with tempfile.TemporaryDirectory() as scratch:
        objects = _compile(program, Path(scratch), FLAGS)
        try:
            subprocess.run([*program, "-shared", "-fopenmp", *STATIC, *objects, "-o", unfinished], check=True)
            unfinished.replace(library)  # never half a library under its name
        finally:
            unfinished.unlink(missing_ok=True)
    return library


def build_checked(tests: Sequence[Path], folder: Path) -> list[Path]:
    """Each test, a C++ program, with the kernels under AddressSanitizer and UndefinedBehaviorSanitizer, in `folder`."""
    program = compiler()
    assert program is not None, NO_COMPILER
    checks = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wno-psabi"]
    flags = [flag for flag in FLAGS if not flag.startswith(("-O", "-fvisibility"))] + checks
    folder.mkdir(parents=True, exist_ok=True)
    programs = []
    with tempfile.TemporaryDirectory() as scratch:
        objects = _compile(program, Path(scratch), flags)
        for test in tests:
            programs.append(folder / test.stem)
            subprocess.run([*program, *flags, f"-I{ROOT}", test, *objects, "-o", programs[-1]], check=True)
    return programs


def _compile(program: list[str], folder: Path, flags: Sequence[str]) -> list[Path]:
    define = [f'-DINTAGLIO_SOURCES="{sources_hash()}"', f"-I{ROOT}"]
    layout = folder / "layout.cpp"
    layout.write_text(headers.layout_source(), encoding="utf-8")
    objects = []
    for unit, own in {**units(), layout: []}.items():
        objects.append(folder / f"{unit.parent.parent.name}_{unit.stem}.o")
        subprocess.run([*program, *flags, *own, *define, "-c", unit, "-o", objects[-1]], check=True)
    return objects


if __name__ == "__main__":
    if sys.argv[1:2] == ["--check"]:
        for checked in build_checked([Path(name) for name in sys.argv[2:]], Path("build")):
            subprocess.run([checked], check=True)
        sys.exit()
    try:
        built = build()
    except subprocess.CalledProcessError as error:
        sys.exit(f"the kernels were not compiled: {error}")
    print(built or f"{NO_COMPILER}: intaglio will compute with torch alone")
    sys.exit(built is None)
