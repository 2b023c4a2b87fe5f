"""LoRA files of other programs on a quantized pipeline, through PEFT."""

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from intaglio.checkpoints.quantize import save_quantized
from intaglio.errors import CannotMerge
from tiny_pipelines import make_pipeline, run


@pytest.fixture(scope="module")
def lora_folder(tmp_path_factory):
    """A random pair for each projection of attention, and for convolutions."""
    folder = tmp_path_factory.mktemp("lora")
    unet = make_pipeline("sd").unet
    torch.manual_seed(1)
    unet.add_adapter(
        LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_out.0", "conv1"], init_lora_weights=False)
    )
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(unet))
    return folder


def test_load_switch_off_and_unload(int4_folder, lora_folder):
    pipeline = DiffusionPipeline.from_pretrained(int4_folder)
    base = run(pipeline)
    pipeline.load_lora_weights(lora_folder)
    adapted = run(pipeline)
    assert (adapted - base).abs().max() > 0.1
    pipeline.unet.disable_lora()
    assert torch.equal(run(pipeline), base)
    pipeline.unload_lora_weights()
    assert torch.equal(run(pipeline), base)

    # The same as on the float model of the same weights
    pipeline.unet.dequantize()
    pipeline.load_lora_weights(lora_folder)
    torch.testing.assert_close(run(pipeline), adapted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("safe", [False, True])
def test_fusing_is_refused_instead_of_losing_the_adapter(safe, int4_folder, lora_folder, tmp_path):
    pipeline = DiffusionPipeline.from_pretrained(int4_folder)
    pipeline.load_lora_weights(lora_folder)
    adapted = run(pipeline)
    with pytest.raises(CannotMerge, match="this weight is quantized, and an update cannot be folded into its codes"):
        pipeline.fuse_lora(safe_fusing=safe)
    assert torch.equal(run(pipeline), adapted)
    with pytest.raises(Exception, match="has an adapter on it"):
        save_quantized(pipeline, tmp_path / "q")
