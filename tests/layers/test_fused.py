"""A denoiser with fused norms and activations is the same function, with the same names."""

import copy

import pytest
import torch
from diffusers import DiTTransformer2DModel
from tests.tiny_models import make_unet
from torch import nn

from intaglio.kernels import binding
from intaglio.layers.fused import install_fused, remove_fused

pytestmark = pytest.mark.skipif(
    binding.compiled_at("avx2", torch.zeros(1)) is None, reason="the fused kernels are not compiled"
)


def step(unet, dtype, checkpointing=False, size=8):
    """Output and gradients of the input and of every projection of attention, in float32."""
    make = torch.Generator().manual_seed(3)
    x = torch.randn(2, 4, size, size, generator=make).to(dtype).requires_grad_()
    text = torch.randn(2, 5, 24, generator=make).to(dtype)
    trained = [p for n, p in unet.named_parameters() if p.requires_grad]
    if checkpointing:
        unet.enable_gradient_checkpointing()
    y = unet(x, torch.tensor([3, 700]), text).sample
    grads = torch.autograd.grad(y.float().square().sum(), [x, *trained])
    if checkpointing:
        unet.disable_gradient_checkpointing()
    return [t.detach().float() for t in (y, *grads)]


def prepared(dtype, **changes):
    unet = make_unet(**changes).to(dtype).train().requires_grad_(False)
    for name, p in unet.named_parameters():
        p.requires_grad_("to_q.weight" in name or "to_out.0.weight" in name)
    return unet


def worst(got, expected):
    """The largest relative difference, in the norm of a tensor."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("linear", [False, True])
def test_the_same_function_in_float32(checkpointing, linear):
    unet = prepared(torch.float32, use_linear_projection=linear)
    plain = step(unet, torch.float32)
    assert install_fused(unet, norms="input", activations="input") > 20
    assert worst(step(unet, torch.float32, checkpointing), plain) < 1e-5


def test_bfloat16_errs_no_more_than_torch():
    unet = prepared(torch.bfloat16)
    exact = step(copy.deepcopy(unet).float(), torch.float32)
    plain = step(unet, torch.bfloat16)
    install_fused(unet, norms="input", activations="input")
    assert worst(step(unet, torch.bfloat16), exact) < 1.2 * worst(plain, exact)


def test_codes_change_gradients_by_little():
    for dtype in (torch.float32, torch.bfloat16):
        unet = prepared(dtype)
        exact = step(copy.deepcopy(unet).float(), torch.float32)
        plain = step(unet, dtype)
        install_fused(unet)
        got = step(unet, dtype)
        assert worst(got[:1], exact[:1]) < max(1e-5, 1.2 * worst(plain[:1], exact[:1]))
        assert worst(got[1:], exact[1:]) < worst(plain[1:], exact[1:]) + 0.02


def test_names_and_types_stay():
    unet = prepared(torch.float32)
    before = {n: t.clone() for n, t in unet.state_dict().items()}
    types = {n: type(m) for n, m in unet.named_modules()}
    plain = step(unet, torch.float32)
    changed = install_fused(unet)
    assert [n for n, _ in unet.named_modules()] == list(types)
    assert all(isinstance(m, types[n]) for n, m in unet.named_modules())
    assert all(torch.equal(t, before[n]) for n, t in unet.state_dict().items())
    assert not any(type(m) in (nn.GroupNorm, nn.LayerNorm) for m in unet.modules())
    again = copy.deepcopy(unet)
    assert worst(step(again, torch.float32), step(unet, torch.float32)) == 0
    assert install_fused(unet) == 0
    assert remove_fused(unet) == changed
    assert {n: type(m) for n, m in unet.named_modules()} == types
    assert worst(step(unet, torch.float32), plain) == 0


def test_norms_that_train_are_left():
    unet = make_unet()
    install_fused(unet)
    assert sum(type(m) is nn.GroupNorm for m in unet.modules()) == sum(
        isinstance(m, nn.GroupNorm) for m in unet.modules()
    )


def test_without_compiled_kernels_nothing_changes(monkeypatch):
    unet = prepared(torch.float32)
    plain = step(unet, torch.float32)
    install_fused(unet)
    monkeypatch.setattr(binding, "library", lambda: None)
    assert worst(step(unet, torch.float32), plain) < 1e-5


def test_activations_are_channels_last_throughout():
    """No layer of the U-Net is given a picture with channels first, but for the latent itself."""
    unet = prepared(torch.bfloat16).to(memory_format=torch.channels_last)
    install_fused(unet)
    seen = {}

    def look(name):
        return lambda module, args: seen.update({name: args[0].is_contiguous(memory_format=torch.channels_last)})

    for name, module in unet.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(look(name))
    unet(torch.randn(1, 4, 8, 8).bfloat16(), torch.tensor([3]), torch.randn(1, 5, 24).bfloat16())
    assert [name for name, last in seen.items() if not last] == ["conv_in"]


def test_a_transformer():
    torch.manual_seed(0)
    dit = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=2, sample_size=8, num_embeds_ada_norm=10
    ).requires_grad_(False)
    inputs = (torch.randn(2, 4, 8, 8), torch.tensor([1, 2]), torch.tensor([3, 4]))
    dit.eval()
    plain = dit(*inputs).sample
    assert install_fused(dit) > 0
    torch.testing.assert_close(dit(*inputs).sample, plain, rtol=1e-4, atol=1e-5)
