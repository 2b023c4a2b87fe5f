"""What the compiler and the linker make of the units for several processors."""

import shutil
import subprocess

import pytest

from intaglio.kernels import build, isa

pytestmark = [pytest.mark.slow, pytest.mark.once]


# The linker keeps one copy of an inline function for all units, whatever processor they are for.
@pytest.mark.skipif(build.compiler() is None or shutil.which("nm") is None, reason="needs a C++ compiler")
def test_no_code_is_shared_between_processors(tmp_path):
    owners: dict[str, set[tuple[str, ...]]] = {}
    for unit, flags in build.units().items():
        made = tmp_path / f"{unit.parent.parent.name}_{unit.stem}.o"
        command = [
            *build.compiler(),
            *build.FLAGS,
            *flags,
            '-DINTAGLIO_SOURCES=""',
            "-c",
            f"-I{build.ROOT}",
            unit,
            "-o",
            made,
        ]
        subprocess.run(command, check=True)
        for line in subprocess.run(["nm", made], check=True, capture_output=True, text=True).stdout.splitlines():
            kind, name = line.split()[-2:]
            if kind == "W":  # a function; V is data
                owners.setdefault(name, set()).add(tuple(flags))
    assert {name: flags for name, flags in owners.items() if len(flags) > 1} == {}


@pytest.mark.skipif(build.compiler() is None, reason="needs a C++ compiler")
def test_what_is_compiled_for_avx_vnni(tmp_path):
    """Its code, with every `vpdpbusd` in the encoding that AVX-512 has, where only that can be run."""
    if not isa.SETS["avx512vl"] <= isa.detected():
        pytest.skip("needs AVX-512 VNNI")
    folder = build.ROOT / "weight_product" / "native"
    unit = folder / "product_avxvnni.cpp"
    flags = [*build.FLAGS, *build.units()[unit], f"-I{build.ROOT}"]
    text = tmp_path / "product.s"
    subprocess.run([*build.compiler(), *flags, "-S", unit, "-o", text], check=True)
    assert "{vex} vpdpbusd" in text.read_text()
    text.write_text(text.read_text().replace("{vex} vpdpbusd", "vpdpbusd"))
    main = tmp_path / "main.cpp"
    main.write_text(MAIN)
    program = tmp_path / "program"
    other = folder / "product_avx512vl.cpp"
    sources = [other, text, main]
    flags = [*build.FLAGS, *build.units()[other], f"-I{build.ROOT}"]
    subprocess.run([*build.compiler(), *flags, *sources, "-o", program], check=True)
    subprocess.run([program], check=True)


MAIN = """
#include <vector>
#include "weight_product/native/product.h"
namespace intaglio {
namespace avxvnni {
void product(const Product&);
}
namespace avx512vl {
void product(const Product&);
}
}
int main() {
    for (int64_t rows : {1, 2, 3, 4, 5, 6, 7, 101})
        for (int64_t in : {1, 3, 64, 1030, 2500})
            for (int64_t out : {1, 17, 140})
                for (int64_t back : {0, 1}) {
                    const int64_t reduction = back ? out : in, columns = back ? in : out;
                    std::vector<uint8_t> codes(out * in);
                    std::vector<int8_t> x(rows * reduction);
                    std::vector<int32_t> a(rows * columns), b(rows * columns, 1);
                    uint32_t state = 1;
                    for (auto& v : codes) v = (state = state * 1664525u + 1013904223u) >> 24;
                    for (auto& v : x) v = static_cast<int8_t>((state = state * 1664525u + 1013904223u) >> 24);
                    const Weight w{codes.data(), 8, in, out, 1, in, nullptr, nullptr, nullptr, 1, in};
                    const Window window{1, 1, rows, 1, rows, 1, 1, 1, 1, 0, 0, 1, 1};
                    Product p{x.data(), reduction, &w, &window, back, 0, a.data(), columns, nullptr, 1, nullptr,
                              nullptr, 1};
                    intaglio::avxvnni::product(p);
                    p.out = b.data();
                    intaglio::avx512vl::product(p);
                    if (a != b) return 1;
                }
}
"""
"""Whether both compiled twins give the same integers; `avx512vl` is compared with the definition elsewhere."""
