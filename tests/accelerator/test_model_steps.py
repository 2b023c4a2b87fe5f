"""The steps built from shapes: the published MAC table of the SD 1.x U-Net, and first-order gains of a flexible
dataflow."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from intaglio.accelerator.dataflow import Overlap, compute_cycles
from intaglio.accelerator.model_steps import model_step
from intaglio.errors import UserError

ADAPTED = {
    (4096, 320, 320): 30,
    (1024, 640, 640): 30,
    (256, 1280, 1280): 30,
    (64, 1280, 1280): 6,
    (77, 768, 320): 10,
    (77, 768, 640): 10,
    (77, 768, 1280): 12,
}


def group_of(event) -> str:
    if event.operation == "attention_product":
        return "attention products"
    for group, names in {
        "attention": (".to_",),
        "feed-forward": (".ff.",),
        "projection": ("proj_in", "proj_out"),
        "time": ("time_",),
    }.items():
        if any(name in event.layer for name in names):
            return group
    return "other convolutions"


def test_sd15_forward_macs_are_the_published_table():
    layers, macs = Counter(), defaultdict(int)
    for event in model_step("sd15").events:
        if event.is_product and event.pass_name == "output" and "lora" not in event.layer:
            layers[group_of(event)] += 1
            macs[group_of(event)] += event.macs
    assert {group: (layers[group], round(macs[group] / 1e9, 2)) for group in layers} == {
        "attention": (128, 39.85),
        "feed-forward": (32, 76.76),
        "projection": (32, 12.79),
        "other convolutions": (66, 209.18),
        "time": (24, 0.03),
        "attention products": (64, 63.03),
    }
    assert round((sum(macs.values()) - macs["attention products"]) / 1e9, 2) == 338.61


def test_one_attention_product_by_hand():
    # The first block's self-attention: 4096 tokens, 8 heads of 40. Q K^T is 8 * 4096 * 4096 * 40 = 5,368,709,120 MACs.
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.scores"
    event = next(e for e in model_step("sd15").events if e.layer == layer and e.pass_name == "output")
    assert event.macs == 5_368_709_120


@pytest.mark.parametrize(("rank", "parameters"), [(4, 797_184), (8, 1_594_368), (16, 3_188_736), (32, 6_377_472)])
def test_sd15_lora_parameters(rank, parameters):
    assert model_step("sd15", rank).header.step["trained_parameters"] == parameters


def test_sdxl_lora_parameters():
    assert model_step("sdxl", 16).header.step["trained_parameters"] == 23_224_320


def test_adapted_layers():
    shapes = Counter(
        (e.M, e.K, e.N)
        for e in model_step("sd15").events
        if e.pass_name == "output" and ".to_" in e.layer and "lora" not in e.layer
    )
    assert shapes == ADAPTED


def test_a_real_step_omits_the_gradients_that_nobody_needs():
    events = model_step("sd15", 16).events
    inputs_of = {
        p: {e.layer for e in events if e.pass_name == p and ".to_" in e.layer} for p in ("output", "grad_input")
    }
    frozen = {layer for layer in inputs_of["output"] if "lora" not in layer}
    without = frozen - inputs_of["grad_input"]
    assert len([layer for layer in without if "attn2.to_k" in layer or "attn2.to_v" in layer]) == 32
    first = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_"
    assert sorted(layer for layer in without if "attn1" in layer) == [first + name for name in "kqv"]
    assert len(without) == 35
    skipped = next(e for e in events if e.layer == first + "q" and e.pass_name == "output").skipped
    assert skipped == {"grad_input": "the input needs no gradient", "grad_weight": "the weight is frozen"}
    assert not any(e.pass_name == "grad_weight" and "lora" not in e.layer for e in events)


def adapted_cycles(rank: int, side: int, overlap: Overlap, dataflow: str, only_lora: bool) -> np.ndarray:
    """Cycles of the eight products of every adapted layer (none omitted), in the order of `ADAPTED`."""
    shapes, counts = [], []
    for (M, K, N), count in ADAPTED.items():
        r = rank
        lora = [(M, r, K), (M, N, r), (M, r, N), (M, K, r), (r, N, M), (K, r, M)]
        chosen = lora if only_lora else [(M, N, K), (M, K, N), *lora]
        shapes += chosen
        counts += [count] * len(chosen)
    M, N, K = np.array(shapes).T
    return compute_cycles(M, N, K, rows=side, cols=side, dataflow=dataflow, overlap=overlap) * np.array(counts)


@pytest.mark.parametrize(
    ("side", "rank", "overlap", "only_lora", "over_ws", "over_os"),
    [
        (32, 4, "none", True, 1.36, 1.33),
        (32, 4, "none", False, 1.18, 1.09),
        (32, 16, "none", True, 1.42, 1.44),
        (32, 16, "none", False, 1.19, 1.11),
        (64, 64, "none", True, 1.50, 1.57),
        (64, 64, "none", False, 1.33, 1.22),
        (32, 16, "serial", True, 1.40, 1.77),
        (32, 16, "serial", False, 1.17, 1.20),
    ],
)
def test_first_order_gain_of_a_flexible_dataflow(side, rank, overlap, only_lora, over_ws, over_os):
    ws = adapted_cycles(rank, side, overlap, "weight_stationary", only_lora)
    os = adapted_cycles(rank, side, overlap, "output_stationary", only_lora)
    flexible = np.minimum(ws, os).sum()
    assert (round(ws.sum() / flexible, 2), round(os.sum() / flexible, 2)) == (over_ws, over_os)


def test_unquantized_steps_quantize_nothing_and_other_methods_train_other_things():
    assert not any(e.pass_name == "quantize" for e in model_step("dit", 4, bits=16).events)
    full = model_step("sd15", method="full")
    assert full.header.step["trained_parameters"] > 850e6
    scales = model_step("sd15", method="scales")
    assert any(e.kind == "scale_gradient" for e in scales.events)
    assert not any(e.is_product and e.pass_name == "grad_weight" for e in scales.events)


def test_unknown_model():
    with pytest.raises(UserError, match=r"unknown model 'sd51'.*did you mean 'sd15'.*known: dit, sd15, sdxl"):
        model_step("sd51")
