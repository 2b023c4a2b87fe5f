"""Hardware files and workloads: what a user gets wrong gets one clear message."""

import pytest

from intaglio.accelerator.area import area_of, edges_um2, pe_area_um2
from intaglio.accelerator.constants import area_constant, area_scale, energy_scale, table
from intaglio.accelerator.csv_workload import load_csv_workload
from intaglio.accelerator.hardware import load_hardware, shipped_hardware
from intaglio.accelerator.sram import sram_of
from intaglio.accelerator.workload import load_trace_workload
from intaglio.errors import UserError


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_shipped_hardware_loads_by_name_and_by_path(tmp_path, monkeypatch):
    assert {
        "cdm-qta-64x64",
        "cdm-qta-32x32",
        "fixed-ws",
        "fixed-os",
        "fp16-fixed",
        "fp16-equal-area",
        "edge-npu",
    } <= set(shipped_hardware())
    for name, path in shipped_hardware().items():
        assert load_hardware(name) == load_hardware(path)
        assert load_hardware(name).name == name
    monkeypatch.chdir(tmp_path)
    assert load_hardware("hardware/cdm-qta-32x32.toml").array.rows == 32


def test_unknown_hardware():
    with pytest.raises(UserError, match=r"cdm-qta-64x63: no such hardware file.*did you mean 'cdm-qta-64x64'"):
        load_hardware("cdm-qta-64x63")


def test_all_mistakes_of_a_hardware_file_at_once(tmp_path):
    text = shipped_hardware()["cdm-qta-64x64"].read_text()
    text = text.replace("rows = 64", "rows = -1").replace("lanes = 64", "lane = 64")
    with pytest.raises(UserError) as error:
        load_hardware(written(tmp_path, "bad.toml", text))
    message = str(error.value)
    assert "3 problems" in message
    assert "array.rows: input should be greater than 0, got -1" in message
    assert "vector.lanes: required, but missing" in message
    assert "unknown key 'vector.lane' (did you mean 'lanes'?)" in message


def test_hardware_that_contradicts_itself(tmp_path):
    text = shipped_hardware()["intaglio-64x64"].read_text().replace("rows = 64", "rows = 66")
    with pytest.raises(UserError, match="66 x 64 PEs cannot be cut into 4x4 equal sub-arrays"):
        load_hardware(written(tmp_path, "bad.toml", text))
    with pytest.raises(UserError, match="not valid TOML"):
        load_hardware(written(tmp_path, "worse.toml", "rows = = 3"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"missing columns M, N, K; got 'an empty file', expected M,N,K"),
        ("a,b\n1,2\n", r"missing columns M, N, K; got 'a,b', expected M,N,K"),
        ("M,N\n1,2\n", r"missing column K; got 'M,N', expected M,N,K"),
        ("M,N,K\n", "only a header; expected at least one row"),
        ("M,N,K\n1,2,x\n0,2,3\n", r"2 problems\n  - line 2: K must be .*, got 'x'\n  - line 3: M must be .*, got '0'"),
        ("M,N,K\n1,2\n", "line 2: K must be a positive integer, got ''"),
    ],
)
def test_foreign_csv(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        load_csv_workload(written(tmp_path, "w.csv", text))


def test_csv_with_names_counts_and_other_columns(tmp_path):
    text = "name,M,N,K,count,note\nq,4096,320,320,30,hello\n\nk,77,320,768,,\n"
    work = load_csv_workload(written(tmp_path, "w.csv", text))
    assert [label.layer for label in work.labels] == ["q", "k"]
    assert work.macs == 30 * 4096 * 320 * 320 + 77 * 320 * 768


def test_a_missing_or_foreign_trace(tmp_path):
    with pytest.raises(UserError, match="no such file; expected a trace"):
        load_trace_workload(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="a CSV of M,N,K goes to --workload"):
        load_trace_workload(written(tmp_path, "w.csv", "M,N,K\n1,2,3\n"))


def test_technology_scaling_by_hand():
    # 28 nm lies 8/12 of the way from 20 to 32 nm. At 0.8 V: 0.1532 + 8/12 * (0.4569 - 0.1532) = 0.3557, over 0.8443
    # = 0.421.
    assert energy_scale(28, 0.8) == pytest.approx(0.421, abs=5e-4)
    assert area_scale(28) == pytest.approx(0.21 + 8 / 12 * 0.25)
    assert energy_scale(45, 0.9) == 1.0


def test_sram_at_a_row_of_the_table():
    hardware = load_hardware("cdm-qta-64x64").replaced(
        technology__node_nm=32, buffers__input__size_bytes=65536, buffers__input__bandwidth_bytes_per_cycle=32
    )
    sram = sram_of(hardware.buffers.input, hardware.technology)
    assert sram.banks == 1
    assert sram.read_pj_per_byte == pytest.approx(16.5577 / 32)
    assert sram.area_mm2 == pytest.approx(0.283421)


def test_pe_area_is_the_synthesised_one():
    array = load_hardware("cdm-qta-64x64").array
    # 995 um2 of cells for a PE of both modes (Nangate 45), and 70 % of a row is cells.
    assert pe_area_um2(array)[1] * 0.70 == pytest.approx(995, rel=0.01)
    for modes, overlap, ratio in (
        (("weight_stationary",), "wavefront", 0.81),
        (("output_stationary",), "wavefront", 0.94),
        (("weight_stationary",), "shadow", 0.88),
        (("output_stationary",), "shadow", 1.20),
        (("weight_stationary", "output_stationary"), "shadow", 1.27),
    ):
        other = array.model_copy(update={"modes": modes, "overlap": overlap})
        assert pe_area_um2(other)[1] / pe_area_um2(array)[1] == pytest.approx(ratio)
    total = area_of(load_hardware("cdm-qta-64x64")).total_mm2
    assert total[0] < total[1] < total[2]


def test_edges_by_hand():
    # 64 x 64: 64 * 63 / 2 = 2016 steps of skew; operands on two sides, sums on one; two transposers of 4096 operands;
    # an adder of 32 bits a column.
    array = load_hardware("cdm-qta-64x64").array
    register, multiplexer, adder = (
        area_constant(n)[1] for n in ("register_per_bit", "multiplexer_per_bit", "int_add_per_bit")
    )
    cells = register * 2016 * (8 + 8 + 32) + (register + multiplexer) * 2 * 4096 * 8 + adder * 32 * 64
    assert edges_um2(array)[1] == pytest.approx(cells * 1.41 / 0.70)
    none = array.model_copy(update={"transposers": ()})
    assert edges_um2(array)[1] - edges_um2(none)[1] == pytest.approx(
        (register + multiplexer) * 2 * 4096 * 8 * 1.41 / 0.70
    )


@pytest.mark.parametrize(
    "name", ["arithmetic", "area", "technology", "timing", "uncertainty", "vector", "sram", "published_chips"]
)
def test_every_constant_has_a_source(name):
    assert all(row["source"].strip() for row in table(name))


def test_what_is_not_published_is_marked():
    for name in shipped_hardware():
        assert load_hardware(name).assumed, name
