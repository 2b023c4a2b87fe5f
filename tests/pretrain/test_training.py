"""The pieces of training: schedule, Muon, moving average, the standardized latents, the loss."""

import copy
import math

import pytest
import torch
from pretrain.base import new_scheduler
from pretrain.optim import MovingAverage, learning_rate_factor, optimizers, orthogonalize
from pretrain.runtime import Budget
from pretrain.train_unet import spread_timesteps
from pretrain.train_vae import POSTERIOR_STD, composite, decode, encode, new_vae, standardized
from torch import nn


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (7, 3), (16, 16)])
def test_orthogonalize_brings_singular_values_near_one(shape):
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_every_parameter_has_exactly_one_optimizer():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Linear(8, 8))
    owned = [id(p) for found in optimizers(model, 1e-3) for group in found.param_groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in model.parameters())


def test_schedule_ends_low_and_never_at_zero():
    factors = [learning_rate_factor(step / 100) for step in range(101)]
    assert max(factors) == 1.0
    assert factors[-1] == pytest.approx(0.02)
    assert min(factors) > 0


def test_moving_average_follows():
    model = nn.Linear(1, 1, bias=False)
    average = MovingAverage(model, 0.5)
    before = average.model.weight.item()
    with torch.no_grad():
        model.weight.fill_(1)
    average.update(model)
    assert average.model.weight.item() == pytest.approx(before + (1 - 2 / 11) * (1 - before))


def test_composite_is_exact_at_the_ends():
    rgba = torch.tensor([[[[255, 0, 0, 255], [9, 9, 9, 0]]]], dtype=torch.uint8)
    pixels = composite(rgba, torch.tensor([[0.0, 127.5, 255.0]]))
    assert pixels[0, :, 0, 0].tolist() == [1, -1, -1]
    assert pixels[0, :, 0, 1].tolist() == [-1, 0, 1]


def test_standardized_latents_decode_to_the_same_picture():
    torch.manual_seed(0)
    vae = new_vae().eval()
    pictures = torch.rand(8, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        plain, folded = encode(vae, pictures), encode(other := standardized(vae, pictures), pictures)
        assert torch.allclose(plain.std, torch.full_like(plain.std, POSTERIOR_STD), rtol=1e-5)
        assert folded.mean.mean((0, 2, 3)).abs().max() < 1e-4
        assert torch.allclose(folded.mean.std((0, 2, 3)), torch.ones(16), atol=1e-3)
        scale = plain.mean.std((0, 2, 3))
        assert torch.allclose(folded.std[0, :, 0, 0] * scale, plain.std[0, :, 0, 0], rtol=1e-4)
        # float32 through two different but equal roads
        assert torch.allclose(decode(vae, plain.mean), decode(other, folded.mean), atol=1e-3)


def test_timesteps_are_spread_over_the_whole_range():
    steps = spread_timesteps(64)
    assert torch.equal(steps * 64 // 1000, torch.arange(64)) or len(set((steps * 64 // 1000).tolist())) > 60
    assert int(spread_timesteps(1)) in range(1000)


def test_the_last_timestep_carries_no_signal():
    assert math.isclose(float(new_scheduler().alphas_cumprod[-1]), 0, abs_tol=1e-7)


def test_budget_goes_on_in_the_same_schedule():
    budget = Budget(total_minutes=10, minutes=5, samples=7, spent_s=300)
    assert budget.progress == pytest.approx(0.5, abs=0.01)
    assert not budget.over
    assert Budget(**{"total_minutes": 10, "minutes": 5, **budget.state(), "spent_s": 600}).over


def test_a_deep_copied_average_shares_nothing():
    model = nn.Linear(2, 2)
    average = MovingAverage(model, 0.9)
    saved = copy.deepcopy(average.model.state_dict())
    with torch.no_grad():
        model.weight.add_(1)
    assert torch.equal(average.model.weight, saved["weight"])
