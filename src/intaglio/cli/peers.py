"""How others fine-tune a U-Net, for `intaglio bench`: each function changes it in place and returns what is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
MODULES = {"bitsandbytes": "bitsandbytes", "optimum-quanto": "optimum.quanto", "torchao": "torchao"}
"""What is imported of each distribution."""


def nothing(unet: nn.Module) -> list[nn.Parameter]:
    """The model alone, for drawing."""
    unet.requires_grad_(False)
    return []


def lora(unet: nn.Module) -> list[nn.Parameter]:
    """Rank 16 on the projections of attention, by PEFT."""
    from peft import LoraConfig

    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=16, lora_alpha=16, target_modules=TARGETS))  # type: ignore[operator]
    return [p for p in unet.parameters() if p.requires_grad]


def lora_everywhere(unet: nn.Module) -> list[nn.Parameter]:
    """Rank 2 on every Linear and Conv2d, by PEFT."""
    from peft import LoraConfig
    from torch import nn

    unet.requires_grad_(False)
    names = [name for name, module in unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=names))  # type: ignore[operator]
    return [p for p in unet.parameters() if p.requires_grad]


def bitsandbytes(unet: nn.Module) -> list[nn.Parameter]:
    """Every Linear in NF4; it has no 4-bit convolution."""
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit  # type: ignore[import-not-found]

    for name, layer in _linears(unet):
        quantized = Linear4bit(
            layer.in_features,
            layer.out_features,
            layer.bias is not None,
            compute_dtype=layer.weight.dtype,
            quant_type="nf4",
            device="meta",
        )
        quantized.weight = Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4", module=quantized)
        quantized.bias = layer.bias
        _put(unet, name, quantized.to("cpu"))
    unet.is_loaded_in_4bit = True  # type: ignore[assignment]
    assert all(p.dtype != torch.float32 for p in unet.parameters())
    return lora(unet)


def quanto(unet: nn.Module) -> list[nn.Parameter]:
    """Every Linear and Conv2d in INT8, products in bfloat16."""
    from optimum.quanto import freeze, qint8, quantize  # type: ignore[import-not-found]

    from intaglio.families.registry import denoisers_of

    quantize(unet, weights=qint8, exclude=[f"{k}*" for k in denoisers_of(unet).keep_float])
    freeze(unet)
    return lora(unet)


def torchao(unet: nn.Module) -> list[nn.Parameter]:
    """Every Linear with both products in INT8 of a weight that stays bfloat16; a single row does not go there."""
    from torchao import quantize_  # type: ignore[import-not-found]
    from torchao.prototype.quantized_training import (  # type: ignore[import-not-found]
        Int8MixedPrecisionTrainingConfig,
    )

    wanted = {id(layer) for name, layer in _linears(unet) if not name.endswith("time_emb_proj")}
    quantize_(unet, Int8MixedPrecisionTrainingConfig(module_swap=True), lambda module, _: id(module) in wanted)
    return lora(unet)


def official_tuneqdm(unet: nn.Module, intervals: int = 4) -> list[nn.Parameter]:
    """TuneQDM in the formulation of its authors' code (github.com/ugonfor/TuneQDM), written anew.

    4-bit codes lie in a byte each; the weight is built by (Q - z) * s_out * s_in in float under autograd, in every
    forward pass of every layer; one interval serves the whole batch and all of them are trained.
    """

    from intaglio.families.registry import denoisers_of
    from intaglio.layers.names import find_layers, is_kept

    unet.requires_grad_(False)
    interval = [0]
    scales = []
    for name, layer in list(find_layers(unet)):
        if is_kept(name, denoisers_of(unet).keep_float):
            continue
        scaled = _official_layer(layer, intervals, interval)
        scales += [scaled.output_scale, scaled.input_scale]
        _put(unet, name, scaled)

    def choose(_: nn.Module, args: tuple) -> None:
        interval[0] = int(args[1].reshape(-1)[0]) * intervals // 1000

    unet.register_forward_pre_hook(choose)
    return scales


def _official_layer(layer: nn.Linear | nn.Conv2d, intervals: int, interval: list[int]) -> nn.Module:
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Scaled(nn.Module):
        """Codes 0 to 15, min-max per output channel, (O, I, ...) int8; scales (N, O, 1, ...) and (N, 1, I, ...)."""

        def __init__(self) -> None:
            super().__init__()
            weight = layer.weight.detach()
            flat, ones = weight.flatten(1), (1,) * (weight.ndim - 2)
            column = (-1, 1, *ones)
            low, high = flat.amin(1).clamp(max=0), flat.amax(1).clamp(min=0)
            scale = ((high - low) / 15).clamp_min(1e-8)
            self.zero_point = (-low / scale).round().view(column)
            self.codes = (weight / scale.view(column) + self.zero_point).round().clamp(0, 15).to(torch.int8)
            self.output_scale = nn.Parameter(scale.view(1, *column).repeat(intervals, 1, 1, *ones))
            self.input_scale = nn.Parameter(torch.ones(intervals, 1, weight.shape[1], *ones))
            self.bias = layer.bias

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            n = interval[0]
            weight = (self.codes.float() - self.zero_point) * self.output_scale[n] * self.input_scale[n]
            if isinstance(layer, nn.Linear):
                return F.linear(x, weight, self.bias)
            return F.conv2d(x, weight, self.bias, layer.stride, layer.padding, layer.dilation, layer.groups)

    scaled = Scaled()
    layer.weight = None  # type: ignore[assignment]
    return scaled


def _linears(unet: nn.Module) -> list[tuple[str, nn.Linear]]:
    from torch import nn

    from intaglio.families.registry import denoisers_of
    from intaglio.layers.names import is_kept

    kept = denoisers_of(unet).keep_float
    found = [(name, m) for name, m in unet.named_modules() if isinstance(m, nn.Linear)]
    return [(name, m) for name, m in found if not is_kept(name, kept)]


def _put(unet: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(unet.get_submodule(parent), last, module)
