"""From a float pipeline to a quantized folder."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

import intaglio
from intaglio.checkpoints.components import copy_folder
from intaglio.checkpoints.diffusers_quantizer import skeleton
from intaglio.checkpoints.inspect import inspect_model
from intaglio.checkpoints.load import denoiser_of, load_pipeline
from intaglio.checkpoints.quantize import quantize_pipeline, save_quantized
from intaglio.errors import UserError
from intaglio.families.sd import FAMILY
from intaglio.layers.names import replace
from intaglio.layers.quantize_model import base_hash, layers_to_quantize
from intaglio.quantizers.formats import parse_format
from intaglio.runtime.memory import return_memory
from tiny_pipelines import make_pipeline, run


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
def test_folder_is_complete(family, float_folders, tmp_path):
    report = quantize_pipeline(float_folders[family], tmp_path / "q", format="int8", range_search="absmax")
    info = inspect_model(tmp_path / "q")
    assert (info.format, info.base_hash) == ("int8", report.base_hash)
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "q")
    name, denoiser = denoiser_of(loaded)
    assert base_hash(denoiser) == report.base_hash
    assert torch.isfinite(run(loaded)).all()
    for source in float_folders[family].rglob("*"):
        copy = tmp_path / "q" / source.relative_to(float_folders[family])
        if source.is_file() and name not in source.parts:
            assert copy.read_bytes() == source.read_bytes(), copy
    assert not list(tmp_path.glob(".*")), "the temporary folder stays behind"


def test_report_adds_up(int4_folder, float_folders, tmp_path):
    report = quantize_pipeline(float_folders["sd"], tmp_path / "q", range_search="absmax")
    layers = load_file(tmp_path / "q" / "unet" / "diffusion_pytorch_model.safetensors")
    codes = sum(t.nbytes for n, t in layers.items() if n.endswith(".qdata"))
    scales = sum(t.nbytes for n, t in layers.items() if n.endswith(".scale"))
    assert report.num_layers == sum(n.endswith(".qdata") for n in layers) == 79
    assert report.quantized_bytes == codes + scales
    assert report.float32_bytes == 8 * codes  # no row is odd
    assert report.denoiser_bytes == (tmp_path / "q" / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert report.ratio == report.denoiser_bytes / report.float32_bytes
    assert report.base_hash == inspect_model(int4_folder).base_hash, "the same model gives the same integers"


@pytest.mark.parametrize(
    ("format", "limit"),
    [("int4", 0.16), ("int4_asym", 0.16), ("int4_g64", 0.16), ("nf4", 0.16), ("int8", 0.29), ("int8_asym", 0.29)],
)
def test_size_of_stable_diffusion_15(format, limit):
    """The arithmetic, on the shapes alone: K weights take `bits K / 8` bytes, and 4 a scale."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
    names = layers_to_quantize(unet, FAMILY.keep_float)
    float32_bytes = sum(unet.get_submodule(name).weight.nbytes for name in names)
    assert float32_bytes > 0.99 * sum(p.nbytes for p in unet.parameters())
    for name in names:
        replace(unet, name, skeleton(unet.get_submodule(name), parse_format(format), has_input_scale=False))
    assert sum(tensor.nbytes for tensor in unet.state_dict().values()) < limit * float32_bytes


def test_float_layers_keep_the_dtype_of_the_checkpoint(tmp_path):
    make_pipeline("sd").to(torch.float16).save_pretrained(tmp_path / "half")
    quantize_pipeline(tmp_path / "half", tmp_path / "q", range_search="absmax")
    tensors = load_file(tmp_path / "q" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {t.dtype for n, t in tensors.items() if not n.endswith((".qdata", ".scale"))} == {torch.float16}
    assert {t.dtype for n, t in tensors.items() if n.endswith(".scale")} == {torch.float32}
    vae = load_file(tmp_path / "q" / "vae" / "diffusion_pytorch_model.safetensors")
    assert {t.dtype for t in vae.values()} == {torch.float16}


def test_variant_is_taken_and_its_name_left_out(tmp_path):
    make_pipeline("sd").to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    quantize_pipeline(tmp_path / "half", tmp_path / "q", range_search="absmax", variant="fp16")
    assert not list((tmp_path / "q").rglob("*fp16*"))
    assert torch.isfinite(run(load_pipeline(tmp_path / "q"))).all()


def test_pickled_components_become_safetensors(tmp_path):
    """Sharded, with an index, and two names for one tensor, as in tied embeddings."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    weight = torch.arange(6.0).view(2, 3)
    torch.save({"a": weight, "tied": weight}, source / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": weight.T}, source / "pytorch_model-00002-of-00002.bin")
    index = {"metadata": {}, "weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}
    (source / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (source / "config.json").write_text("{}")
    copy_folder(source, target, None)
    names = {"config.json", "model.safetensors.index.json"} | {f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    assert {file.name for file in target.iterdir()} == names
    assert torch.equal(load_file(target / "model-00002-of-00002.safetensors")["b"], weight.T)
    assert torch.equal(load_file(target / "model-00001-of-00002.safetensors")["tied"], weight)
    written = json.loads((target / "model.safetensors.index.json").read_text())
    assert written["weight_map"] == {"a": "model-00001-of-00002.safetensors"}


def test_safetensors_go_before_pickles_and_other_frameworks(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    save_file({"a": torch.ones(2)}, source / "diffusion_pytorch_model.safetensors")
    save_file({"a": torch.zeros(2)}, source / "diffusion_pytorch_model.fp16.safetensors")
    (source / "diffusion_pytorch_model.bin").write_bytes(b"not read")
    (source / "flax_model.msgpack").write_bytes(b"not read")
    copy_folder(source, tmp_path / "target", None)
    assert [file.name for file in (tmp_path / "target").iterdir()] == ["diffusion_pytorch_model.safetensors"]
    assert load_file(tmp_path / "target" / "diffusion_pytorch_model.safetensors")["a"].sum() == 2


def test_targets_that_are_in_the_way(float_folders, int4_folder, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    model = float_folders["sd"]
    with pytest.raises(UserError, match="is not empty; name a new folder, or pass overwrite"):
        quantize_pipeline(model, tmp_path / "full")
    with pytest.raises(UserError, match="a file is in the way"):
        quantize_pipeline(model, tmp_path / "file")
    with pytest.raises(UserError, match="is the model itself"):
        quantize_pipeline(model, model, overwrite=True)
    with pytest.raises(UserError, match="is quantized to int4 already; start from the float model"):
        quantize_pipeline(int4_folder, tmp_path / "q")
    with pytest.raises(UserError, match="unknown format 'int3'"):
        quantize_pipeline(model, tmp_path / "q", format="int3")
    assert not (tmp_path / "q").exists()


def test_what_was_there_goes_only_when_the_new_folder_is_complete(float_folders, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(float_folders["sd"], broken)
    file = broken / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    next(t for n, t in tensors.items() if n.endswith("conv1.weight"))[0] = float("inf")
    save_file(tensors, file, {"format": "pt"})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.txt").write_text("old")
    with pytest.raises(UserError, match="not finite"):
        quantize_pipeline(broken, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "old.txt").read_text() == "old"
    quantize_pipeline(float_folders["sd"], tmp_path / "out", range_search="absmax", overwrite=True)
    assert not (tmp_path / "out" / "old.txt").exists()


def test_a_float_pipeline_is_not_saved_as_quantized(tmp_path):
    with pytest.raises(UserError, match="this UNet2DConditionModel is not quantized; use quantize_pipeline"):
        save_quantized(make_pipeline("sd"), tmp_path / "q")


M_MMAP_THRESHOLD = -3


def resident_bytes(kind):
    """RssAnon (allocated) or VmRSS (with mapped files) of this process."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{kind}:"))


MEASURE = """
import ctypes, sys
import torch
from diffusers import UNet2DConditionModel
from intaglio.runtime.memory import return_memory
from intaglio.checkpoints.quantization_config import IntaglioConfig
from tiny_pipelines import tiny_unet


class Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Mallinfo2


def allocated():  # the allocator's own count: resident bytes differ by 20 MB from run to run
    info = libc.mallinfo2()
    return info.uordblks + info.hblkhd


torch.manual_seed(0)
unet = tiny_unet(256, block_out_channels=(128, 256), norm_num_groups=32, layers_per_block=2)
float32_bytes = sum(p.nbytes for p in unet.parameters())
largest = max(p.nbytes for p in unet.parameters())
unet.save_pretrained(sys.argv[1])
del unet
return_memory()
libc.mallopt(int(sys.argv[2]), 2**17)  # else it keeps or takes blocks as it likes
config, seen = IntaglioConfig(format="int4", range_search="absmax"), []
config.progress = lambda done, total: seen.append(allocated())
before = allocated()
loaded = UNet2DConditionModel.from_pretrained(sys.argv[1], quantization_config=config)
kept = sum(p.nbytes for p in loaded.parameters()) + sum(b.nbytes for b in loaded.buffers())
print(float32_bytes, largest, kept, max(seen) - before, allocated() - before)
"""


def test_peak_memory_while_quantizing(tmp_path):
    """Allocated memory grows by the integers, the blocks of one range search, and what stays float.

    In a process of its own: what other tests freed would be reused, or not.
    """
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), str(M_MMAP_THRESHOLD)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    float32_bytes, largest, kept, peak, after = map(int, done.stdout.split())
    slack = 2 * 2**20  # Python's objects
    assert peak < kept + largest + slack < float32_bytes / 2
    assert after < kept + slack


@pytest.mark.slow
def test_stable_diffusion_15_in_under_a_minute(capsys):
    """The U-Net of Stable Diffusion 1.5, random weights: `attach` quantizes it and gives the memory back."""
    return_memory()
    before = resident_bytes("VmRSS")
    unet = UNet2DConditionModel(cross_attention_dim=768).eval()
    parameters = sum(p.numel() for p in unet.parameters())
    assert round(parameters / 1e6, 1) == 859.5
    with_float = resident_bytes("VmRSS") - before
    started = time.process_time()  # one thread: what a quiet machine takes
    adapter = intaglio.attach(unet, intaglio.TuneQDM(base="int4", num_intervals=4))
    seconds = time.process_time() - started
    after = resident_bytes("VmRSS") - before
    held = sum(t.nbytes for t in (*unet.parameters(), *unet.buffers()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with capsys.disabled():
        print(
            f"\n{seconds:.1f} s, float {with_float / 2**20:.0f} MiB, after {after / 2**20:.0f} MiB, tensors "
            f"{held / 2**20:.0f} MiB, peak {peak / 2**20:.0f} MiB, {adapter.num_parameters} trained"
        )
    assert seconds < 60
    assert after < held + 64 * 2**20
