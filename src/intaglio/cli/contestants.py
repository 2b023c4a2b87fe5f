"""What `intaglio bench` measures: ways to fine-tune one U-Net with random weights, peers and ours."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from intaglio.cli import peers

if TYPE_CHECKING:
    from torch import Tensor, nn

# Blocks and widths of the U-Net of Stable Diffusion 1.5, which are diffusers' own defaults; and one for a quick look.
MODELS: dict[str, dict[str, Any]] = {
    "sd15": {"cross_attention_dim": 768},
    "small": {"cross_attention_dim": 256, "block_out_channels": (64, 128, 256, 256), "attention_head_dim": 8},
}


@dataclass(frozen=True)
class Contestant:
    """One row of the table."""

    title: str
    prepare: Callable[[nn.Module], list[nn.Parameter]]
    """Changes a float U-Net in place; returns what is trained."""
    dtype: str = "float32"
    checkpointing: bool = False
    package: str | None = None
    """Distribution of a peer that need not be installed: a key of `peers.MODULES`."""

    ours: bool = False

    def missing_package(self) -> str | None:
        """The package that it needs, where that is not installed."""
        try:
            return None if self.package is None or version(self.package) else self.package
        except PackageNotFoundError:
            return self.package


def _attach(unet: nn.Module, method: str, targets: tuple[str, ...] | None, **options: Any) -> list[nn.Parameter]:
    import intaglio
    from intaglio.methods.registry import build_method

    built = build_method(method, options)
    return intaglio.attach(unet, built, targets=targets, range_search="absmax").parameters()


def ours(
    title: str,
    method: str,
    base: str,
    dtype: str = "bfloat16",
    checkpointing: bool = False,
    targets: tuple[str, ...] | None = None,
    **options: Any,
) -> Contestant:
    prepare = partial(_attach, method=method, base=base, targets=targets, **options)
    return Contestant(title, prepare, dtype, checkpointing, ours=True)


BOTH: dict[str, Any] = {"integer_gemms": ("output", "grad_input")}
CONTESTANTS = {
    "bf16": Contestant("diffusers, bfloat16, no adapter", peers.nothing, "bfloat16"),
    "peft": Contestant("diffusers + PEFT LoRA, float32", peers.lora),
    "peft-bf16": Contestant("diffusers + PEFT LoRA, bfloat16", peers.lora, "bfloat16"),
    "peft-bf16-ckpt": Contestant(
        "diffusers + PEFT LoRA, bfloat16, gradient checkpointing", peers.lora, "bfloat16", True
    ),
    "peft-bf16-all": Contestant(
        "diffusers + PEFT LoRA, rank 2 on every layer, bfloat16", peers.lora_everywhere, "bfloat16"
    ),
    "bitsandbytes": Contestant(
        "bitsandbytes NF4 (Linear only) + LoRA, bfloat16", peers.bitsandbytes, "bfloat16", package="bitsandbytes"
    ),
    "quanto": Contestant("optimum-quanto INT8 + LoRA, bfloat16", peers.quanto, "bfloat16", package="optimum-quanto"),
    "torchao": Contestant(
        "torchao INT8 mixed precision (Linear only) + LoRA, bfloat16", peers.torchao, "bfloat16", package="torchao"
    ),
    "official-tuneqdm": Contestant("TuneQDM as its authors compute it, 4 bit, float32", peers.official_tuneqdm),
    "qlora": ours("qlora int4, float products, float32", "qlora", "int4", "float32"),
    "qlora-int-f32": ours("qlora int4, integer products, float32", "qlora", "int4", "float32", **BOTH),
    "qlora-int": ours("qlora int4, integer products, bfloat16", "qlora", "int4", **BOTH),
    "qlora-int-ckpt": ours(
        "qlora int4, integer products, bfloat16, gradient checkpointing", "qlora", "int4", checkpointing=True, **BOTH
    ),
    "qlora-int8": ours("qlora int8, integer products, bfloat16", "qlora", "int8", **BOTH),
    "qlora-nf4": ours("qlora nf4, integer products, bfloat16", "qlora", "nf4", **BOTH),
    "peqa-int": ours("peqa int4, integer products, bfloat16", "peqa", "int4", **BOTH),
    "int8_lora": ours("int8_lora, bfloat16", "int8_lora", "int8"),
    "int8_lora-int4": ours("int8_lora over int4, bfloat16", "int8_lora", "int4"),
    "int8_lora-all": ours(
        "int8_lora over int4, rank 2 on every layer, bfloat16", "int8_lora", "int4", targets=("all",), rank=2
    ),
    "qlora-all": ours(
        "qlora int4, rank 2 on every layer, integer products, bfloat16",
        "qlora",
        "int4",
        targets=("all",),
        rank=2,
        **BOTH,
    ),
    "int8_lora-attention": ours(
        "int8_lora over int4, INT8 attention, bfloat16", "int8_lora", "int4", integer_attention=True
    ),
    "int8_lora-shifts": ours("int8_lora, power-of-two scales, bfloat16", "int8_lora", "int8", scale="power_of_two"),
    "tuneqdm": ours("tuneqdm int4, float products, float32", "tuneqdm", "int4", "float32"),
    "tuneqdm-int": ours("tuneqdm int4, integer products, bfloat16", "tuneqdm", "int4", **BOTH),
}
DEFAULT = ("peft", "peft-bf16", "qlora", "qlora-int", "qlora-int-ckpt", "tuneqdm-int")


def import_everything(contestant: Contestant) -> None:
    """So that memory after this is the contestant's own."""
    for name in ("diffusers.models.unets.unet_2d_condition", "peft", "intaglio.methods.registry"):
        import_module(name)
    if contestant.package is not None:
        import_module(peers.MODULES[contestant.package])


def new_unet(model: str, dtype: str) -> nn.Module:
    """A U-Net of `MODELS` with random weights, made at its size."""
    import torch
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**MODELS[model]).to(getattr(torch, dtype))
    unet = unet.to_empty(device="cpu")
    with torch.no_grad():
        for name, p in unet.named_parameters():
            p.fill_(1.0) if "norm" in name and name.endswith("weight") else p.normal_(std=0.02)
    return unet


def prepare_step(contestant: Contestant, model: str, resolution: int, batch: int) -> Callable[[], None]:
    """A call that makes one training step: forward, backward, AdamW."""
    import torch

    unet = new_unet(model, contestant.dtype)
    trained = contestant.prepare(unet)
    if contestant.checkpointing:
        unet.enable_gradient_checkpointing()  # type: ignore[operator]
    unet.train()
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    sample, text = _inputs(contestant, model, resolution, batch)
    noise, timesteps = torch.randn_like(sample), torch.randint(1000, (batch,))

    def step() -> None:
        loss = torch.nn.functional.mse_loss(unet(sample, timesteps, text).sample, noise)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    _settle()
    return step


def prepare_image(contestant: Contestant, model: str, resolution: int, batch: int) -> Callable[[], None]:
    """A call that denoises images: `DENOISING_STEPS` calls of the denoiser with guidance. No text encoder, no VAE."""
    import torch

    unet = new_unet(model, contestant.dtype)
    contestant.prepare(unet)
    unet.eval()
    sample, text = _inputs(contestant, model, resolution, 2 * batch)

    @torch.no_grad()
    def image() -> None:
        x = sample
        for timestep in torch.linspace(999, 1, DENOISING_STEPS).long():
            without, told = unet(x, timestep, text).sample.chunk(2)
            guided = without + 7.5 * (told - without)
            x = (x - 0.1 * guided.repeat(2, 1, 1, 1)).clamp(-4, 4)  # random weights denoise nothing

    _settle()
    return image


def _inputs(contestant: Contestant, model: str, resolution: int, batch: int) -> tuple[Tensor, Tensor]:
    """Latents (batch, 4, H, W) and the text's 77 tokens."""
    import torch

    dtype = getattr(torch, contestant.dtype)
    sample = torch.randn(batch, 4, resolution // 8, resolution // 8, dtype=dtype)
    return sample, torch.randn(batch, 77, MODELS[model]["cross_attention_dim"], dtype=dtype)


def _settle() -> None:
    from intaglio.runtime.memory import return_memory

    return_memory()
    gc.freeze()  # what stays is not looked through again in the middle of a step


TASKS = {"train": prepare_step, "generate": prepare_image}
"""What is measured: one training step, or one image a sample of the batch."""
DENOISING_STEPS = 10
