"""The processor against the one that it stands in for."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0

from intaglio.kernels import binding
from intaglio.kernels.attention import attention
from intaglio.layers.attention import FlashAttentionProcessor, install_attention, remove_attention
from intaglio.trace.recorder import record
from tiny_models import make_unet

VARIANTS = {
    "self": {},
    "cross": {"cross_attention_dim": 12},
    "cross norm": {"cross_attention_dim": 12, "cross_attention_norm": "layer_norm"},
    "group norm": {"norm_num_groups": 4, "residual_connection": True, "rescale_output_factor": 2**0.5, "bias": True},
    "spatial norm": {"spatial_norm_dim": 6, "norm_num_groups": 4, "residual_connection": True},
    "query norm": {"qk_norm": "layer_norm"},
    "unscaled": {"scale_qk": False},
}


def run(attn, x, context, temb, mask=None):
    leaf = x.detach().requires_grad_()
    out = attn(leaf, encoder_hidden_states=context, attention_mask=mask, temb=temb)
    out.float().square().sum().backward()
    return out.detach(), leaf.grad, [p.grad for p in attn.parameters()]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("image", [False, True], ids=["tokens", "image"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_is_the_default_in_float32(variant, image, masked):
    """torch computes both, so only the handling around differs: not at all, but for a division by one."""
    if variant == "spatial norm" and not image:
        pytest.skip("it norms images")
    torch.manual_seed(0)
    attn = Attention(32, heads=2, dim_head=16, **VARIANTS[variant])
    x = torch.randn(2, 32, 4, 3) if image else torch.randn(2, 12, 32)
    context = torch.randn(2, 5, 12) if "cross" in variant else None
    temb = torch.randn(2, 6, 4, 3) if variant == "spatial norm" else None
    mask = torch.zeros(4, 1, 12 if context is None else 5) if masked else None
    if masked:
        mask[..., 0] = -1e4
    results = []
    for change in (None, install_attention, remove_attention):
        assert change is None or change(attn) == 1
        attn.zero_grad()
        results.append(run(attn, x, context, temb, mask))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


def test_a_denoiser_in_bfloat16():
    """Results and gradients as far from float32's as diffusers' own bfloat16 ones are, within a half."""
    with torch.no_grad():
        exact = make_unet()
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.randn(2, 5, 24)
    errors = []
    expected = gradients(exact, inputs)
    half = make_unet().bfloat16()
    for change in (None, install_attention):
        if change is not None:
            assert change(half) == len([m for m in half.modules() if isinstance(m, Attention)])
        got = gradients(half, [x.bfloat16() if x.is_floating_point() else x for x in inputs])
        errors.append((got - expected).norm() / expected.norm())
    assert errors[1] < 1.5 * errors[0]


def gradients(model, inputs):
    model.zero_grad()
    out = model(*inputs, return_dict=False)[0].float()
    out.square().mean().backward()
    return torch.cat([out.detach().flatten(), *(p.grad.float().flatten() for p in model.parameters())])


def test_int8_reaches_the_kernel():
    attn, x = Attention(16, heads=2, dim_head=8).bfloat16(), torch.randn(1, 9, 16).bfloat16()
    install_attention(attn, int8=True)
    q, k, v = (p(x).view(1, 9, 2, 8).transpose(1, 2) for p in (attn.to_q, attn.to_k, attn.to_v))
    expected = attn.to_out[0](attention(q, k, v, int8=True).transpose(1, 2).reshape(1, 9, 16))
    assert torch.equal(attn(x), expected)


def test_only_defaults_are_replaced():
    model = make_unet()
    attentions = [m for m in model.modules() if isinstance(m, Attention)]
    own, upcast = object.__new__(type("Own", (AttnProcessor2_0,), {})), AttnProcessor()
    attentions[0].set_processor(own)
    attentions[1].set_processor(upcast)
    attentions[1].upcast_attention = True
    assert install_attention(model) == len(attentions) - 2
    assert install_attention(model) == 0
    assert attentions[0].processor is own
    assert attentions[1].processor is upcast
    assert isinstance(attentions[2].processor, FlashAttentionProcessor)
    assert remove_attention(model) == len(attentions) - 2
    assert {type(m.processor) for m in attentions[2:]} == {AttnProcessor2_0}


def test_the_trace_knows_its_products():
    """The same products, forward and backward, as of torch's attention."""
    counts = []
    for change in (lambda _: 0, install_attention):
        model = make_unet().bfloat16()
        change(model)
        inputs = torch.randn(2, 4, 8, 8).bfloat16(), torch.tensor([3, 700]), torch.randn(2, 5, 24).bfloat16()
        trace = record(
            lambda model=model, inputs=inputs: model(*inputs, return_dict=False)[0].square().mean().backward()
        )
        counts.append(sorted((e.pass_name, e.layer, e.M, e.N, e.K, e.batch) for e in trace.events if e.is_product))
        assert not trace.header.step.get("unknown_operators")
    assert counts[0] == counts[1]


def test_the_unet_of_stable_diffusion_has_no_other():
    with torch.device("meta"):
        model = UNet2DConditionModel(cross_attention_dim=768)
    assert install_attention(model) == len(model.attn_processors) == 32


def test_compiled_where_it_can_be():
    """On this machine's best path, an installed processor in bfloat16 calls the operator."""
    if binding.path_in_use() == "torch":
        pytest.skip("torch computes here")
    attn = Attention(16, heads=2, dim_head=8).bfloat16()
    install_attention(attn)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        attn(torch.randn(1, 9, 16).bfloat16()).sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert {"intaglio::attention", "intaglio::attention_gradient"} <= names
