"""Epsilon, v and sample prediction against diffusers' scheduler."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_snr

from intaglio.diffusion.ddpm import ddpm_objective
from intaglio.diffusion.objective import ObjectiveOptions
from intaglio.errors import UserError

STEPS = torch.tensor([0, 250, 700, 999])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_process_and_target_are_diffusers_bit_for_bit(kind, dtype):
    config = {"prediction_type": kind, "beta_schedule": "scaled_linear", "rescale_betas_zero_snr": kind != "epsilon"}
    objective = ddpm_objective(DDIMScheduler(**config), ObjectiveOptions())
    theirs = DDPMScheduler(**config)
    x0, noise = torch.randn(2, 4, 3, 5, 5).to(dtype)
    t = STEPS / 1000
    assert torch.equal(objective.model_time(t), STEPS)
    assert torch.equal(objective.corrupt(x0, noise, t), theirs.add_noise(x0, noise, STEPS))
    expected = {"epsilon": noise, "sample": x0, "v_prediction": theirs.get_velocity(x0, noise, STEPS)}[kind]
    assert torch.equal(objective.target(x0, noise, t), expected)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_min_snr_weights(kind):
    scheduler = DDPMScheduler(prediction_type=kind)
    weights = ddpm_objective(scheduler, ObjectiveOptions(snr_gamma=5.0)).weight(STEPS / 1000)
    snr = compute_snr(scheduler, STEPS)
    expected = snr.clamp(max=5)
    expected = {"epsilon": expected / snr, "v_prediction": expected / (snr + 1), "sample": expected}[kind]
    torch.testing.assert_close(weights, expected)


def test_what_does_not_fit():
    with pytest.raises(UserError, match=r"FlowMatchEulerDiscreteScheduler .* does not fit this model"):
        ddpm_objective(FlowMatchEulerDiscreteScheduler(), ObjectiveOptions())
    with pytest.raises(UserError, match="weighting_scheme, timestep_shift: for flow matching alone"):
        ddpm_objective(DDPMScheduler(), ObjectiveOptions(weighting_scheme="mode", timestep_shift="none"))
