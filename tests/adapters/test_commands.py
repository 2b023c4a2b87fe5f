"""`export`, `import` and `inspect`: through the command line, as users meet them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open

import intaglio
from intaglio.checkpoints.quantize import quantize_pipeline
from intaglio.cli import group
from intaglio.errors import UserError
from tiny_pipelines import make_pipeline, run


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A float pipeline and its int4 twin."""
    root = tmp_path_factory.mktemp("models")
    make_pipeline("sd").save_pretrained(root / "float")
    quantize_pipeline(root / "float", root / "int4", format="int4", range_search="absmax")
    return root


def call(*words):
    result = CliRunner().invoke(group, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stderr + result.stdout


def trained(model, **options):
    adapter = intaglio.attach(model, intaglio.QLora(rank=3, alpha=5.0), compute="float", **options)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return adapter


@pytest.mark.parametrize("name", ["diffusers", "peft", "kohya", "comfyui"])
def test_out_and_in_again_draws_the_same(folders, name, tmp_path):
    pipeline = intaglio.load_pipeline(folders / "int4")
    trained(pipeline.unet).save(tmp_path / "dog")
    (tmp_path / "dog" / "summary.json").write_text(json.dumps({"instance_prompt": "a photo of sks dog"}))
    out = tmp_path / "peft" if name == "peft" else tmp_path / "dog.safetensors"
    told = call("export", tmp_path / "dog", "--to", name, "--out", out)
    assert "a photo of sks dog" in told
    # As a stranger's file: without our header.
    file = out / "adapter_model.safetensors" if name == "peft" else out
    strip(file)
    told = call("import", out, "--base", folders / "int4", "--out", tmp_path / "back")
    assert "intaglio generate" in told
    other = intaglio.load_pipeline(folders / "int4")
    loaded = intaglio.load_adapter(other.unet, tmp_path / "back", compute="float")
    assert loaded.method.name == "qlora"
    assert loaded.header().base_hash is not None
    torch.testing.assert_close(run(other), run(pipeline), rtol=1e-4, atol=1e-5)
    assert "rank" in call("inspect", tmp_path / "back")


def strip(path):
    from safetensors.torch import load_file, save_file

    with safe_open(path, "pt") as file:
        metadata = {k: v for k, v in file.metadata().items() if k != "intaglio"}
    save_file(load_file(path), path, metadata)


def test_a_lora_for_another_model_is_refused_with_all_that_is_wrong(folders, tmp_path):
    wide = make_pipeline("sdxl").unet
    intaglio.attach(wide, intaglio.Lora(rank=2)).save(tmp_path / "xl")
    with pytest.raises(UserError, match="is for another model"):
        call("import", tmp_path / "xl", "--base", folders / "float", "--out", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_nothing_is_overwritten_without_a_word(folders, tmp_path):
    intaglio.attach(make_pipeline("sd").unet, intaglio.Lora(rank=2)).save(tmp_path / "a")
    call("export", tmp_path / "a", "--to", "kohya", "--out", tmp_path / "k.safetensors")
    with pytest.raises(UserError, match="is there already"):
        call("export", tmp_path / "a", "--to", "comfyui", "--out", tmp_path / "k.safetensors")
    call("export", tmp_path / "a", "--to", "comfyui", "--out", tmp_path / "k.safetensors", "--overwrite")


def test_inspect_says_what_it_is(folders, tmp_path):
    assert "int4" in call("inspect", folders / "int4")
    told = call("inspect", folders / "float")
    assert "UNet2DConditionModel" in told
    assert "intaglio quantize" in told
    adapter = intaglio.attach(make_pipeline("sd").unet, intaglio.TuneQDM(num_intervals=2), base="int8")
    adapter.save(tmp_path / "scales")
    told = call("inspect", tmp_path / "scales")
    assert "tuneqdm" in told
    assert (adapter.base_hash or "?")[:16] in told
    single = tmp_path / "model.safetensors"
    from safetensors.torch import save_file

    names = ("model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.time_embed.0.weight")
    save_file({name: torch.zeros(2, 2, dtype=torch.float16) for name in names}, single)
    assert "Stable Diffusion 1 or 2" in call("inspect", single)


@pytest.mark.parametrize("name", ["x.ckpt", "x.safetensors", "x.gguf", "empty"])
def test_inspect_refuses_rubbish_in_one_line(name, tmp_path):
    path = tmp_path / name
    path.mkdir() if name == "empty" else path.write_bytes(b"GGUF" + bytes(range(200)))
    with pytest.raises(UserError) as caught:
        call("inspect", path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_strangers_words_are_data(tmp_path):
    """In the terminal's markup, in a command line, across lines."""
    adapter = intaglio.attach(make_pipeline("sd").unet, intaglio.QLora(rank=2), base="int8")
    adapter.save(tmp_path / "a")
    evil = "[bold red]x[/] $(rm -rf ~) `id` '; ls\n---\nlicense: mit\n<script>"
    call("export", tmp_path / "a", "--to", "kohya", "--out", tmp_path / "k.safetensors", "--trigger", evil)
    told = call("inspect", tmp_path / "k.safetensors")
    assert "[bold red]x[/]" in told.replace("\n", "")
    with safe_open(tmp_path / "k.safetensors", "pt") as file:
        assert "\n" not in file.metadata()["modelspec.trigger_phrase"]
    import shlex

    line = next(line for line in told.splitlines() if line.strip().startswith("intaglio generate"))
    words = shlex.split(line)
    assert words[:2] == ["intaglio", "generate"]
    assert words[-1] == evil.replace("\n", " ")


def test_inspect_needs_no_torch(folders, tmp_path):
    intaglio.attach(make_pipeline("sd").unet, intaglio.Lora(rank=2)).save(tmp_path / "a", format="kohya")
    code = "import sys; from intaglio.cli.inspect import describe; from pathlib import Path\n"
    code += "for p in sys.argv[1:]: describe(Path(p))\nassert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", code, tmp_path / "a", folders / "int4"], check=True)
