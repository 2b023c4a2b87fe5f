"""Timestep-aware scales: which interval, which samples, and what stays untouched."""

import pytest
import torch

import intaglio
from intaglio.diffusion.time import Reversed, Scaled, Steps
from intaglio.errors import UserError
from intaglio.families.registry import denoisers_of
from intaglio.layers.smooth_scaled import node_weights
from intaglio.layers.timesteps import interval_of
from tiny_models import make_unet


@pytest.mark.parametrize(
    ("t", "num_intervals", "expected"),
    [(0.0, 4, 0), (0.249, 4, 0), (0.25, 4, 1), (0.999, 4, 3), (1.0, 4, 3), (0.999, 3, 2), (0.5, 1, 0)],
)
def test_interval_of(t, num_intervals, expected):
    assert interval_of(torch.tensor(t), num_intervals).item() == expected


@pytest.mark.parametrize("num_intervals", [*range(1, 17), 100, 999, 1000])
def test_steps_of_ddpm_fall_where_whole_numbers_do(num_intervals):
    """Also where float32 cannot hold t."""
    steps = torch.arange(1000)
    expected = steps * num_intervals // 1000
    for t in (steps.double() / 1000, steps.float() / 1000):
        assert torch.equal(interval_of(t, num_intervals), expected)


@pytest.mark.parametrize("num_intervals", range(1, 17))
def test_every_convention_maps_a_noise_level_to_one_interval(num_intervals):
    """Raw, /1000 and reversed, as float32 says them."""
    t = torch.arange(1001).double() / 1000
    expected = interval_of(t, num_intervals)
    for convention in (Scaled(1000), Scaled(1), Reversed()):
        told = convention.to_model(t)
        assert told.dtype == torch.float32
        assert torch.equal(interval_of(convention.from_model(told), num_intervals), expected), convention


def test_the_loop_says_the_time_itself(batch):
    """What the denoiser is called with, rounded to bfloat16, does not decide: 750 would be 752 there."""
    model, adapter = attached(train=False)
    sample, _, text = batch
    times = torch.tensor([0.749, 0.75, 0.1], dtype=torch.float64)
    with adapter.times.at(times), torch.no_grad():
        model(sample, (times * 1000).bfloat16(), text)
    selection = adapter.times.current()
    assert [selection.touched[row] for row in selection.rows.tolist()] == [2, 3, 0]


def test_node_weights():
    """Nodes lie in the middles of the intervals; before the first and after the last nothing changes."""
    weights = node_weights(torch.tensor([0.0, 0.125, 0.25, 0.5, 0.875, 1.0]), 4)
    expected = [[1, 0, 0, 0], [1, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 1], [0, 0, 0, 1]]
    assert weights.tolist() == expected


def test_smooth_scales_equal_tuneqdm_at_the_nodes_and_go_over_in_between(batch):
    sample, _, text = batch
    smooth, jumping = make_unet().eval(), make_unet().eval()
    first = intaglio.attach(smooth, intaglio.SmoothScales(num_nodes=4), compute="float")
    second = intaglio.attach(jumping, intaglio.TuneQDM(num_intervals=4), compute="float")
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in first.named_parameters().items():
            parameter += 0.1 * torch.randn_like(parameter)
            second.named_parameters()[name].copy_(parameter)

        def run(model, timestep):
            return model(sample, torch.full((3,), timestep), text).sample

        for node in (125.0, 375.0, 625.0, 875.0):
            torch.testing.assert_close(run(smooth, node), run(jumping, node), rtol=1e-4, atol=1e-5)
        # The time embedding moves too; the jump of TuneQDM at its border is what is not there.
        jump = (run(jumping, 250.5) - run(jumping, 249.5)).abs().max()
        assert (run(smooth, 250.5) - run(smooth, 249.5)).abs().max() < jump / 5


def attached(num_intervals=4, train=True):
    model = make_unet().train(train)
    adapter = intaglio.attach(model, intaglio.TuneQDM(num_intervals=num_intervals), compute="float")
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model, adapter


def test_each_sample_uses_its_own_interval(batch):
    """A mixed batch equals its samples one by one."""
    model, _ = attached(train=False)
    sample, timesteps, text = batch
    with torch.no_grad():
        together = model(sample, timesteps, text).sample
        alone = [model(sample[i : i + 1], timesteps[i], text[i : i + 1]).sample for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_only_touched_intervals_move(batch):
    """Neither momentum nor weight decay moves the scales of an interval without samples."""
    model, adapter = attached()
    sample, _, text = batch
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2, weight_decay=0.5)

    def step(timesteps):
        optimizer.zero_grad()
        model(sample, torch.tensor(timesteps), text).sample.square().mean().backward()
        optimizer.step()

    step([0, 300, 999])  # gives the intervals 0, 1, 3 momentum
    before = {n: p.clone() for n, p in adapter.named_parameters().items()}
    step([600, 600, 700])  # touches 2 alone
    moved = {n.rsplit(".", 1)[1] for n, p in adapter.named_parameters().items() if not torch.equal(p, before[n])}
    assert moved == {"2"}


def test_checkpointed_blocks_remember_their_own_call(batch):
    """Two calls before one backward, as with prior preservation: each recomputation uses its own timesteps."""
    sample, _, text = batch
    gradients = []
    for checkpointing in (False, True):
        model, adapter = attached()
        if checkpointing:
            model.enable_gradient_checkpointing()
        first = model(sample, torch.tensor([0, 0, 0]), text).sample.square().sum()
        second = model(sample, torch.tensor([999, 999, 999]), text).sample.square().sum()
        (first + second).backward()
        gradients.append({n: p.grad for n, p in adapter.named_parameters().items()})
    for name, expected in gradients[0].items():
        got = gradients[1][name]
        assert (got is None) == (expected is None), name
        if expected is not None:
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_a_layer_alone_says_how_to_call_it():
    model, _ = attached()
    with pytest.raises(UserError, match="ran before its denoiser was called"):
        model.conv_in(torch.randn(1, 4, 8, 8))


def test_keyword_timesteps_and_scalars(batch):
    model, _ = attached(train=False)
    sample, _, text = batch
    with torch.no_grad():
        by_keyword = model(sample=sample, timestep=700, encoder_hidden_states=text).sample
        by_tensor = model(sample, torch.tensor([700, 700, 700]), text).sample
    assert torch.equal(by_keyword, by_tensor)


def test_a_family_knows_how_its_denoiser_is_told_the_time():
    class FluxTransformer2DModel(torch.nn.Module): ...

    assert denoisers_of(make_unet()).time == Steps(1000)
    assert denoisers_of(FluxTransformer2DModel()).time == Scaled(1)
