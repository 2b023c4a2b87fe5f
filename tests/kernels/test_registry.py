"""Who computes, by whom it is said, and how somebody else's code joins in."""

import ctypes

import pytest
import torch

from intaglio import kernels
from intaglio.errors import UnknownChoice
from intaglio.kernels import binding, isa, structures
from intaglio.kernels.codes import cpu as codes_cpu
from intaglio.kernels.library import load
from intaglio.kernels.row_quantizer import quantize_rows
from intaglio.kernels.row_quantizer.reference import round_rows

pytestmark = pytest.mark.once


@pytest.fixture
def op():
    made = kernels.op("quantize_rows")
    before = made.implementations
    yield made
    made.implementations, made._usable = before, {}


@pytest.fixture
def compiled():
    loaded, reason = load()
    if loaded is None:
        pytest.skip(reason)
    return loaded


def test_one_call_adds_an_implementation(op):
    seen = []

    def mine(x, factor):
        seen.append(x.shape)
        return round_rows(x, factor)

    x = torch.randn(3, 1, 8)
    op.add(mine, "mine", takes=lambda x, factor: factor is None)
    quantize_rows(x)
    quantize_rows(x, torch.ones(1, 8))
    assert seen == [x.shape]
    with kernels.using("reference"):
        quantize_rows(x)
    assert seen == [x.shape]


def test_an_implementation_is_for_its_device_and_features(op):
    op.add(lambda x, factor: pytest.fail("asked"), "elsewhere", device="cuda")
    op.add(lambda x, factor: pytest.fail("asked"), "later", needs={"avx2", "a feature of tomorrow"})
    quantize_rows(torch.randn(3, 1, 8))
    assert op.explain()[0][1].endswith(("a feature of tomorrow here", "python -m intaglio.kernels.build"))


def test_an_entry_point_adds_one(op, monkeypatch):
    from intaglio.kernels import registry

    class Point:
        def load(self):
            return lambda: op.add(round_rows, "from outside")

    monkeypatch.setattr(registry, "entry_points", lambda group: [Point()] if group == "intaglio.kernels" else [])
    registry._load_entry_points.cache_clear()
    op._usable = {}
    assert op.choose(torch.randn(3, 1, 8), None) is round_rows


def test_using_is_undone_after_an_error():
    before = isa.in_use()
    with kernels.using("torch"):
        assert binding.library() is None
        assert binding.path_in_use() == "torch"
    with pytest.raises(ZeroDivisionError), kernels.using("torch"):
        raise ZeroDivisionError
    assert isa.in_use() == before


def test_reference_asks_for_nothing_else():
    with kernels.using("reference"):
        assert all(made.usable("cpu") == () for made in kernels.operations().values())
        assert all(rows[-1] == (None, "") for rows in (made.explain() for made in kernels.operations().values()))


def test_an_unknown_path():
    message = r"unknown kernels 'avx51' \(did you mean 'avx512'\?\); known: avx2"
    with pytest.raises(UnknownChoice, match=message), kernels.using("avx51"):
        pass


def test_an_unknown_operation():
    with pytest.raises(KeyError, match="no operation 'attend'; there are attention"):
        kernels.op("attend")


def test_what_is_left_out_is_said(compiled):
    with kernels.using("avx2"):
        reasons = {i.name: why for i, why in kernels.op("weight_product").explain() if i}
    assert reasons["avx2"] == ""
    if isa.SETS["avx512"] <= isa.detected():
        assert reasons["avx512"].endswith("left out by avx2")


def test_both_languages_know_the_same_sets(compiled):
    """Every entry of a table in C++ is registered under its name, and needs what the set of that name has."""
    names = compiled.intaglio_feature_names().decode().split()
    found = set()
    for entry in compiled.intaglio_entries().decode().rstrip(";").split(";"):
        function, name, mask = entry.split()
        assert {n for bit, n in enumerate(names) if int(mask) >> bit & 1} == isa.SETS[name], entry
        found.add((function.removeprefix("intaglio_"), name))
    native = {
        (name, i.name) for name, op in kernels.operations().items() for i in op.implementations if i.name in isa.SETS
    }
    renamed = {"low_rank_update": "low_rank", "rank_product": "low_rank", "token_gradient": "token_sums",
               "weight_product": "product", "int8_matmul": "product"}  # fmt: skip
    expected = {(renamed.get(name, name), set_) for name, set_ in native}
    assert expected <= found
    assert {f for f, _ in found - expected} <= {"attention_int8", "integer_lora_forward", "integer_lora_backward"}


def test_a_wrong_guard_is_an_error(compiled):
    """Code for AVX-512 is called where only AVX2 may be used: C++ looks itself."""
    with kernels.using("avx2"), pytest.raises(RuntimeError, match="intaglio_codes: no code for the features in use"):
        codes_cpu._compiled(torch.randn(3, 4), 8, 3, None, None, False, None)
    with kernels.using("torch"), pytest.raises(RuntimeError, match="intaglio_quantize_rows: no code for the features"):
        kernels.op("quantize_rows").implementations[0].function(torch.randn(3, 1, 4), None)


def test_features_that_the_processor_lacks_stay_out(compiled):
    before = compiled.intaglio_use(0)
    try:
        assert compiled.intaglio_use(2**64 - 1) == compiled.intaglio_detected()
    finally:
        isa._put(isa.state(), isa.state().path)
    assert before == 0


def test_swapped_members_are_noticed(compiled, monkeypatch):
    layout = compiled.intaglio_layout().decode()
    assert structures.misplaced(layout) is None
    assert structures.misplaced(layout.replace(" x_stride 8 ", " x_stride 16 ")).split(" is ")[0] in structures._all()
    rows = structures.structure("Rows")
    swapped = [rows._fields_[1], rows._fields_[0], *rows._fields_[2:]]
    twin = type("Rows", (ctypes.Structure,), {"_fields_": swapped})
    monkeypatch.setattr(structures, "_all", lambda: {"Rows": twin})
    assert structures.misplaced(layout).startswith("Rows is 96 x 0 x_type 8 ")


def test_a_word_of_python_has_an_underscore():
    assert structures.structure("Weight").in_.offset == 40
