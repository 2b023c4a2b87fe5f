"""What a layer remembers is valid while its tensors are these objects, at these versions, where they lie."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn

from intaglio.layers import remembered
from intaglio.layers.frozen import quantize_layer
from intaglio.layers.int8_lora.arithmetic import IntegerArithmetic
from intaglio.layers.int8_lora.layer import Int8LoraLayer
from intaglio.layers.integer_path import set_compute
from intaglio.layers.low_rank import LowRankLayer
from intaglio.layers.remembered import ByShape, Remembered
from intaglio.layers.scaled import ScaledLayer
from intaglio.quantizers.formats import parse_format


def frozen(seed=0):
    torch.manual_seed(seed)
    base = quantize_layer(nn.Linear(12, 8), parse_format("int4"), "absmax").requires_grad_(False)
    set_compute(base, "integer")
    return base


def moved(layer):
    """As in training: at the start the adapter adds nothing."""
    for i, parameter in enumerate(p for p in layer.parameters() if p.requires_grad):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
    return layer


LAYERS = {
    "frozen": frozen,
    "low rank": lambda: moved(LowRankLayer(frozen(), 2, 2.0)),
    "scaled": lambda: moved(ScaledLayer(frozen(), train_input=True)),
    "int8_lora": lambda: moved(Int8LoraLayer(frozen(), 2, 2.0, IntegerArithmetic())),
    "int8_lora by operators": lambda: moved(Int8LoraLayer(frozen(), 2, 2.0, IntegerArithmetic(granularity="tensor"))),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def base_of(layer):
    return getattr(layer, "base", layer)


def run(layer, x):
    x = x.clone().requires_grad_()
    y = layer(x)
    trained = [p for p in layer.parameters() if p.requires_grad]
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *trained])]


def equal(got, expected):
    return all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@every_layer
def test_equal_to_a_layer_that_has_not_been_used(make):
    used, x = make(), torch.randn(3, 12)
    run(used, torch.randn(5, 12))
    assert equal(run(used, x), run(make(), x))
    assert equal(run(used, x), run(make(), x))


CHANGES = {
    "bias in place": lambda base: base.bias.add_(1),
    "scale": lambda base: base.scale.mul_(2),
    "another scale": lambda base: setattr(base, "scale", base.scale * 2),
    "the scale's data": lambda base: setattr(base.scale, "data", base.scale * 2),
    "another bias": lambda base: setattr(base, "bias", nn.Parameter(base.bias + 1, requires_grad=False)),
    "no bias": lambda base: setattr(base, "bias", None),
    "input scale": lambda base: setattr(base, "input_scale", torch.full((12,), 0.5)),
    "values": lambda base: base.qdata.copy_(frozen(1).qdata),
    "loaded": lambda base: base.load_state_dict(frozen(1).state_dict()),
    "moved": lambda base: base.bfloat16(),
}


@every_layer
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_of_the_base_is_seen(make, change):
    used, fresh, x = make(), make(), torch.randn(3, 12)
    run(used, x)
    with torch.no_grad():
        change(base_of(used))
        change(base_of(fresh))
    assert equal(run(used, x), run(fresh, x))


@every_layer
def test_writing_to_what_is_held_in_another_dtype_is_seen(make):
    used, fresh, x = make().bfloat16(), make().bfloat16(), torch.randn(3, 12).bfloat16()
    run(used, x)
    for layer in (used, fresh):
        base_of(layer).bias += 1
    assert equal(run(used, x), run(fresh, x))


@every_layer
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_remembers_nothing(make, duplicate):
    layer, x = make(), torch.randn(3, 12)
    expected = run(layer, x)
    twin = duplicate(layer)
    assert all(m._remembered._known is None for m in twin.modules() if hasattr(m, "_remembered"))
    assert equal(run(twin, x), expected)
    with torch.no_grad():
        base_of(twin).scale.zero_()
    assert equal(run(layer, x), expected)


@every_layer
def test_threads(make):
    """Two in one layer at once, with other shapes, while its bias is exchanged for an equal one."""
    layer = make()
    inputs = [torch.randn(n, 12) for n in range(1, 9)]
    expected = [run(layer, x) for x in inputs]
    wrong, done = [], threading.Event()

    def work(order):
        for _ in range(20):
            wrong.extend(i for i in order if not equal(run(layer, inputs[i]), expected[i]))

    def exchange():
        while not done.is_set():
            base_of(layer).bias = nn.Parameter(base_of(layer).bias.detach().clone(), requires_grad=False)

    workers = [threading.Thread(target=work, args=(order,)) for order in (range(8), range(7, -1, -1))]
    other = threading.Thread(target=exchange)
    for thread in (*workers, other):
        thread.start()
    for thread in workers:
        thread.join()
    done.set()
    other.join()
    assert not wrong


def test_a_call_within_a_call():
    """While one value is made, the same place is asked again, for the same tensors and for others."""
    place, a, b = Remembered(), torch.zeros(1), torch.ones(1)
    made = place.get((a,), 1, lambda: ("outer", place.get((a,), 1, lambda: "inner"), place.get((b,), 1, lambda: "b")))
    assert made == ("outer", "inner", "b")
    assert place.get((a,), 1, lambda: "anew") is made
    assert place.get((b,), 1, lambda: "b anew") == "b anew"


def test_what_is_written_while_it_is_made_is_seen():
    place, a = Remembered(), torch.zeros(1)
    place.get((a,), None, lambda: a.add_(1))
    assert place.get((a,), None, lambda: "anew") == "anew"


def test_facts_and_absent_tensors_count():
    place, a = Remembered(), torch.zeros(1)
    assert place.get((a, None), "int4", lambda: 1) == 1
    assert place.get((a, None), "int4", lambda: 2) == 1
    assert place.get((a, None), "int8", lambda: 3) == 3
    assert place.get((a, a), "int8", lambda: 4) == 4
    place.forget()
    assert place.get((a, a), "int8", lambda: 5) == 5


def test_few_shapes_are_remembered():
    kept = ByShape()
    for shape in range(remembered.MOST_SHAPES + 3):
        assert kept.keep(shape, -shape) == -shape
    assert 0 < len(kept) <= remembered.MOST_SHAPES
    assert kept[shape] == -shape


@every_layer
def test_compiled(make):
    """Graph breaks are allowed, other numbers are not."""
    layer, x = make(), torch.randn(3, 12)
    expected = run(layer, x)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="eager", fullgraph=False)
    assert equal(run(compiled, x), expected)
    assert equal(run(compiled, x), expected)
    assert equal(run(layer, x), expected)
