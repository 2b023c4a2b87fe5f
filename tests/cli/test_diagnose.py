"""`intaglio diagnose`, and the figures behind it."""

import math

import pytest
import torch
from torch import nn

from intaglio.layers.frozen import quantize_layer
from intaglio.layers.gemm_errors import GEMMS, layer_errors
from intaglio.layers.int8_lora.arithmetic import IntegerArithmetic
from intaglio.layers.int8_lora.layer import Int8LoraLayer
from intaglio.quantizers.formats import parse_format
from intaglio.training.diagnose import LayerReport, markdown


def layer_of(make, **how):
    torch.manual_seed(0)
    base = quantize_layer(make(), parse_format("int8"), "absmax")
    layer = Int8LoraLayer(base, 4, 4.0, IntegerArithmetic(**how), "to_q")
    nn.init.normal_(layer.lora_b, std=0.05)
    return layer


def linear():
    return nn.Linear(64, 48)


@pytest.mark.parametrize("how", [{}, {"scale": "power_of_two"}, {"separate_gradient": True}], ids=str)
@pytest.mark.parametrize("make", [linear, lambda: nn.Conv2d(8, 6, 3, padding=1, stride=2)])
def test_eight_bits_are_enough_for_normal_numbers(make, how):
    layer = layer_of(make, **how)
    x = torch.randn(2, 32, 64) if isinstance(layer.base, nn.Linear) else torch.randn(2, 8, 9, 9)
    grad = torch.randn(layer(x).shape)
    errors = layer_errors(layer, x, grad)
    # Uniform noise of a range of four sigma: 20 log10(127 sqrt(12) / 4) = 41 dB for one operand; a power-of-two scale
    # costs up to 6, the second operand 3, and the spread of the weight's scales the rest.
    assert set(errors.sqnr_db) == set(GEMMS)
    assert min(errors.sqnr_db.values()) > 28
    assert min(errors.cosine.values()) > 0.999
    assert not LayerReport("to_q", errors).wants_float


def test_each_bit_is_six_decibels():
    x, grad = torch.randn(1, 512, 64), torch.randn(1, 512, 48)
    by_bits = [layer_errors(layer_of(linear, activation_bits=bits), x, grad).sqnr_db["y"] for bits in (8, 7, 6)]
    # 127 -> 63 -> 31 levels: 6.09 and 6.16 dB
    assert by_bits[0] - by_bits[1] == pytest.approx(20 * math.log10(127 / 63), abs=0.3)
    assert by_bits[1] - by_bits[2] == pytest.approx(20 * math.log10(63 / 31), abs=0.3)


def test_an_outlier_is_found_and_advised_on():
    x, grad = torch.randn(1, 32, 64), torch.randn(1, 32, 48)
    x[..., 5] *= 1000
    grad[..., 7] *= 1000
    errors = layer_errors(layer_of(linear), x, grad)
    assert errors.outlier_channels == 1
    assert errors.zeros > 0.5
    report = LayerReport("mid_block.to_q", errors)
    assert report.wants_float
    assert markdown([report]).splitlines()[2].startswith("| mid_block.to_q | ")
    assert markdown([report]).splitlines()[2].endswith("| 1 | float |")


def test_a_pair_at_zero_says_nothing():
    layer = layer_of(linear)
    nn.init.zeros_(layer.lora_b)
    errors = layer_errors(layer, torch.randn(1, 8, 64), torch.randn(1, 8, 48))
    assert {g for g, v in errors.sqnr_db.items() if math.isnan(v)} == {"u", "gh", "v", "da"}
    assert math.isnan(errors.cosine["a"])
    assert not LayerReport("to_q", errors).wants_float


def test_the_command(tmp_path):
    from click.testing import CliRunner
    from PIL import Image

    from intaglio.cli.diagnose import command
    from tiny_pipelines import PIXELS, make_pipeline

    make_pipeline("sd").save_pretrained(tmp_path / "sd")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (PIXELS, PIXELS), "red").save(tmp_path / "photos" / "0.png")
    arguments = ["--pretrained_model_name_or_path", str(tmp_path / "sd"), "--instance_data_dir"]
    arguments += [str(tmp_path / "photos"), "--instance_prompt", "sks", "--train_batch_size", "2", "--rank", "2"]
    arguments += ["--warmup", "2", "--batches", "1", "--report", str(tmp_path / "r.md"), "--range_search", "absmax"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    rows = (tmp_path / "r.md").read_text().splitlines()[2:]
    assert rows
    assert any(".to_q" in line for line in rows)
    assert "nan" not in "".join(rows), "after two steps the pair has left zero"
