"""What keeping INT8 codes of a norm's or activation's input does to gradients and memory.

    python benchmarks/kept_codes.py      writes benchmarks/results/kept_codes.md

Single operations against float64; and a whole U-Net of the blocks of Stable Diffusion with a quarter of its width,
random weights, 256 px, whose float32 gradients of the projections of attention are the exact ones.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from intaglio.kernels.binding import path_in_use
from intaglio.kernels.gated import gated_activation
from intaglio.kernels.group_norm import group_norm
from intaglio.kernels.layer_norm import layer_norm
from intaglio.layers.fused import install_fused, remove_fused
from intaglio.speed.harness import commit, processor
from intaglio.speed.models import shape_named


def relative(got: Tensor, exact: Tensor) -> float:
    return float((got.double() - exact.double()).norm() / exact.double().norm())


def kept_bytes(call: Callable[[], object]) -> int:
    """Of distinct storages that autograd keeps, parameters left out."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return sum(storages.values())


def single_operations() -> list[str]:
    make = torch.Generator().manual_seed(0)
    image, tokens = torch.randn(1, 320, 32, 32, generator=make), torch.randn(1024, 320, generator=make)
    wide = torch.randn(1024, 2560, generator=make)
    cases: dict[str, tuple[Tensor, Callable[..., Tensor], Callable[[Tensor], Tensor]]] = {
        "group norm and SiLU, 32 x 32 x 320": (
            image.to(memory_format=torch.channels_last),
            lambda x, **keep: group_norm(x, 32, silu=True, **keep), lambda x: F.silu(F.group_norm(x, 32)),
        ),
        "layer norm, 1024 x 320": (tokens, layer_norm, lambda x: F.layer_norm(x, (320,))),
        "GEGLU, 1024 x 1280": (
            wide, gated_activation, lambda x: torch.mul(x.chunk(2, -1)[0], F.gelu(x.chunk(2, -1)[1])),
        ),
    }  # fmt: skip
    lines = [
        "| operation | bfloat16, torch | ours, input kept | codes kept | bytes an element |",
        "|---|---|---|---|---|",
    ]
    for name, (x, ours, torchs) in cases.items():
        x = x.bfloat16()
        grad = torch.randn(torchs(x).shape, generator=make).bfloat16()

        def gradient(
            function: Callable[[Tensor], Tensor], dtype: torch.dtype, x: Tensor = x, g: Tensor = grad
        ) -> Tensor:
            leaf = x.to(dtype, copy=True).requires_grad_()
            return torch.autograd.grad(function(leaf), leaf, g.to(dtype))[0]

        exact = gradient(torchs, torch.float64)
        cells = [relative(gradient(torchs, torch.bfloat16), exact)]
        sizes = []
        for keep in ("input", "codes"):
            cells.append(relative(gradient(lambda x, k=keep, f=ours: f(x, keep=k), torch.bfloat16), exact))
            leaf = x.clone().requires_grad_()
            size = kept_bytes(lambda x=leaf, k=keep, f=ours: f(x, keep=k))
            sizes.append(f"{size / x.numel():.2f}")
        lines.append(f"| {name} | {' | '.join(f'{c:.4f}' for c in cells)} | {' / '.join(sizes)} |")
    return lines


def whole_unet() -> list[str]:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    options: dict[str, Any] = {**shape_named("small").config, "block_out_channels": (96, 160, 320, 320)}
    unet = UNet2DConditionModel(**options).to(memory_format=torch.channels_last).train().requires_grad_(False)
    trained = [p for n, p in unet.named_parameters() if n.split(".")[-2] in ("to_q", "to_k", "to_v")]
    inputs = torch.randn(1, 4, 32, 32), torch.tensor([500]), torch.randn(1, 77, 256)
    for p in trained:
        p.requires_grad_()

    def gradients() -> tuple[list[Tensor], int]:
        loss: list[Tensor] = []
        size = kept_bytes(lambda: loss.append(unet(*inputs).sample.square().mean()))
        return list(torch.autograd.grad(loss[0], trained)), size

    lines = ["| U-Net in float32 | error of the gradients: median tensor | worst | MiB kept |", "|---|---|---|---|"]
    exact, size = gradients()
    lines.append(f"| torch | 0 | 0 | {size / 2**20:.0f} |")
    for name, keeps in (
        ("fused, inputs kept", ("input", "input")),
        ("codes of activations", ("input", "codes")),
        ("codes of norms and activations", ("codes", "codes")),
    ):
        install_fused(unet, norms=keeps[0], activations=keeps[1])  # type: ignore[arg-type]
        got, size = gradients()
        errors = sorted(relative(a, b) for a, b in zip(got, exact, strict=True))
        lines.append(f"| {name} | {errors[len(errors) // 2]:.1e} | {errors[-1]:.1e} | {size / 2**20:.0f} |")
        remove_fused(unet)
    return lines


def main() -> None:
    lines = [
        "# INT8 codes kept for the gradients of norms and activations",
        "",
        f"`python benchmarks/kept_codes.py`, commit {commit()}, {processor()}, kernels: {path_in_use()}, "
        f"torch {torch.__version__}.",
        "Errors are relative, in the norm of a tensor. Bytes an element: input kept / codes kept.",
        "",
        *single_operations(),
        "",
        *whole_unet(),
    ]
    print("\n".join(lines))
    path = Path(__file__).parent / "results" / "kept_codes.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
