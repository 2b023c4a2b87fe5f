"""The analyses of benchmarks/, their arithmetic by hand and each from end to end at a tiny scale."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import iteration_strip
import unconditional
import weight_change


def test_what_scales_explain():
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    r_out = torch.linspace(0.8, 1.3, 6).reshape(-1, 1, 1, 1)
    r_in = torch.linspace(1.2, 0.9, 5).reshape(1, -1, 1, 1)
    by_output, by_both = (weight_change.scale_shares(weight, weight * r) for r in (r_out, r_out * r_in))
    assert by_output["output"] == pytest.approx(1)
    assert by_both["both"] == pytest.approx(1, abs=1e-6)
    assert by_both["output"] < 0.95
    noise = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    unrelated = weight_change.scale_shares(torch.ones(64, 64).roll(1), torch.ones(64, 64) + 0.1 * noise)
    assert unrelated["both"] < 0.1  # 127 free factors for 4096 weights
    assert weight_change.scale_shares(weight, weight) == {"output": 0.0, "both": 0.0}


def test_what_ranks_explain():
    """A change of singular values 3 and 1: nine tenths of its square are of rank 1."""
    before = torch.randn(4, 3)
    change = torch.zeros(4, 3)
    change[0, 0], change[2, 1] = 3, 1
    shares = weight_change.rank_shares(before, before + change, (1, 2))
    assert shares == {"rank_1": pytest.approx(0.9, abs=1e-5), "rank_2": pytest.approx(1, abs=1e-5)}
    assert weight_change.rank_shares(before, before, (1,)) == {"rank_1": 0}


def test_relative_change_by_hand():
    before = torch.tensor([[1.0, -3.0], [10.0, 10.0]])
    after = before + torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    assert weight_change.relative_change(before, after).tolist() == [[1.0, 0.0], [0.0, 0.5]]
    kernels = torch.ones(1, 1, 1, 3)
    assert weight_change.relative_change(kernels, kernels + torch.tensor([0.0, 3.0, 0.0])).tolist() == [[1.0]]


@pytest.mark.slow
def test_strip_and_weight_change(bench, tmp_path, tiny_model, monkeypatch, capsys):
    flags = f"--bench {bench.folder} --task elf --model {tiny_model} --steps 4 --every 2 --num_inference_steps 1"
    monkeypatch.setattr(sys, "argv", ["strip", *flags.split(), "--out", str(tmp_path)])
    iteration_strip.main()
    assert (tmp_path / "strip.png").stat().st_size > 1000
    folders = [str(tmp_path / name) for name in iteration_strip.RATES]
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    flags = [f for folder in folders for f in ("--adapter", folder)]
    monkeypatch.setattr(sys, "argv", ["change", *flags, "--layer", layer, "--out", str(tmp_path / "change")])
    weight_change.main()
    table = json.loads((tmp_path / "change" / "weight-change.json").read_text())
    assert set(table) == set(iteration_strip.RATES)
    assert table["peqa"]["output"] == pytest.approx(1, abs=1e-5)
    assert table["tuneqdm"]["both"] == pytest.approx(1, abs=1e-5)
    assert table["tuneqdm"]["output"] < 0.999
    assert table["full"]["both"] < 0.999
    assert all(row["mean_change"] > 0 for row in table.values())


@pytest.mark.slow
def test_unconditional(tmp_path, monkeypatch):
    from PIL import Image

    def drawn(style, cache, limit):
        return [Image.new("RGB", (64, 64), (i % 256, len(style) * 20, 40)) for i in range(limit)]

    monkeypatch.setattr(unconditional, "drawings", drawn)
    flags = (
        "--drawings 40 --base_steps 3 --steps 2 --images 8 --num_inference_steps 2 --seeds 1 --methods peqa,tuneqdm-n2"
    )
    monkeypatch.setattr(sys, "argv", ["unconditional", *flags.split(), "--out", str(tmp_path)])
    unconditional.main()
    text = (tmp_path / "rows.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["method"] for row in rows] == [
        "base",
        *["peqa"] * 4,
        *["tuneqdm-n2"] * 4,
    ]  # three rates, then the table
    assert all(row["fd"] > row["fd_floor"] >= 0 for row in rows)  # three steps of training: noise
    tried = [row for row in rows if row["method"] == "peqa" and row["style"] == "twemoji"]
    assert rows[4]["rate"] == min(tried, key=lambda row: row["fd"])["rate"]
    assert rows[1]["trained"] < rows[5]["trained"]
    unconditional.main()
    assert (tmp_path / "rows.jsonl").read_text() == text  # rows that are there are not computed again
