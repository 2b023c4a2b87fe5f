"""An adapter means the same everywhere: in diffusers, in PEFT, and in a reader of keys and alphas.

The reader follows ComfyUI's published conventions, release 0.3 (`comfy/lora.py`, `comfy/weight_adapter/lora.py`,
`comfy/utils.py`): for each key of its map it takes `.lora_up.weight`, `.lora_down.weight` and `.alpha`, and adds
`alpha / rank * up @ down` to the weight, or to the rows of a fused one; without alpha the factor is 1. Which layers
a key names: `unet_to_diffusers`, `flux_to_diffusers`. kohya's sd-scripts (`networks/lora.py`) do the same with
their keys.
"""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import intaglio
from intaglio.adapters.formats import format_named
from intaglio.adapters.start import read_adapter
from intaglio.adapters.state import Names
from intaglio.errors import UserError
from tiny_pipelines import make_pipeline, run, tiny_unet

WRITTEN = ("diffusers", "peft", "kohya", "comfyui")


def tiny(family):
    """A pipeline; XL has two layers a block and attention where the released one has it."""
    pipeline = make_pipeline(family)
    if family == "sdxl":
        torch.manual_seed(0)
        pipeline.unet = tiny_unet(
            48,
            layers_per_block=2,
            block_out_channels=(16, 32, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 24,
        )
    return pipeline


def denoiser(pipeline):
    return pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer


def trained(model, targets="all", rank=3, alpha=5.0):
    adapter = intaglio.attach(model, intaglio.Lora(rank=rank, alpha=alpha), targets=targets)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return adapter


def updates(adapter):
    """Layer -> the change of its weight, from the definition."""
    part = adapter.state().components[adapter.header().component]
    return {name: pair.update() for name, pair in part.low_rank.items()}


TARGETS = {
    "sd": "all",
    "sdxl": "all",
    "sd3": ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "ff.net.0.proj", "norm1.linear"),
    "flux": ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "proj_mlp", "proj_out", "ff.net.2", "norm.linear"),
    "flux2-klein": ("to_q", "to_v", "to_out.0", "add_k_proj", "ff.linear_in", "to_qkv_mlp_proj", "attn.to_out"),
    "krea2": ("to_q", "to_gate", "to_out.0", "ff.up"),
    "z-image": ("to_q", "to_k", "to_out.0", "feed_forward.w1"),
    "qwen-image": ("to_q", "add_k_proj", "to_out.0", "img_mlp.net.2", "img_mod.1"),
}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("family", TARGETS)
def test_every_format_and_family_back_to_the_same_updates(family, name, tmp_path):
    """Read with the model, and without it where the keys tell the layers."""
    adapter = trained(denoiser(tiny(family)), TARGETS[family])
    path = adapter.save(tmp_path, format=name)
    expected = updates(adapter)
    for names in (Names.of(adapter.model), None):
        state = format_named(name).read(path, names)
        got = state.components[adapter.header().component].low_rank
        assert got.keys() == expected.keys()
        for layer, update in expected.items():
            torch.testing.assert_close(got[layer].update(), update, rtol=1e-5, atol=1e-7)


LOADED = [
    ("sd", "diffusers", "all"),
    ("sd", "kohya", ("to_q", "to_out.0", "conv1", "time_emb_proj", "ff.net.0.proj", "proj_in")),
    ("sdxl", "diffusers", "all"),
    ("sdxl", "kohya", ("to_q", "to_k", "to_out.0", "ff.net.2", "conv2")),
    ("sd3", "diffusers", TARGETS["sd3"]),
    ("flux", "diffusers", TARGETS["flux"]),
    ("flux2-klein", "diffusers", TARGETS["flux2-klein"]),
    ("flux2-klein", "kohya", TARGETS["flux2-klein"]),
    ("krea2", "diffusers", TARGETS["krea2"]),
    ("z-image", "diffusers", TARGETS["z-image"]),
    ("z-image", "comfyui", ("w1", "w2")),
    ("qwen-image", "diffusers", TARGETS["qwen-image"]),
    ("qwen-image", "comfyui", TARGETS["qwen-image"]),
    ("flux", "kohya", ("transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_v", "to_add_out", "ff.net.2")),
]


@pytest.mark.parametrize(("family", "name", "targets"), LOADED)
def test_diffusers_draws_the_same(family, name, targets, tmp_path):
    pipeline, plain = tiny(family), tiny(family)
    before = run(plain)
    path = trained(denoiser(pipeline), targets).save(tmp_path, format=name)
    plain.load_lora_weights(tmp_path, weight_name=path.name)
    expected, got = run(pipeline), run(plain)
    assert (expected - before).abs().max() > 1e-3, "the adapter changes nothing, so this would prove nothing"
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_peft_computes_the_same(family, tmp_path):
    from peft import PeftModel

    pipeline, plain = tiny(family), tiny(family)
    trained(denoiser(pipeline), TARGETS[family]).save(tmp_path, format="peft")
    attribute = "unet" if family == "sd" else "transformer"
    PeftModel.from_pretrained(denoiser(plain), tmp_path)  # it puts its layers into the model itself
    assert any("lora_A" in name for name, _ in getattr(plain, attribute).named_parameters())
    torch.testing.assert_close(run(plain), run(pipeline), rtol=1e-3, atol=1e-4)


def read_keys_and_alphas(path, key_map, weights):
    """ComfyUI's way: key -> (weight, first row, rows) -> what is added to the weights."""
    tensors, used = load_file(path), set()
    added = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in weights.items()}
    for key, (name, first, rows) in key_map.items():
        if f"{key}.lora_up.weight" not in tensors:
            continue
        up, down = tensors[f"{key}.lora_up.weight"].double(), tensors[f"{key}.lora_down.weight"].double()
        alpha = tensors.get(f"{key}.alpha")
        scale = 1.0 if alpha is None else alpha.item() / down.shape[0]
        part = added[name] if rows is None else added[name].narrow(0, first, rows)
        part += scale * (up.flatten(1) @ down.flatten(1)).reshape(part.shape)
        used |= {f"{key}.{end}" for end in ("lora_up.weight", "lora_down.weight", "alpha")}
    assert used == set(tensors), "keys that ComfyUI would warn of and leave out"
    return added


def test_a_reader_of_keys_and_alphas_unet(tmp_path):
    unet = tiny("sd").unet
    adapter = trained(unet)
    key_map = {f"lora_unet_{name.replace('.', '_')}": (name, 0, None) for name in Names.of(unet).shapes}
    weights = {name: torch.empty(shape) for name, shape in Names.of(unet).shapes.items()}
    for name in ("kohya", "comfyui"):
        added = read_keys_and_alphas(adapter.save(tmp_path / name, format=name), key_map, weights)
        for layer, update in updates(adapter).items():
            torch.testing.assert_close(added[layer], update, rtol=1e-9, atol=1e-12)


def test_a_reader_of_keys_and_alphas_flux(tmp_path):
    """`flux_to_diffusers`: q, k and v are rows of `img_attn.qkv`, with the MLP's they are those of `linear1`."""
    model = tiny("flux").transformer
    adapter = trained(model, TARGETS["flux"])
    width = model.inner_dim
    shapes = {
        "double_blocks.0.img_attn.qkv": (3 * width, width),
        "double_blocks.0.txt_attn.qkv": (3 * width, width),
        "double_blocks.0.img_attn.proj": (width, width),
        "double_blocks.0.img_mlp.2": (width, 4 * width),
        "double_blocks.0.txt_mlp.2": (width, 4 * width),
        "single_blocks.0.linear1": (7 * width, width),
        "single_blocks.0.linear2": (width, 5 * width),
        "single_blocks.0.modulation.lin": (3 * width, width),
        "final_layer.linear": (16, width),
    }
    ours = {
        "double_blocks.0.img_attn.qkv": [f"transformer_blocks.0.attn.to_{p}" for p in "qkv"],
        "double_blocks.0.txt_attn.qkv": ["transformer_blocks.0.attn.add_q_proj", 2 * width],
        "double_blocks.0.img_attn.proj": ["transformer_blocks.0.attn.to_out.0"],
        "double_blocks.0.img_mlp.2": ["transformer_blocks.0.ff.net.2"],
        "single_blocks.0.linear1": [
            *(f"single_transformer_blocks.0.attn.to_{p}" for p in "qkv"),
            "single_transformer_blocks.0.proj_mlp",
        ],
        "single_blocks.0.linear2": ["single_transformer_blocks.0.proj_out"],
        "single_blocks.0.modulation.lin": ["single_transformer_blocks.0.norm.linear"],
        "final_layer.linear": ["proj_out"],
    }
    weights = {name: torch.empty(shape) for name, shape in shapes.items()}
    known = updates(adapter)
    for name, spell in (
        ("kohya", lambda n: f"lora_unet_{n.replace('.', '_')}"),
        ("comfyui", "diffusion_model.{}".format),
    ):
        key_map = {spell(native): (native, 0, None) for native in shapes}
        added = read_keys_and_alphas(adapter.save(tmp_path / name, format=name), key_map, weights)
        for native, parts in ours.items():
            columns = shapes[native][1]
            rows = [torch.zeros(p, columns).double() if isinstance(p, int) else known[p] for p in parts]
            torch.testing.assert_close(added[native], torch.cat(rows), rtol=1e-6, atol=1e-9)


def test_sdxl_keys_are_those_of_sd_scripts(tmp_path):
    """A few by hand: `library/sdxl_original_unet.py` builds input_blocks 0 .. 8, middle_block, output_blocks 0 .. 8."""
    adapter = trained(tiny("sdxl").unet)
    with safe_open(adapter.save(tmp_path, format="kohya"), "pt") as file:
        keys = {key.partition(".")[0] for key in file.keys()}  # noqa: SIM118
        assert file.metadata()["ss_base_model_version"] == "sdxl_base_v1-0"
    assert {
        "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q",
        "lora_unet_input_blocks_1_0_in_layers_2",
        "lora_unet_input_blocks_3_0_op",
        "lora_unet_middle_block_1_transformer_blocks_0_ff_net_0_proj",
        "lora_unet_output_blocks_2_2_conv",
        "lora_unet_output_blocks_0_0_skip_connection",
        "lora_unet_label_emb_0_0",
        "lora_unet_time_embed_2",
    } <= keys
    assert not any("down_blocks" in key for key in keys)


def test_text_encoders_are_kept(tmp_path):
    """From kohya's keys through every format for pipelines and back."""
    from intaglio.adapters.state import AdapterState, ComponentState, LowRank

    pair = LowRank(torch.randn(2, 8), torch.randn(8, 2), 3.0)
    unet = {"down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q": pair}
    texts = {"text_model.encoder.layers.0.self_attn.q_proj": pair, "text_model.encoder.layers.3.mlp.fc1": pair}
    state = AdapterState(
        {name: ComponentState(x) for name, x in (("unet", unet), ("text_encoder", texts), ("text_encoder_2", texts))}
    )
    for name in ("kohya", "comfyui", "diffusers"):
        path = tmp_path / name / "x.safetensors"
        format_named(name).write(path, state)
        got = read_adapter(path)
        assert got.components.keys() == state.components.keys()
        for component, part in state.components.items():
            assert got.components[component].low_rank.keys() == part.low_rank.keys()
            for layer, expected in part.low_rank.items():
                torch.testing.assert_close(got.components[component].low_rank[layer].update(), expected.update())
    with pytest.raises(UserError, match="PEFT's file holds one model"):
        format_named("peft").write(tmp_path / "p" / "x.safetensors", state)


def test_flux2_fused_names(tmp_path):
    """`to_qkv_mlp_proj` is BFL's `linear1` as it is; FLUX.1's `linear1` is four layers."""
    from intaglio.adapters.state import AdapterState, ComponentState, LowRank

    def pair(rows, columns):
        return LowRank(torch.randn(2, columns), torch.randn(rows, 2), 2.0)

    layers = {
        "single_transformer_blocks.3.attn.to_qkv_mlp_proj": pair(9 * 8, 8),
        "single_transformer_blocks.3.attn.to_out": pair(8, 32),
        "transformer_blocks.1.attn.to_q": pair(8, 8),
        "transformer_blocks.1.attn.to_k": pair(8, 8),
        "transformer_blocks.1.ff.linear_in": pair(48, 8),
    }
    state = AdapterState({"transformer": ComponentState(layers)})
    for name, key in (
        ("comfyui", "diffusion_model.single_blocks.3.linear1"),
        ("kohya", "lora_unet_single_blocks_3_linear1"),
    ):
        path = tmp_path / name / "x.safetensors"
        format_named(name).write(path, state)
        assert f"{key}.lora_down.weight" in load_file(path)
        got = read_adapter(path).components["transformer"].low_rank
        assert got.keys() == layers.keys()
        for layer, expected in layers.items():
            torch.testing.assert_close(got[layer].update(), expected.update())
