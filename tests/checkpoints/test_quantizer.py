"""Quantized folders and float checkpoints through diffusers' own `from_pretrained`."""

import copy
import json
import shutil
from functools import cache

import pytest
import torch
from diffusers import DiffusionPipeline, PipelineQuantizationConfig, UNet2DConditionModel
from safetensors.torch import load_file, save_file

import intaglio
from intaglio.checkpoints.load import denoiser_of, dtype_argument
from intaglio.checkpoints.quantization_config import IntaglioConfig
from intaglio.checkpoints.quantize import save_quantized
from intaglio.errors import Problems, UserError
from intaglio.families.registry import denoisers_of
from intaglio.layers.frozen import QuantizedLayer
from intaglio.layers.quantize_model import BaseRecord, base_format, base_hash, base_record, quantize_model
from tiny_pipelines import make_pipeline, realign, run

DTYPE = next(iter(dtype_argument(torch.float32)))  # diffusers renamed it

CASES = [
    ("sd", "int4", "mse"),
    ("sd", "int8_asym", "percentile"),
    ("sdxl", "nf4", "absmax"),
    ("sd3", "int4_g64_asym", "mse"),
    ("flux", "int8", "absmax"),
]


@cache
def in_memory(family, format, search="absmax"):
    """The definition that everything else must equal: load float, quantize. Not to be changed."""
    pipeline = make_pipeline(family)
    quantize_model(
        denoiser_of(pipeline)[1], BaseRecord(format, search, denoisers_of(denoiser_of(pipeline)[1]).keep_float)
    )
    return pipeline


def quantized_tensors(model):
    return {
        f"{name}.{part}": tensor
        for name, layer in model.named_modules()
        if isinstance(layer, QuantizedLayer)
        for part, tensor in layer.named_buffers()
    }


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, name
        assert torch.equal(actual[name], tensor), name


@pytest.mark.parametrize(("family", "format", "search"), CASES)
def test_saved_and_loaded_by_diffusers_alone(family, format, search, tmp_path):
    expected = in_memory(family, format, search)
    save_quantized(expected, tmp_path / "q")
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "q")
    name, denoiser = denoiser_of(loaded)
    assert_same(denoiser.state_dict(), denoiser_of(expected)[1].state_dict())
    assert base_record(denoiser) == BaseRecord(format, search, denoisers_of(denoiser).keep_float)
    assert torch.equal(run(realign(loaded)), run(expected))
    config = json.loads((tmp_path / "q" / name / "config.json").read_text())["quantization_config"]
    assert config == {
        "quant_method": "intaglio",
        "format": format,
        "range_search": search,
        "keep_float": list(denoisers_of(denoiser).keep_float),
        "base_hash": base_hash(denoiser),
    }


@pytest.mark.parametrize(("family", "format"), [("sd", "int4"), ("flux", "int4_g64")])
def test_float_checkpoint_is_quantized_as_it_arrives(family, format, float_folders):
    expected = in_memory(family, format, "mse")
    name, denoiser = denoiser_of(expected)
    mapping = {name: IntaglioConfig(format=format)}
    loaded = DiffusionPipeline.from_pretrained(
        float_folders[family], quantization_config=PipelineQuantizationConfig(quant_mapping=mapping)
    )
    assert_same(denoiser_of(loaded)[1].state_dict(), denoiser.state_dict())
    assert torch.equal(run(realign(loaded)), run(expected))


def test_no_float_copy_of_the_denoiser_is_held(float_folders, monkeypatch):
    """At every weight that arrives, the model holds only integers, what stays float, and nothing yet of the rest."""
    from intaglio.checkpoints.diffusers_quantizer import IntaglioQuantizer

    held = []
    original = IntaglioQuantizer.create_quantized_param

    def watch(self, model, *args, **kwargs):
        original(self, model, *args, **kwargs)
        weights = {f"{name}.weight" for name in self._names}
        parameters = dict(model.named_parameters())
        held.append(sum(p.nbytes for n, p in parameters.items() if n in weights and not p.is_meta))

    monkeypatch.setattr(IntaglioQuantizer, "create_quantized_param", watch)
    config = IntaglioConfig(range_search="absmax")
    counts = []
    config.progress = lambda done, total: counts.append((done, total))
    UNet2DConditionModel.from_pretrained(float_folders["sd"], subfolder="unet", quantization_config=config)
    assert len(held) == 79
    assert set(held) == {0}
    assert counts == [(i, 79) for i in range(1, 80)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("source", ["quantized", "float"])
def test_integers_and_scales_do_not_depend_on_dtype(source, dtype, int4_folder, float_folders):
    folder, options = (int4_folder, {}) if source == "quantized" else (float_folders["sd"], {})
    if source == "float":
        options = {"quantization_config": IntaglioConfig("int4", "absmax")}
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", **{DTYPE: dtype}, **options)
    expected = denoiser_of(in_memory("sd", "int4"))[1]
    assert_same(quantized_tensors(unet), quantized_tensors(expected))
    assert {p.dtype for p in unet.parameters()} == {dtype}
    assert unet.dtype == dtype


def test_casts_reach_the_float_layers_and_no_scale(int4_folder):
    expected = quantized_tensors(denoiser_of(in_memory("sd", "int4"))[1])
    pipeline = DiffusionPipeline.from_pretrained(int4_folder)
    for cast in (
        lambda: pipeline.to(torch.bfloat16),
        lambda: pipeline.unet.to(dtype=torch.float16),
        lambda: pipeline.unet.float(),
        lambda: pipeline.unet.half(),
        lambda: pipeline.to("cpu", torch.bfloat16),
    ):
        cast()
        assert_same(quantized_tensors(pipeline.unet), expected)
    assert {p.dtype for p in pipeline.unet.parameters()} == {torch.bfloat16}
    assert run(pipeline).dtype == torch.bfloat16


def test_attach_trains_a_loaded_base_and_its_merge_is_saved(int4_folder, tmp_path):
    """Merging writes `input_scale`, and other weight scales: the folder must have both, and their new hash."""
    pipeline = DiffusionPipeline.from_pretrained(int4_folder)
    before = base_hash(pipeline.unet)
    adapter = intaglio.attach(pipeline.unet, intaglio.TuneQDM(num_intervals=1))
    with pytest.raises(UserError, match="has an adapter on it"):
        save_quantized(pipeline, tmp_path / "q")
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.uniform_(-0.1, 0.1)
    expected = run(pipeline)
    adapter.merge()
    assert base_hash(pipeline.unet) != before
    save_quantized(pipeline, tmp_path / "q")
    pipeline.save_pretrained(tmp_path / "plain")
    for folder in (tmp_path / "q", tmp_path / "plain"):
        loaded = DiffusionPipeline.from_pretrained(folder)
        assert_same(loaded.unet.state_dict(), pipeline.unet.state_dict())
        assert any(key.endswith(".input_scale") for key in loaded.unet.state_dict())
    torch.testing.assert_close(run(loaded), expected, rtol=1e-4, atol=1e-4)  # the fold rounds once


def test_dequantize_gives_a_float_model_that_saves_as_one(int4_folder, tmp_path):
    pipeline = DiffusionPipeline.from_pretrained(int4_folder)
    expected = run(pipeline)
    pipeline.unet.dequantize()
    assert base_format(pipeline.unet) is None
    assert base_record(pipeline.unet) is None
    # torch picks another float32 convolution for the weight's other layout: sums in another order, through all layers
    torch.testing.assert_close(run(pipeline), expected, rtol=1e-4, atol=5e-5)
    pipeline.save_pretrained(tmp_path / "float")
    assert "quantization_config" not in json.loads((tmp_path / "float" / "unet" / "config.json").read_text())
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "float")  # lies elsewhere: BLAS may round otherwise
    torch.testing.assert_close(run(loaded), expected, rtol=1e-4, atol=1e-4)


def test_a_low_rank_merge_into_float_saves_as_a_float_model(int4_folder, tmp_path):
    pipeline = DiffusionPipeline.from_pretrained(int4_folder)
    adapter = intaglio.attach(pipeline.unet, intaglio.QLora(rank=2))
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.uniform_(-0.1, 0.1)
    expected = run(pipeline)
    adapter.merge(dequantize=True)
    torch.testing.assert_close(run(pipeline), expected, rtol=1e-4, atol=1e-4)
    pipeline.save_pretrained(tmp_path / "float")
    assert "quantization_config" not in json.loads((tmp_path / "float" / "unet" / "config.json").read_text())
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "float")
    torch.testing.assert_close(run(loaded), expected, rtol=1e-4, atol=1e-4)


def test_device_map_and_disk(int4_folder):
    unet = UNet2DConditionModel.from_pretrained(int4_folder, subfolder="unet", device_map={"": "cpu"})
    assert_same(quantized_tensors(unet), quantized_tensors(denoiser_of(in_memory("sd", "int4"))[1]))
    with pytest.raises(UserError, match="on the disk, which would cast their scales"):
        UNet2DConditionModel.from_pretrained(int4_folder, subfolder="unet", device_map={"": "disk"})


def test_shards(int4_folder, tmp_path):
    unet = UNet2DConditionModel.from_pretrained(int4_folder, subfolder="unet")
    unet.save_pretrained(tmp_path, max_shard_size="60KB")
    shards = sorted(tmp_path.glob("*-of-*.safetensors"))
    assert len(shards) > 1
    assert_same(UNet2DConditionModel.from_pretrained(tmp_path).state_dict(), unet.state_dict())
    shards[1].write_bytes(shards[1].read_bytes()[:-100])
    with pytest.raises(UserError, match=r"bytes, but its header says .* was the copy complete\?"):
        UNet2DConditionModel.from_pretrained(tmp_path)


def damaged(int4_folder, tmp_path, change):
    """The quantized U-Net's folder after `change(tensors)`."""
    shutil.copytree(int4_folder / "unet", tmp_path / "unet")
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})
    return tmp_path / "unet"


LAYER = "mid_block.resnets.0.conv1"


def test_missing_and_unexpected_tensors_are_named(int4_folder, tmp_path):
    def change(tensors):
        tensors["stray"] = tensors.pop(f"{LAYER}.scale")

    with pytest.raises(Problems) as caught:
        UNet2DConditionModel.from_pretrained(damaged(int4_folder, tmp_path, change))
    assert caught.value.problems == [f"missing: {LAYER}.scale", "unexpected: stray"]


def test_changed_codes_are_found(int4_folder, tmp_path):
    def change(tensors):
        tensors[f"{LAYER}.qdata"][0, 0] ^= 1

    with pytest.raises(UserError, match="the quantized weights are damaged: their hash is"):
        UNet2DConditionModel.from_pretrained(damaged(int4_folder, tmp_path, change))


def test_wrong_shape_and_dtype(int4_folder, tmp_path):
    def crop(tensors):
        tensors[f"{LAYER}.scale"] = tensors[f"{LAYER}.scale"][1:].clone()

    def cast(tensors):
        tensors[f"{LAYER}.scale"] = tensors[f"{LAYER}.scale"].bfloat16()

    with pytest.raises(UserError, match=rf"{LAYER}.scale: shape \(31, 1\), expected \(32, 1\) by config.json"):
        UNet2DConditionModel.from_pretrained(damaged(int4_folder, tmp_path / "a", crop))
    with pytest.raises(UserError, match=rf"{LAYER}.scale: torch.bfloat16, expected torch.float32"):
        UNet2DConditionModel.from_pretrained(damaged(int4_folder, tmp_path / "b", cast))


def test_config_and_weights_of_different_models(int4_folder, float_folders, tmp_path):
    shutil.copytree(float_folders["sd"] / "unet", tmp_path / "unet")
    shutil.copyfile(int4_folder / "unet" / "config.json", tmp_path / "unet" / "config.json")
    with pytest.raises(UserError, match="it says quantized, but the weights are float"):
        UNet2DConditionModel.from_pretrained(tmp_path / "unet")


def test_weights_that_are_not_finite_are_named(float_folders, tmp_path):
    shutil.copytree(float_folders["sd"] / "unet", tmp_path / "unet")
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors[f"{LAYER}.weight"][0, 0, 0, 0] = float("nan")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(UserError, match=f"{LAYER}: a weight of shape .* not finite"):
        UNet2DConditionModel.from_pretrained(tmp_path / "unet", quantization_config=IntaglioConfig())


def test_config_reports_all_mistakes_at_once():
    with pytest.raises(Problems) as caught:
        IntaglioConfig(format="int3", range_search="best", keep_float="conv_in", bits=3)
    assert len(caught.value.problems) == 4
    assert "unknown key 'bits'" in str(caught.value)
    assert "unknown format 'int3'" in str(caught.value)


def test_config_round_trip():
    config = IntaglioConfig("nf4", "absmax", ("conv_in",), "abc")
    assert IntaglioConfig.from_dict(json.loads(config.to_json_string())) == config
    assert copy.deepcopy(config) == config
    assert repr(config) == "IntaglioConfig(format='nf4', range_search='absmax', keep_float=('conv_in',))"
