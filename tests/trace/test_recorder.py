"""The recorder against independent counts, and against what a training step is known to run."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import intaglio
from intaglio.errors import UserError
from intaglio.layers.codes_tensor import CodesTensor
from intaglio.layers.names import find_layers
from intaglio.trace import operations
from intaglio.trace.operations import Vector, matmul, register
from intaglio.trace.recorder import Recorder, record
from intaglio.training.integer_adam import IntegerAdamW
from tiny_models import make_unet

BATCH, TOKENS, TEXT = 2, 64, 5


def attached(method, device="cpu", **changes):
    with torch.device(device):
        model = make_unet(**changes)
        options = {"range_search": "absmax"} if method.needs_base else {}
        options |= {} if method.integer_only else {"compute": "float"}
        adapter = intaglio.attach(model, method, **options)
    return model, adapter


def inputs_of(device="cpu"):
    with torch.device(device):
        return torch.randn(BATCH, 4, 8, 8), torch.tensor([3, 700]), torch.randn(BATCH, TEXT, 24)


def optimizer_for(parameters):
    in_codes = any(isinstance(p, CodesTensor) for p in parameters)
    return IntegerAdamW(parameters) if in_codes else torch.optim.AdamW(parameters)


def step_of(model, adapter=None, device="cpu"):
    inputs = inputs_of(device)
    optimizer = None if adapter is None else optimizer_for(adapter.parameters())

    def step():
        model(*inputs, return_dict=False)[0].square().mean().backward()
        if optimizer is not None:
            optimizer.step()

    return step


def products(trace):
    """(pass, layer, M, N, K, batch) -> how often."""
    return Counter((e.pass_name, e.layer, e.M, e.N, e.K, e.batch) for e in trace.events if e.is_product)


@pytest.fixture(scope="module")
def lora():
    return record(step_of(*attached(intaglio.Lora(rank=2))), model="tiny", method="lora", rank=2)


@pytest.fixture(scope="module")
def tuneqdm():
    model, adapter = attached(intaglio.TuneQDM(base="int4", num_intervals=2))
    return model, record(step_of(model, adapter))


@pytest.mark.parametrize("method", [intaglio.Lora(rank=2), intaglio.Full(), intaglio.TuneQDM(base="int8")], ids=str)
def test_macs_are_those_of_an_independent_counter(method):
    step = step_of(attached(method)[0])
    with sdpa_kernel(SDPBackend.MATH):  # the counter does not know the fused kernel of the CPU
        trace = record(step)
        with FlopCounterMode(display=False) as counter:
            step()
    assert 2 * trace.macs == counter.get_total_flops()


def test_fused_attention_is_recorded_as_its_products(lora):
    with sdpa_kernel(SDPBackend.MATH):
        plain = record(step_of(*attached(intaglio.Lora(rank=2))))
    assert products(plain) == products(lora)
    roles = {e.layer.rsplit("attn1.")[-1]: [o.role for o in e.operands] for e in plain.events if ".attn1." in e.layer}
    fused = {e.layer.rsplit("attn1.")[-1]: [o.role for o in e.operands] for e in lora.events if ".attn1." in e.layer}
    assert roles == fused
    assert roles["scores.key"] == ["grad_scores", "query"]
    assert roles["values.probabilities"] == ["grad_output", "value"]


def test_meta_tensors_give_the_same_step(lora):
    on_meta = record(step_of(*attached(intaglio.Lora(rank=2), "meta"), "meta"))
    assert products(on_meta) == products(lora)


def test_the_eight_products_of_a_lora_layer(lora):
    # 2 images of 64 pixels are 128 tokens; 16 features, rank 2.
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
    found = {
        (e.pass_name, e.layer.removeprefix(layer)): (e.M, e.N, e.K, *(o.role for o in e.operands))
        for e in lora.events
        if e.is_product and e.layer.startswith(layer)
    }
    assert found == {
        ("output", ""): (128, 16, 16, "input", "weight"),
        ("output", ".lora_a"): (128, 2, 16, "input", "lora_a"),
        ("output", ".lora_b"): (128, 16, 2, "hidden", "lora_b"),
        ("grad_input", ""): (128, 16, 16, "grad_output", "weight"),
        ("grad_input", ".lora_b"): (128, 2, 16, "grad_output", "lora_b"),
        ("grad_input", ".lora_a"): (128, 16, 2, "grad_hidden", "lora_a"),
        ("grad_weight", ".lora_b"): (2, 16, 128, "hidden", "grad_output"),
        ("grad_weight", ".lora_a"): (16, 2, 128, "input", "grad_hidden"),
    }


def test_shared_operands_have_one_name(lora):
    """X feeds W0 and A of q, k and v; the gradient that `scaling` multiplies is the same for W0 and B."""
    prefix = "down_blocks.0.attentions.0.transformer_blocks.0.attn1."
    left = {
        (e.pass_name, e.layer.removeprefix(prefix)): e.operands[0].tensor
        for e in lora.events
        if e.is_product and e.layer.startswith(prefix)
    }
    inputs = [f"to_{name}{part}" for name in "qkv" for part in ("", ".lora_a")]
    assert len({left["output", name] for name in inputs}) == 1
    assert left["grad_input", "to_out.0"] == left["grad_input", "to_out.0.lora_b"] != ""
    of_text = [e for e in lora.events if e.is_product and e.layer.endswith("attn2.to_k") and e.pass_name == "output"]
    assert len({e.operands[0].tensor for e in of_text}) == 1 < len(of_text)


def test_why_a_gradient_is_not_needed(lora):
    first = {e.layer: e.skipped for e in lora.events if e.is_product and e.pass_name == "output"}
    text = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    assert first[text] == {"grad_input": "the input needs no gradient", "grad_weight": "the weight is frozen"}
    assert first[text + ".lora_a"] == {"grad_input": "the input needs no gradient"}
    assert first["conv_out"] == {"grad_weight": "the weight is frozen"}
    model, _ = attached(intaglio.Lora(rank=2))
    inputs = inputs_of()
    forward_only = record(lambda: model(*inputs))
    skipped = {e.layer: e.skipped for e in forward_only.events if e.is_product}[text + ".lora_a"]
    assert set(skipped.values()) == {"no backward pass was recorded"}


def test_products_on_packed_integers_belong_to_their_layers(tuneqdm):
    """The custom autograd functions of quantized layers: output and gradient of the input, and no gradient of a
    weight."""
    model, trace = tuneqdm
    layers = {name for name, _ in find_layers(model)}
    by_pass = {
        p: {e.layer for e in trace.events if e.is_product and e.pass_name == p} for p in ("output", "grad_input")
    }
    assert {n for n in by_pass["output"] if ".scores" not in n and ".values" not in n} == layers
    assert by_pass["grad_input"] >= layers - {"conv_in", "time_embedding.linear_1"} - {
        n for n in layers if "attn2.to_k" in n or "attn2.to_v" in n
    }
    assert not any(e.pass_name == "grad_weight" and e.is_product for e in trace.events)
    event = next(e for e in trace.events if e.layer == "mid_block.resnets.0.conv1" and e.is_product)
    weight = event.operands[1]
    assert (weight.dtype, weight.bits, weight.size_bytes) == ("int4", 4, 32 * 32 * 9 // 2)
    assert event.convolution is not None
    assert (event.convolution.kernel, event.convolution.in_spatial) == ((3, 3), (4, 4))
    unpacked = Counter(e.layer for e in trace.events if e.kind == "dequantize")
    assert unpacked["mid_block.resnets.0.conv1"] == 2  # once a direction


def test_recomputed_blocks_are_forward_work(lora):
    model, adapter = attached(intaglio.Lora(rank=2))
    model.enable_gradient_checkpointing()
    model.train()
    again = products(record(step_of(model, adapter)))
    plain = products(lora)
    assert {k: v for k, v in again.items() if k[0] != "output"} == {k: v for k, v in plain.items() if k[0] != "output"}
    more = again - plain
    assert more
    assert all(key[0] == "output" and plain[key] for key in more)


def test_peft_layers_have_the_same_products(lora):
    from peft import LoraConfig

    model = make_unet()
    model.requires_grad_(False)
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    trace = record(step_of(model))

    assert lowered(products(trace)) == lowered(products(lora))


def lowered(found):
    return Counter({(p, name.lower(), *rest): n for (p, name, *rest), n in found.items()})


@pytest.mark.parametrize(
    "options", [{}, {"separate_gradient": True}, {"integer_adapter": True}, {"scale": "power_of_two"}], ids=str
)
def test_int8_lora_runs_the_same_products_in_integers(lora, options):
    """Its layers multiply with [W0 A] and [W0^T B^T] at once: recorded as the products that these are."""
    method = intaglio.Int8Lora(rank=2, base="int8", **options)
    trace = record(step_of(*attached(method)))
    assert products(trace) == products(lora)
    for event in trace.events:
        if event.is_product and event.operation != "attention_product" and ".to_" in event.layer:
            assert [operand.bits for operand in event.operands] == [8, 8], event
    quantized = Counter(e.layer for e in trace.events if e.kind == "quantize")
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    assert quantized[layer] == (
        11 if "separate_gradient" in options else 10
    )  # x, a, b, h; g, a and b again, gh, and h and gh again for dB and dA
    assert not any(e.kind in ("round", "amax", "dequantize") and e.layer == layer for e in trace.events)
    assert trace.header.step.get("unknown_operators") is None


def test_gradients_do_not_change_while_recorded():
    gradients = []
    for run in (lambda step: step(), record):
        model, adapter = attached(intaglio.QLora(rank=2, base="int4"))
        torch.manual_seed(0)
        run(step_of(model))
        gradients.append([p.grad for p in adapter.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_optimizer_and_header(lora):
    event = lora.events[-1]
    assert (event.pass_name, event.kind, event.elements) == (
        "optimizer",
        "adamw",
        lora.header.step["trained_parameters"],
    )
    assert (lora.header.model, lora.header.method, lora.header.step["rank"]) == ("tiny", "lora", 2)
    assert "unknown_operators" not in lora.header.step


def test_autocast_halves_the_operands():
    model, _ = attached(intaglio.Lora(rank=2))
    with torch.autocast("cpu", torch.bfloat16):
        trace = record(step_of(model))
    event = next(e for e in trace.events if e.layer.endswith("attn1.to_q.lora_a"))
    assert [(o.dtype, o.bits) for o in event.operands] == [("bfloat16", 16)] * 2
    assert event.operands[1].tensor.endswith("lora_a")


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(3, 6, 3, padding=1), (2, 3, 10)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 5, 7)),
        (nn.Conv2d(4, 8, (3, 5), groups=2), (1, 4, 9, 9)),
        (nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4)),
    ],
    ids=lambda v: type(v).__name__,
)
def test_other_convolutions(layer, shape):
    x = torch.randn(shape, requires_grad=True)

    def step():
        layer(x).square().mean().backward()

    trace = record(step)
    assert Counter(e.pass_name for e in trace.events if e.is_product) == {
        "output": 1,
        "grad_input": 1,
        "grad_weight": 1,
    }
    macs = layer(x).numel() // layer.out_channels * layer.weight.numel()  # each output pixel meets every weight
    if isinstance(layer, nn.ConvTranspose2d):
        macs = x.numel() // layer.in_channels * layer.weight.numel()  # each input pixel does
    assert {e.macs for e in trace.events if e.is_product} == {macs}


@torch.library.custom_op("intaglio_test::product", mutates_args=())
def custom_product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x @ w.T


def test_custom_operators_come_by_a_registry(monkeypatch):
    monkeypatch.setattr(operations, "HANDLERS", dict(operations.HANDLERS))
    layer, x = nn.Linear(3, 5), torch.randn(7, 3)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = layer

        def forward(self, x):
            return self.head(torch.relu(custom_product(x, self.head.weight.detach())[:, :3]))

    model = Model()
    unknown = record(lambda: model(x))
    assert unknown.header.step["unknown_operators"] == {"intaglio_test::product": 1}
    assert products(unknown) == {("output", "head", 7, 5, 3, 1): 1}
    register("intaglio_test::product", lambda a, out: [Vector("quantize", 21), matmul(a["x"], a["w"].T, out)])
    understood = record(lambda: model(x))
    assert products(understood) == {("output", "head", 7, 5, 3, 1): 2}
    assert "quantize" in {e.kind for e in understood.events}


def test_a_step_without_products():
    with pytest.raises(UserError, match="the step ran no matrix product while it was recorded"):
        record(lambda: torch.ones(3) + 1)


def test_an_error_in_the_step_leaves_no_hook_behind():
    with pytest.raises(ZeroDivisionError), Recorder():
        raise ZeroDivisionError
    recorder = Recorder()
    make_unet()(*inputs_of())
    assert recorder.events == []


class MergedPair(nn.Module):
    """`x (W + B A)^T`, the pair merged anew in every step."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 8), requires_grad=False)
        self.lora_A = nn.Parameter(torch.randn(2, 8))
        self.lora_B = nn.Parameter(torch.randn(4, 2))

    def forward(self, x):
        return x @ (self.weight + self.lora_B @ self.lora_A).T


@pytest.mark.parametrize(
    ("make_input", "macs"),
    [
        (lambda: torch.randn(2, 8), 128),
        (lambda: torch.ones(2, 8), 128),
        (lambda: torch.empty(2, 8).normal_(), 128),
        (lambda: torch.zeros(2, 8).bernoulli_(0.5), 128),
    ],
)
def test_inputs_that_the_step_makes_for_itself(make_input, macs):
    layer = nn.Linear(8, 4, bias=False)

    def step():
        layer(make_input()).sum().backward()

    with FlopCounterMode(display=False) as counter:
        step()
    trace = record(step)
    assert trace.macs == macs == counter.get_total_flops() // 2
    found = [(e.pass_name, e.M, e.N, e.K) for e in trace.events if e.is_product]
    assert found == [("output", 2, 4, 8), ("grad_weight", 8, 4, 2)]


def test_layers_after_an_input_of_the_steps_own_are_recorded():
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    trace = record(lambda: net(torch.randn(2, 8)).square().sum().backward())
    found = Counter((e.layer, e.pass_name) for e in trace.events if e.is_product)
    assert found == Counter(
        [("0", "output"), ("2", "output"), ("2", "grad_weight"), ("2", "grad_input"), ("0", "grad_weight")]
    )


def test_a_pair_that_is_merged_is_a_product():
    model, x = MergedPair(), torch.randn(2, 8)

    def step():
        model(x).sum().backward()

    with FlopCounterMode(display=False) as counter:
        step()
    trace = record(step)
    assert trace.macs == 320 == counter.get_total_flops() // 2
    found = {(e.layer, e.pass_name): e.macs for e in trace.events if e.is_product}
    assert found == {
        ("lora_B", "output"): 64,  # B A
        ("", "output"): 64,
        ("", "grad_weight"): 64,  # of the sum
        ("lora_A", "grad_weight"): 64,
        ("lora_B", "grad_weight"): 64,
    }
