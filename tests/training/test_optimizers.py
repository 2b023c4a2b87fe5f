"""Every optimizer by name: what it does, what a checkpoint keeps of it, and one from outside."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from diffusers.optimization import get_scheduler
from torch import nn

from intaglio.errors import Problems, UnknownChoice, UserError
from intaglio.layers.codes_tensor import CodesTensor
from intaglio.training.average import MovingAverage, weights_to_draw_with
from intaglio.training.optimizer_state import load_optimizer_state, optimizer_state
from intaglio.training.optimizers import OPTIMIZERS, OptimizerOptions, build_optimizer, make_optimizer, optimizer
from intaglio.training.schedule import learning_rate_factor

LIBRARIES = {"adamw_8bit": "bitsandbytes", "prodigy": "prodigyopt", "schedule_free": "schedulefree"}


def parameters():
    generator = torch.Generator().manual_seed(0)
    return {
        "layer.a": nn.Parameter(torch.randn(80, 64, generator=generator)),
        "layer.b.0": nn.Parameter(torch.randn(7, generator=generator)),
    }


def steps(made, named, first, last):
    for step in range(first, last):
        generator = torch.Generator().manual_seed(100 + step)
        for group in made.param_groups:
            group["lr"] = 0.01 * (1 + step)
        for parameter in named.values():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.grad = parameter.detach() + 0.1 * noise
        made.step()


@pytest.fixture(params=["adamw", "sgd", "momentum", *LIBRARIES])
def options(request):
    if request.param in LIBRARIES:
        pytest.importorskip(LIBRARIES[request.param])
    if request.param == "momentum":
        return build_optimizer("sgd", {"momentum": 0.9})
    if request.param == "adamw_8bit":
        return build_optimizer(request.param, {"min_8bit_size": 1000})
    return build_optimizer(request.param, {})


def test_state_by_name_goes_on_bit_for_bit(options):
    whole, named = parameters(), parameters()
    steps(make_optimizer(options, list(whole.values()), 0.01), whole, 0, 6)
    first = make_optimizer(options, list(named.values()), 0.01)
    steps(first, named, 0, 3)
    tensors, rest = optimizer_state(first, named)
    named = copy.deepcopy(named)
    second = make_optimizer(options, list(named.values()), 0.01)
    load_optimizer_state(second, named, tensors, rest)
    steps(second, named, 3, 6)
    for name, expected in whole.items():
        torch.testing.assert_close(named[name], expected, rtol=0, atol=0)
    assert any((named[n] != p).any() for n, p in parameters().items())


def test_adamw_is_torchs():
    ours, theirs = parameters(), parameters()
    steps(make_optimizer(build_optimizer("adamw", {"weight_decay": 0.1}), list(ours.values()), 0.01), ours, 0, 3)
    steps(torch.optim.AdamW(list(theirs.values()), weight_decay=0.1, fused=True), theirs, 0, 3)
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=0, atol=0)


def test_every_optimizer_comes_closer(options):
    """The gradient of `steps` is that of |p|^2 / 2."""
    named = parameters()
    norm = sum(p.norm().item() for p in named.values())
    made = make_optimizer(options, list(named.values()), 0.01)
    steps(made, named, 0, 60)
    assert sum(p.norm().item() for p in named.values()) < 0.9 * norm


def test_unknown_names_and_options():
    with pytest.raises(UnknownChoice, match=r"unknown optimizer 'adam' \(did you mean 'adamw'\?\); known: adamw"):
        build_optimizer("adam", {})
    with pytest.raises(Problems, match="unknown key 'beta3' \\(did you mean 'beta"):
        build_optimizer("adamw", {"beta3": 0.9})
    with pytest.raises(Problems, match="momentum"):
        build_optimizer("sgd", {"momentum": 2})


def test_a_library_that_is_missing_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "prodigyopt", None)
    with pytest.raises(UserError, match=r"optimizer prodigy needs prodigyopt: pip install 'intaglio\[optimizers\]'"):
        make_optimizer(build_optimizer("prodigy", {}), list(parameters().values()), 1.0)


def test_int8_parameters_have_adamw_alone():
    held = [nn.Parameter(CodesTensor.of(torch.randn(4, 8), 0))]
    assert type(make_optimizer(build_optimizer("adamw", {}), held, 0.01)).__name__ == "IntegerAdamW"
    with pytest.raises(UserError, match="use optimizer adamw, not sgd"):
        make_optimizer(build_optimizer("sgd", {}), held, 0.01)


def test_one_from_outside():
    class Sign(OptimizerOptions):
        """Steps of one length, by the sign of the gradient."""

        summary = "sign"
        length: float = 1.0

        def make(self, parameters, learning_rate):
            return SignSteps(parameters, {"lr": learning_rate, "length": self.length})

    class SignSteps(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.sub_(parameter.grad.sign() * group["lr"] * group["length"])

    optimizer("sign")(Sign)
    try:
        named = {"x": nn.Parameter(torch.tensor([1.0, -1.0]))}
        made = make_optimizer(build_optimizer("sign", {"length": 0.5}), list(named.values()), 0.1)
        named["x"].grad = torch.tensor([3.0, -2.0])
        made.step()
        assert named["x"].tolist() == pytest.approx([0.95, -0.95])
        with pytest.raises(ValueError, match=r"is .*Sign already"):
            optimizer("sign")(Sign)
    finally:
        del OPTIMIZERS["sign"]


def test_weights_to_draw_with_leave_training_as_it_was():
    pytest.importorskip("schedulefree")
    named = parameters()
    made = make_optimizer(build_optimizer("schedule_free", {}), list(named.values()), 0.01)
    steps(made, named, 0, 4)
    before = {n: p.detach().clone() for n, p in named.items()}
    with weights_to_draw_with(list(named.values()), made, None):
        assert any((named[n] != before[n]).any() for n in before)
    for name, expected in before.items():
        torch.testing.assert_close(named[name].detach(), expected, rtol=0, atol=0)
    average = MovingAverage(named.values(), 0.9)
    steps(made, named, 4, 5)
    average.update(4)
    trained = named["layer.a"].detach().clone()
    with weights_to_draw_with(list(named.values()), torch.optim.SGD(named.values()), average):
        torch.testing.assert_close(named["layer.a"].detach(), average.averages[0], rtol=0, atol=0)
    torch.testing.assert_close(named["layer.a"].detach(), trained, rtol=0, atol=0)


@dataclass(frozen=True)
class Theirs:
    name: str
    ours: dict
    theirs: dict


@pytest.mark.parametrize(
    "case",
    [
        Theirs("linear", {}, {}),
        Theirs("cosine", {}, {}),
        Theirs("cosine_with_restarts", {"num_cycles": 3}, {"num_cycles": 3}),
        Theirs("polynomial", {"power": 2.0}, {"power": 2.0}),
        Theirs("constant", {}, {}),
    ],
    ids=lambda case: case.name,
)
@pytest.mark.parametrize("warmup", [0, 5])
def test_schedules_are_those_of_diffusers_after_the_warmup(case, warmup):
    made = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_scheduler(case.name, made, num_warmup_steps=warmup, num_training_steps=20, **case.theirs)
    for step in range(20):
        factor = learning_rate_factor(case.name, step, 20, warmup_steps=warmup, **case.ours)
        if step >= warmup:
            assert factor == pytest.approx(made.param_groups[0]["lr"], abs=1e-6)
        else:
            assert factor == (step + 1) / (warmup + 1)
        made.step()
        theirs.step()


def test_a_warm_up_goes_with_constant_too():
    assert [learning_rate_factor("constant", s, 9, warmup_steps=3) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_a_recipe_names_optimizer_and_options_in_a_table_or_flat():
    from intaglio.training.recipe import Recipe, into_sections, merged

    data = {"instance_data_dir": "x"}
    table = Recipe.model_validate({**data, "optimizer": {"name": "sgd", "momentum": 0.9, "learning_rate": 0.1}})
    flat = Recipe.model_validate({**data, "optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.1})
    assert table == flat
    assert table.optimizer.build().model_dump() == {"momentum": 0.9, "nesterov": False, "weight_decay": 0.0}
    adam = Recipe.model_validate({**data, "adam_beta1": 0.8})
    assert adam.optimizer.build() == build_optimizer("adamw", {"beta1": 0.8})
    sgd = into_sections({"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.1})
    both = merged(sgd, {"optimizer": {"name": "adamw"}})
    assert both["optimizer"] == {"name": "adamw", "learning_rate": 0.1}, "options stay with the one that has them"
    with pytest.raises(ValueError, match="unknown optimizer 'lion'"):
        Recipe.model_validate({**data, "optimizer": "lion"})
    with pytest.raises(ValueError, match="unknown key 'momentum'"):
        Recipe.model_validate({**data, "momentum": 0.9})


def test_the_learning_rate_of_each():
    from intaglio.methods.registry import METHODS
    from intaglio.training.recipe import OptimizerSection

    method = METHODS["qlora"]
    assert OptimizerSection(name="prodigy").learning_rate_for(method) == 1.0
    assert OptimizerSection(name="sgd").learning_rate_for(method) == method.learning_rate
    assert OptimizerSection(name="prodigy", learning_rate=0.5).learning_rate_for(method) == 0.5
