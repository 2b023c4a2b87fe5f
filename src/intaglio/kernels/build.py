"""Compile the CPU kernels: `python src/intaglio/kernels/build.py`, or as part of an installation from source.

Plain C++ behind a C interface: no Python or torch headers, so one library serves every version of both.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parent / "cpu"
LIBRARY = "libintaglio_kernels.so"

# -fwrapv: int32 sums may wrap on the way to a result that fits. -ffp-contract=off: a fused multiply-add would round
# once where the definition rounds twice.
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fopenmp", "-fvisibility=hidden", "-Wall", "-Wextra"]
FLAGS += ["-fwrapv", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
STATIC = ["-static-libstdc++", "-static-libgcc", "-Wl,--exclude-libs,ALL"]
AVX2 = ["-mavx2", "-mfma"]
AVX512 = [
    *AVX2,
    "-Wno-uninitialized",  # GCC 12 warns of its own intrinsics (bug 105593)
    "-Wno-maybe-uninitialized",
    *(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "vbmi", "vnni")),
    "-mprefer-vector-width=512",
]
AVX512_BF16 = [*AVX512, "-mavx512bf16"]
UNITS = {
    "detect.cpp": [],
    "product.cpp": [],
    "product_avx2.cpp": AVX2,
    "product_avx512.cpp": AVX512,
    "rows.cpp": AVX2,
    "attention.cpp": AVX512_BF16,
    "attention_gradient.cpp": AVX512_BF16,
}
"""What each source may assume of the processor (`cpu/level.h`); never -march=native."""


def sources_hash() -> str:
    """SHA-256 over the sources, which the library also carries: tells a stale library."""
    digest = hashlib.sha256()
    for path in sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def compiler() -> str | None:
    """The C++ compiler: `$CXX`, else g++; None where there is none or the processor is no x86-64 under Linux."""
    if platform.machine() not in ("x86_64", "AMD64") or sys.platform != "linux":
        return None
    return shutil.which(os.environ.get("CXX", "g++"))


def build(folder: Path = SOURCES) -> Path | None:
    """Compile into `folder`; returns the library, or None where there is no compiler.

    Raises:
        subprocess.CalledProcessError: the compiler failed; it has said why.
    """
    program = compiler()
    if program is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    objects = []
    for unit, flags in UNITS.items():
        objects.append(folder / f"{unit}.{os.getpid()}.o")
        define = f'-DINTAGLIO_SOURCES="{sources_hash()}"'
        subprocess.run([program, *FLAGS, *flags, define, "-c", SOURCES / unit, "-o", objects[-1]], check=True)
    library, unfinished = folder / LIBRARY, folder / f"{LIBRARY}.{os.getpid()}"
    subprocess.run([program, "-shared", "-fopenmp", *STATIC, *objects, "-o", unfinished], check=True)
    unfinished.replace(library)  # never half a library under its name
    for path in objects:
        path.unlink()
    return library


if __name__ == "__main__":
    built = build()
    print(built or "no C++ compiler for x86-64 under Linux: intaglio will compute with torch alone")
