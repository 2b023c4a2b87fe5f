"""Loading, and refusing before anything is loaded."""

import json
import shutil

import pytest
import torch

from fresh_interpreter import modules_after
from intaglio.checkpoints import inspect as inspection
from intaglio.checkpoints.inspect import inspect_model
from intaglio.checkpoints.load import denoiser_of, load_pipeline
from intaglio.errors import UserError, WrongBase
from intaglio.layers.quantize_model import base_format, base_hash
from tiny_pipelines import make_pipeline, realign, run


def test_float_quantized_and_quantized_on_the_way(float_folders, int4_folder):
    assert base_format(load_pipeline(float_folders["sd"]).unet) is None
    folder = load_pipeline(int4_folder)
    options = {"quantize_to": "int4", "range_search": "absmax", "torch_dtype": torch.bfloat16}
    on_the_way = load_pipeline(float_folders["sd"], **options)
    assert base_hash(folder.unet) == base_hash(on_the_way.unet)
    assert on_the_way.text_encoder.dtype == on_the_way.unet.dtype == torch.bfloat16
    assert base_hash(load_pipeline(int4_folder, quantize_to="int4").unet) == base_hash(folder.unet)
    with pytest.raises(UserError, match="is quantized to int4 already, not nf4; leave the format out"):
        load_pipeline(int4_folder, quantize_to="nf4")


def test_denoiser_of(float_folders):
    assert denoiser_of(load_pipeline(float_folders["sdxl"]))[0] == "unet"
    assert denoiser_of(load_pipeline(float_folders["flux"]))[0] == "transformer"
    with pytest.raises(UserError, match="object has no unet and no transformer"):
        denoiser_of(object())


def test_inspection(float_folders, int4_folder):
    info = inspect_model(float_folders["sd3"])
    assert (info.pipeline_class, info.denoiser, info.denoiser_class, info.format, info.base_hash) == (
        "StableDiffusion3Pipeline",
        "transformer",
        "SD3Transformer2DModel",
        None,
        None,
    )
    quantized = inspect_model(str(int4_folder))
    assert (quantized.folder, quantized.denoiser, quantized.format) == (int4_folder, "unet", "int4")
    info.check_adapter("out/cat", "0123456789abcdef" * 4)
    quantized.check_adapter("out/cat", quantized.base_hash)
    with pytest.raises(WrongBase, match="out/cat was trained on the base 0123456789abcdef, but this model is"):
        quantized.check_adapter("out/cat", "0123456789abcdef" * 4)
    with pytest.raises(WrongBase, match="of float weights"):
        quantized.check_adapter("out/cat", None)


def test_the_embedded_base_goes_by_its_name(float_folders, monkeypatch, tmp_path):
    monkeypatch.setattr(inspection, "files", lambda package: tmp_path)
    with pytest.raises(UserError, match="has no embedded base model; install the package again"):
        inspect_model("embedded")
    shutil.copytree(float_folders["sd"], tmp_path / "assets" / "base")
    assert inspect_model("embedded").folder == tmp_path / "assets" / "base"
    assert torch.equal(run(realign(load_pipeline("embedded"))), run(make_pipeline("sd")))


@pytest.fixture
def folder(float_folders, tmp_path):
    """A copy of the float Stable Diffusion folder, to be broken."""
    shutil.copytree(float_folders["sd"], tmp_path / "model")
    return tmp_path / "model"


def rewrite(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


BREAKAGES = {
    "no index": (
        lambda f: (f / "model_index.json").unlink(),
        "no model_index.json in it; expected the folder of a diffusers pipeline",
    ),
    "bad json": (lambda f: (f / "unet" / "config.json").write_text("{"), "config.json: not valid JSON"),
    "no denoiser": (
        lambda f: rewrite(f / "model_index.json", lambda index: index.pop("unet")),
        "a StableDiffusionPipeline with .*vae.*; expected a pipeline with a unet or a transformer",
    ),
    "another quantizer": (
        lambda f: rewrite(f / "unet" / "config.json", lambda c: c.update(quantization_config={"quant_method": "awq"})),
        "awq",
    ),
    "no weights": (lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").unlink(), "unet: no weights in it"),
    "cut short": (
        lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(
            (f / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()[:-1]
        ),
        r"bytes, but its header says \d+; was the copy complete\?",
    ),
    "not safetensors": (
        lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").write_text("version https://git-lfs"),
        "not a readable safetensors file",
    ),
    "empty file": (
        lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b""),
        "not a readable safetensors file",
    ),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_broken_folders(name, folder):
    change, message = BREAKAGES[name]
    change(folder)
    with pytest.raises(UserError, match=message):
        inspect_model(folder)


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "a/b/c", "nowhere", "x/y.safetensors", "x/"])
def test_missing_folders(source):
    with pytest.raises(UserError, match="no such file or folder; expected a diffusers pipeline"):
        inspect_model(source)


def test_hub_id_that_is_not_in_the_cache(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="nobody/nothing: no such folder here, and the Hub cannot be asked"):
        inspect_model("nobody/nothing")


def test_hub_id_from_the_cache(float_folders, int4_folder, monkeypatch, tmp_path):
    """The cache's layout: refs/main names a commit, snapshots/<commit> is the folder."""
    repo = tmp_path / "models--me--tiny"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    shutil.copytree(int4_folder, repo / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    info = inspect_model("me/tiny")
    assert (info.folder, info.format) == (None, "int4")


def test_single_file_that_is_none(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"x")
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(UserError, match=r"a pickle can run any code .* expected \.safetensors"):
        inspect_model(tmp_path / "model.ckpt")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        load_pipeline(tmp_path / "model.safetensors")


def test_inspection_imports_no_torch(int4_folder):
    loaded = modules_after(
        "from intaglio.checkpoints.inspect import inspect_model\n"
        f"assert inspect_model({str(int4_folder)!r}).format == 'int4'"
    )
    assert "intaglio.checkpoints.inspect" in loaded
    assert not {"torch", "diffusers", "numpy"} & loaded
