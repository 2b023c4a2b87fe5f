"""Flow matching: times, weights and shifts against diffusers' own."""

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3

from intaglio.diffusion.flow import Flow, flow_objective, shift_factor
from intaglio.diffusion.objective import ObjectiveOptions
from intaglio.diffusion.time import Scaled
from intaglio.errors import UserError


def every_level(flow):
    """The times of all 1,000 indices, in order."""
    return flow.times((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000)


@pytest.mark.parametrize("shift", [1.0, 3.0, 6.0])
def test_a_static_shift_is_the_schedulers_and_is_applied_once(shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    flow = flow_objective(scheduler, ObjectiveOptions(), convention=Scaled(1000), image_tokens=256)
    torch.testing.assert_close(every_level(flow).float(), scheduler.sigmas, rtol=3e-7, atol=0)
    told = flow.model_time(every_level(flow))
    torch.testing.assert_close(told, scheduler.timesteps, rtol=3e-7, atol=0)
    assert told.dtype == torch.float32


@pytest.mark.parametrize("side", [256, 512, 1024])
def test_a_dynamic_shift_is_that_of_sampling_at_this_size(side):
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    tokens = (side // 16) ** 2
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    assert scheduler.sigmas[0] == 1  # at rest the scheduler has no shift at all: training on its sigmas would have none
    flow = flow_objective(scheduler, ObjectiveOptions(), convention=Scaled(1), image_tokens=tokens)
    unshifted = torch.linspace(1, 1 / 1000, 1000, dtype=torch.float64)
    expected = scheduler.time_shift(calculate_shift(tokens), 1.0, unshifted)
    torch.testing.assert_close(every_level(flow), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("wanted", "expected"), [("none", 1.0), ("static", 3.0), ("2.5", 2.5), (4.0, 4.0), ("dynamic", math.exp(0.5))]
)
def test_shift_words(wanted, expected):
    config = FlowMatchEulerDiscreteScheduler(shift=3.0).config
    assert shift_factor(config, wanted, 256) == pytest.approx(expected)


@pytest.mark.parametrize("wanted", ["0", "-1", "much", "nan"])
def test_a_shift_that_is_none(wanted):
    with pytest.raises(
        UserError, match=f"timestep_shift must be none, static, dynamic or a positive number, not '{wanted}"
    ):
        shift_factor({}, wanted, 256)


@pytest.mark.parametrize(
    ("scheme", "options"),
    [
        ("none", {}),
        ("logit_normal", {"logit_mean": 0.5, "logit_std": 1.5}),
        ("mode", {"mode_scale": 1.29}),
    ],
)
def test_times_are_distributed_as_the_scripts_draw_them(scheme, options):
    """Quantiles of diffusers' draws against ours: 200,000 draws, 5 standard errors of a quantile."""
    given = {"logit_mean": 0.0, "logit_std": 1.0, "mode_scale": 1.29, **options}
    u = compute_density_for_timestep_sampling(scheme, 200_000, generator=torch.Generator().manual_seed(1), **given)
    theirs = 1 - (u * 1000).long().clamp(0, 999).double() / 1000
    generator = torch.Generator().manual_seed(2)
    ours = Flow(weighting_scheme=scheme, **given).times(torch.rand(200_000, generator=generator))
    at = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    shares = torch.stack([(ours <= level).double().mean() for level in theirs.quantile(at)])
    torch.testing.assert_close(shares, at, rtol=0, atol=5 * math.sqrt(0.5 / 200_000) + 1e-3)


@pytest.mark.parametrize("scheme", ["none", "sigma_sqrt", "logit_normal", "mode", "cosmap"])
def test_weights_are_the_scripts(scheme):
    sigma = torch.tensor([0.001, 0.25, 0.5, 0.999], dtype=torch.float64)
    expected = compute_loss_weighting_for_sd3(scheme, sigma).float()
    torch.testing.assert_close(Flow(weighting_scheme=scheme).weight(sigma), expected)


def test_sigma_stays_float32_in_half_precision():
    """In bfloat16, sigma .75 + 1/1024 would be .75."""
    t = torch.tensor([0.75 + 1 / 1024], dtype=torch.float64)
    x0, noise = torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 1024.0)
    flow = Flow(convention=Scaled(1000))
    assert flow.corrupt(x0, noise, t).item() == 769
    assert flow.corrupt(x0.bfloat16(), noise.bfloat16(), t).item() == torch.tensor(769.0).bfloat16().item()
    assert flow.model_time(t).item() == pytest.approx(750.9766, abs=1e-4)


def test_draws_depend_on_the_generator_alone():
    flow = Flow(weighting_scheme="logit_normal")
    first, again = (flow.draw(torch.Generator().manual_seed(3)) for _ in range(2))
    assert first == again
    assert 0 < first <= 1


def test_options_of_ddpm_are_refused():
    with pytest.raises(UserError, match="snr_gamma is for DDPM"):
        flow_objective(
            FlowMatchEulerDiscreteScheduler(), ObjectiveOptions(snr_gamma=5.0), convention=Scaled(1), image_tokens=1
        )
