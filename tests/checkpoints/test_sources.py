"""Bases that other programs quantized: equal to their owners' dequantization, and trained over as they lie."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import intaglio
from intaglio.checkpoints import sources
from intaglio.checkpoints.sources import bitsandbytes, comfyui, gguf
from intaglio.errors import Problems, UserError
from intaglio.layers.frozen import QuantizedLayer
from intaglio.layers.names import find_layers
from intaglio.quantizers.formats import parse_format
from intaglio.quantizers.quantize import QuantizedWeight, dequantize
from mutations import mutate, write
from tiny_pipelines import make_pipeline, run, tiny_unet


def write_gguf(path, tensors):
    """name -> (data, type) by the library that owns the format; type None for float."""
    library = pytest.importorskip("gguf")
    writer = library.GGUFWriter(str(path), "test")
    for name, (data, kind) in tensors.items():
        if kind is None:
            writer.add_tensor(name, data)
        else:
            kind = library.GGMLQuantizationType[kind]
            writer.add_tensor(name, library.quants.quantize(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", gguf._UNPACK)
def test_gguf_equals_its_library_bit_for_bit(kind, tmp_path):
    """Random bytes as blocks: every code, every scale and every minimum."""
    library = pytest.importorskip("gguf")
    number = library.GGMLQuantizationType[kind]
    per_block, size = library.GGML_QUANT_SIZES[number]
    rows, columns = 6, 512
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 256, (rows * columns // per_block, size), dtype=np.uint8)
    for at in {"Q6_K": [208], "Q8_0": [0], "Q4_0": [0], "Q5_0": [0]}.get(kind, [0, 2]):
        blocks[:, at : at + 2] = generator.standard_normal((len(blocks), 1)).astype(np.float16).view(np.uint8)
    writer = library.GGUFWriter(str(tmp_path / "x.gguf"), "test")
    writer.add_tensor("a.weight", blocks.reshape(rows, -1), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expected = library.quants.dequantize(blocks.reshape(rows, -1), number)
    (name, weight), *_ = gguf.SOURCE.weights(tmp_path / "x.gguf", None)
    assert name == "a"
    assert np.array_equal(dequantize(weight).numpy(), expected)


@pytest.mark.parametrize("nested", [False, True])
def test_bitsandbytes_nf4_equals_its_library_bit_for_bit(nested, tmp_path):
    library = pytest.importorskip("bitsandbytes").functional
    weight = torch.randn(24, 320, generator=torch.Generator().manual_seed(0))
    packed, state = library.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=nested)
    parts = {f"a.weight.{key}": value for key, value in state.as_dict(packed=True).items()}
    save_file({"a.weight": packed, **parts}, tmp_path / "x.safetensors")
    (name, found), *rest = bitsandbytes.SOURCE.weights(tmp_path, {"quant_method": "bitsandbytes"})
    assert name == "a"
    assert not rest
    assert torch.equal(dequantize(found), library.dequantize_4bit(packed, state))


def test_bitsandbytes_int8_is_taken_as_it_is(tmp_path):
    """`SCB / 127` is rounded once more than in their kernel, which multiplies by both: one unit in the last place."""
    library = pytest.importorskip("bitsandbytes").functional
    weight = torch.randn(24, 320, generator=torch.Generator().manual_seed(0)).half()
    values, largest, _ = library.int8_vectorwise_quant(weight)
    parts = {"a.weight": values, "a.SCB": largest, "a.weight_format": torch.tensor(0, dtype=torch.uint8)}
    save_file(parts, tmp_path / "x.safetensors")
    (name, found), *rest = bitsandbytes.SOURCE.weights(tmp_path, {"quant_method": "bitsandbytes"})
    assert (name, rest) == ("a", [])
    assert torch.equal(found.qdata, values)
    torch.testing.assert_close(dequantize(found), library.int8_vectorwise_dequant(values, largest), rtol=3e-7, atol=0)


def mark(**words):
    return torch.tensor(list(json.dumps(words).encode()), dtype=torch.uint8)


def hadamard(size):
    """comfy-kitchen's, in numbers of its own: Kronecker powers of this seed, orthogonal."""
    seed = np.array([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], dtype=np.float64)
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.kron(matrix, seed)
    return torch.from_numpy(matrix / np.sqrt(size))


def convrot(weight, size=256):
    """ComfyUI's `int8_convrot` of a weight: rotated by groups of inputs, rounded with a scale a row."""
    rotated = (weight.double().view(len(weight), -1, size) @ hadamard(size)).flatten(1)
    scale = (rotated.abs().amax(1, keepdim=True) / 127).float()
    return (rotated / scale).round().clamp(-127, 127).to(torch.int8), scale


def test_comfyui_convrot(tmp_path):
    weight = torch.randn(16, 512, generator=torch.Generator().manual_seed(0))
    values, scale = convrot(weight)
    parts = {"a.weight": values, "a.weight_scale": scale}
    parts["a.comfy_quant"] = mark(format="int8_tensorwise", convrot=True, convrot_groupsize=256)
    save_file(parts, tmp_path / "x.safetensors")
    assert sources.find_source(tmp_path / "x.safetensors", None, "x").name == "comfyui"
    (_, found), *_ = comfyui.SOURCE.weights(tmp_path / "x.safetensors", None)
    assert torch.equal(found.qdata, values)
    expected = ((values * scale).double().view(16, -1, 256) @ hadamard(256)).flatten(1)
    torch.testing.assert_close(dequantize(found), expected.float(), rtol=1e-5, atol=1e-5)
    assert (dequantize(found) - weight).norm() < 0.01 * weight.norm()


def test_comfyui_w4a8(tmp_path):
    """`round(clamp(level * relative)) * channel`, rotated; the even column lies in the low nibble."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = 8, 256
    codes = torch.randint(0, 16, (rows, columns), generator=generator)
    levels, channel = torch.linspace(-1, 1, 16), torch.rand(rows, generator=generator)
    relative = (60 + 60 * torch.rand(rows, columns // 16, generator=generator)).to(torch.float8_e4m3fn)
    parts = {
        "a.weight": (codes[:, 0::2] | (codes[:, 1::2] << 4)).to(torch.uint8).view(torch.int8),
        "a.weight_s_rel": relative,
        "a.weight_s_channel": channel,
        "a.weight_codebook": levels,
        "a.comfy_quant": mark(format="asym_w4a8_int8"),
    }
    save_file(parts, tmp_path / "x.safetensors")
    (_, found), *_ = comfyui.SOURCE.weights(tmp_path / "x.safetensors", None)
    values = (levels[codes] * relative.float().repeat_interleave(16, 1)).round().clamp(-127, 127)
    expected = ((values * channel[:, None]).double().view(rows, -1, 256) @ hadamard(256)).flatten(1)
    torch.testing.assert_close(dequantize(found), expected.float(), rtol=1e-5, atol=1e-4)


def test_comfyui_equals_comfy_kitchen_bit_for_bit(tmp_path):
    pytest.importorskip("comfy_kitchen")
    from comfy_kitchen.backends.eager import quantization, w4a8_int8

    weight = torch.randn(32, 512, generator=torch.Generator().manual_seed(0))
    values, scale = quantization.quantize_int8_convrot_weight(weight, 256, stochastic_rounding=0)
    config = mark(format="int8_tensorwise", convrot=True, convrot_groupsize=256)
    save_file({"a.weight": values, "a.weight_scale": scale, "a.comfy_quant": config}, tmp_path / "x.safetensors")
    (_, found), *_ = comfyui.SOURCE.weights(tmp_path / "x.safetensors", None)
    assert torch.equal(dequantize(found), quantization.dequantize_int8_convrot_weight(values, scale, 256).float())
    packed, relative, channel, _, levels = w4a8_int8.quantize_w4a8_int8_weight(weight)
    parts = {"a.weight": packed, "a.weight_s_rel": relative, "a.weight_s_channel": channel, "a.weight_codebook": levels}
    save_file({**parts, "a.comfy_quant": mark(format="asym_w4a8_int8")}, tmp_path / "y.safetensors")
    (_, found), *_ = comfyui.SOURCE.weights(tmp_path / "y.safetensors", None)
    expected = w4a8_int8.dequantize_w4a8_int8_weight(
        packed, relative, channel, levels, None, output_dtype=torch.float32
    )
    assert torch.equal(dequantize(found), expected)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pipeline wide enough for blocks of 32."""
    path = tmp_path_factory.mktemp("models") / "sd"
    pipeline = make_pipeline("sd")
    torch.manual_seed(0)
    pipeline.unet = tiny_unet(24, block_out_channels=(64, 64), norm_num_groups=4)
    pipeline.save_pretrained(path)
    return path


def linears(model):
    """Those that a file for people would quantize: of two dimensions, in blocks of 32."""
    return {n: m for n, m in find_layers(model) if isinstance(m, torch.nn.Linear) and m.in_features % 32 == 0}


def float_twin(folder, pipeline):
    """The same pipeline with the dequantized weights as float."""
    twin = intaglio.load_pipeline(folder)
    with torch.no_grad():
        for name, layer in find_layers(pipeline.unet):
            if isinstance(layer, QuantizedLayer):
                twin.unet.get_submodule(name).weight.copy_(layer.dequantized())
    return twin


def check_trains(folder, pipeline, batch_size=2, **options):
    """It draws what the float twin draws; a LoRA beside it learns; nothing of the base moves."""
    quantized = {n: m for n, m in find_layers(pipeline.unet) if isinstance(m, QuantizedLayer)}
    assert quantized
    torch.testing.assert_close(run(pipeline), run(float_twin(folder, pipeline)), rtol=1e-3, atol=1e-4)
    before = {n: m.qdata.clone() for n, m in quantized.items()}
    adapter = intaglio.attach(pipeline.unet, intaglio.QLora(rank=2), compute="float", **options)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    sample, text = torch.randn(batch_size, 4, 8, 8), torch.randn(batch_size, 7, 24)
    losses = []
    for _ in range(4):
        loss = pipeline.unet(sample, torch.tensor([3, 700]), text).sample.square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert all(torch.equal(m.qdata, before[n]) for n, m in quantized.items())
    return adapter


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_1"])
def test_an_adapter_trains_over_gguf(kind, folder, tmp_path):
    unet = intaglio.load_pipeline(folder).unet
    chosen = {f"{name}.weight" for name in linears(unet)}
    tensors = {n: (t.numpy(), kind if n in chosen else None) for n, t in unet.state_dict().items()}
    path = write_gguf(tmp_path / "unet.gguf", tensors)
    with pytest.raises(UserError, match="--single_file_config"):
        intaglio.load_pipeline(path)
    pipeline = intaglio.load_pipeline(path, single_file_config=str(folder))
    adapter = check_trains(folder, pipeline)
    adapter.save(tmp_path / "a")
    again = intaglio.load_pipeline(path, single_file_config=str(folder))
    intaglio.load_adapter(again.unet, tmp_path / "a", compute="float")
    torch.testing.assert_close(run(again), run(pipeline))


def test_an_adapter_trains_over_bitsandbytes(folder, tmp_path):
    """A folder as diffusers saves it: NF4 with nested scales."""
    library = pytest.importorskip("bitsandbytes").functional
    shutil.copytree(folder, tmp_path / "q")
    file = tmp_path / "q" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    for name in linears(intaglio.load_pipeline(folder).unet):
        weight = tensors[f"{name}.weight"]
        if weight.shape[1] % 64 == 0:
            packed, state = library.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
            tensors[f"{name}.weight"] = packed
            tensors |= {f"{name}.weight.{key}": value for key, value in state.as_dict(packed=True).items()}
    save_file(tensors, file, {"format": "pt"})
    config = json.loads((tmp_path / "q" / "unet" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    (tmp_path / "q" / "unet" / "config.json").write_text(json.dumps(config))
    check_trains(folder, intaglio.load_pipeline(tmp_path / "q"))


@pytest.mark.parametrize("rotated", [False, True])
def test_an_adapter_trains_over_comfyui(rotated, folder, tmp_path):
    tensors = intaglio.load_pipeline(folder).unet.state_dict()
    for name in linears(intaglio.load_pipeline(folder).unet):
        weight = tensors[f"{name}.weight"]
        if weight.shape[1] % 64:
            continue
        config = {"format": "int8_tensorwise"}
        if rotated:
            values, scale = convrot(weight, 64)
            config |= {"convrot": True, "convrot_groupsize": 64}
        else:
            scale = weight.abs().amax(1, keepdim=True) / 127
            values = (weight / scale).round().to(torch.int8)
        tensors |= {f"{name}.weight": values, f"{name}.weight_scale": scale, f"{name}.comfy_quant": mark(**config)}
    path = tmp_path / "unet.safetensors"
    save_file({f"model.diffusion_model.{name}": t for name, t in tensors.items()}, path)
    check_trains(folder, intaglio.load_pipeline(path, single_file_config=str(folder)))


def test_released_names_are_converted(tmp_path):
    """Z-Image as ComfyUI has it: q, k and v are rows of one INT8 weight, and come apart without another rounding."""
    pipeline = make_pipeline("z-image")
    pipeline.save_pretrained(tmp_path / "z")
    model = pipeline.transformer
    state, tensors = model.state_dict(), {}
    renamed = {".attention.to_out.0.": ".attention.out.", ".norm_q.": ".q_norm.", ".norm_k.": ".k_norm."}
    renamed |= {"all_final_layer.2-1.": "final_layer.", "all_x_embedder.2-1.": "x_embedder."}
    for name, tensor in state.items():
        for ours, native in renamed.items():
            name = name.replace(ours, native)
        if ".attention.to_q." in name:
            parts = [state[name.replace("to_q", f"to_{p}")] for p in "qkv"]
            tensors[name.replace("to_q", "qkv")] = torch.cat(parts)
        elif ".attention.to_" not in name:
            tensors[name] = tensor
    for name in [n for n in tensors if n.endswith(("attention.qkv.weight", "feed_forward.w1.weight"))]:
        layer, weight = name.removesuffix(".weight"), tensors[name]
        scale = weight.abs().amax(1, keepdim=True) / 127
        tensors[name] = (weight / scale).round().to(torch.int8)
        tensors |= {f"{layer}.weight_scale": scale, f"{layer}.comfy_quant": mark(format="int8_tensorwise")}
    save_file({f"model.diffusion_model.{n}": t.contiguous() for n, t in tensors.items()}, tmp_path / "z.safetensors")
    loaded = intaglio.load_pipeline(tmp_path / "z.safetensors", single_file_config=str(tmp_path / "z")).transformer
    names = [n for n, m in loaded.named_modules() if isinstance(m, QuantizedLayer)]
    assert any(n.endswith("attention.to_v") for n in names)
    for name in names:
        weight = model.get_submodule(name).weight
        half_step = weight.abs().amax(1, keepdim=True) / 254 * 1.001
        assert ((loaded.get_submodule(name).dequantized() - weight).abs() <= half_step).all(), name


def test_rotated_inputs_in_integers():
    """The integer road takes the INT8 values as they are, and rotates its input: near the float road, both ways."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 128, generator=generator)
    values, scale = convrot(weight, 64)
    quantized = QuantizedWeight(values, scale, None, parse_format("int8_rot64"), (48, 128))
    from intaglio.layers.frozen import with_weight

    input_scale = torch.rand(128, generator=generator)
    layers = [with_weight(torch.nn.Linear(128, 48), quantized, input_scale) for _ in range(2)]
    layers[1].bias = layers[0].bias
    layers[1].compute = "integer"
    results = []
    for layer in layers:
        x = torch.randn(5, 128, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y = layer(x)
        y.backward(torch.randn(5, 48, generator=torch.Generator().manual_seed(2)))
        results.append((y.detach(), x.grad))
    for of_float, of_integers in zip(*results, strict=True):
        assert (of_integers - of_float).norm() < 0.02 * of_float.norm()
        assert not torch.equal(of_integers, of_float)


def test_formats_of_other_programs_are_not_quantized_to():
    for name in ("int4_g32_min", "int8_rot256"):
        with pytest.raises(UserError, match="not quantized to"):
            intaglio.attach(tiny_unet(), intaglio.QLora(rank=1), base=name)
    with pytest.raises(UserError, match="power of 4"):
        parse_format("int8_rot32")


def test_weights_of_another_model_are_refused_with_all_that_is_wrong(folder, tmp_path):
    unet = make_pipeline("sd").unet
    path = write_gguf(tmp_path / "x.gguf", {n: (t.numpy(), None) for n, t in unet.state_dict().items()})
    with pytest.raises(Problems, match="not those of this UNet2DConditionModel"):
        intaglio.load_pipeline(path, single_file_config=str(folder))


class Toy:
    """A source from outside the package."""

    name, summary = "toy", "nobody"

    def claims(self, path, config):
        return config is not None and config.get("quant_method") == "toy"

    def weights(self, path, config):
        yield from sources.weight_sources()["float"].weights(path, None)


def test_a_source_from_outside(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_registered", {})
    shutil.copytree(folder, tmp_path / "toy")
    config = json.loads((tmp_path / "toy" / "unet" / "config.json").read_text())
    (tmp_path / "toy" / "unet" / "config.json").write_text(
        json.dumps({**config, "quantization_config": {"quant_method": "toy"}})
    )
    with pytest.raises(UserError, match="quantized by 'toy'"):
        intaglio.load_pipeline(tmp_path / "toy")
    sources.register(Toy())
    torch.testing.assert_close(run(intaglio.load_pipeline(tmp_path / "toy")), run(intaglio.load_pipeline(folder)))
    with pytest.raises(TypeError, match="no weight source"):
        sources.register(object())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """(source, name of the file, its bytes, config) of each kind."""
    root = tmp_path_factory.mktemp("samples")
    weight = torch.randn(8, 256, generator=torch.Generator().manual_seed(0))
    tensors = {
        "a.weight": (weight.numpy(), "Q8_0"),
        "b.weight": (weight.numpy(), "Q4_0"),
        "b.bias": (weight[0].numpy(), None),
    }
    found = [(gguf.SOURCE, write_gguf(root / "x.gguf", tensors), None)]
    values, scale = convrot(weight)
    rotated = mark(format="int8_tensorwise", convrot=True, convrot_groupsize=256)
    save_file({"a.weight": values, "a.weight_scale": scale, "a.comfy_quant": rotated}, root / "c.safetensors")
    found.append((comfyui.SOURCE, root / "c.safetensors", None))
    library = pytest.importorskip("bitsandbytes").functional
    packed, state = library.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
    parts = {f"a.weight.{key}": value for key, value in state.as_dict(packed=True).items()}
    save_file({"a.weight": packed, **parts}, root / "b.safetensors")
    found.append((bitsandbytes.SOURCE, root / "b.safetensors", {"quant_method": "bitsandbytes"}))
    return [(source, path.name, path.read_bytes(), config) for source, path, config in found]


def check_message(said):
    assert "\n" not in said
    assert len(said) < 1000


def check_mutation(seed, samples, folder):
    source, name, data, config = samples[seed % len(samples)]
    path = write(folder / name, mutate(data, seed))
    try:
        found = list(source.weights(path, config))
    except UserError as error:
        check_message(str(error))
        return
    for _, value in found:
        if isinstance(value, QuantizedWeight):
            assert dequantize(value).shape == value.shape


@pytest.mark.parametrize("seed", range(45))
def test_a_few_mutations(seed, samples, tmp_path):
    check_mutation(seed, samples, tmp_path)


@pytest.mark.slow
def test_two_thousand_mutations_of_each_source(samples, tmp_path):
    for seed in range(2000 * len(samples)):
        check_mutation(seed, samples, tmp_path)
