"""What an adapter holds, whatever file it lies in: component -> layer -> low-rank factors, and other tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from intaglio.adapters.header import Header
from intaglio.errors import UserError
from intaglio.families.registry import denoisers_of
from intaglio.layers.names import find_layers


@dataclass(frozen=True)
class LowRank:
    """The update `alpha / rank * up @ down` of one layer."""

    down: Tensor
    """(r, I), or (r, I, kh, kw) of a convolution."""
    up: Tensor
    """(O, r), or (O, r, 1, 1) of a convolution."""
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scaling(self) -> float:
        return self.alpha / self.rank

    def folded(self) -> LowRank:
        """The same update with alpha = rank: for readers that look for no alpha. The very tensors where it is so."""
        if self.alpha == self.rank:
            return self
        return LowRank(self.down, (self.up.double() * self.scaling).to(_wide(self.up)), float(self.rank))

    def scaled_to(self, scaling: float) -> LowRank:
        """The same update with another `alpha / rank`; exact where the two differ by a power of two."""
        if self.scaling == scaling:
            return self
        up = (self.up.double() * (self.scaling / scaling)).to(_wide(self.up))
        return LowRank(self.down, up, scaling * self.rank)

    def padded(self, rank: int) -> LowRank:
        """The same update with more rows: new ones of `up` are zero, those of `down` are zero too."""
        missing = rank - self.rank
        if missing == 0:
            return self
        down = torch.cat([self.down, self.down.new_zeros(missing, *self.down.shape[1:])])
        up = torch.cat([self.up, self.up.new_zeros(len(self.up), missing, *self.up.shape[2:])], dim=1)
        return LowRank(down, up, self.scaling * rank)

    def update(self) -> Tensor:
        """The float64 change of the weight, in the weight's shape."""
        product = torch.einsum("or,r...->o...", self.up.double().flatten(1), self.down.double())
        return self.scaling * product


def _wide(tensor: Tensor) -> torch.dtype:
    """Half precision would round what is scaled: it becomes float32."""
    return tensor.dtype if tensor.dtype in (torch.float32, torch.float64) else torch.float32


@dataclass(frozen=True)
class ComponentState:
    low_rank: Mapping[str, LowRank] = field(default_factory=dict)
    """By the layer's name in the diffusers or transformers model."""
    other: Mapping[str, Tensor] = field(default_factory=dict)
    """Scales and whole weights, by the parameter's name."""


@dataclass(frozen=True)
class AdapterState:
    components: Mapping[str, ComponentState]
    """"unet", "transformer", "text_encoder", "text_encoder_2", ..."""
    header: Header | None = None
    """What intaglio said of it; None for a file of another program."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Strings that travel with it: trigger words, training settings."""
    model_class: str | None = None
    """diffusers' class of the denoiser, where it is known though there is no header."""

    @property
    def family(self) -> str | None:
        """Of the denoiser, by its class; None where that is not known."""
        model_class = self.model_class if self.header is None else self.header.model_class
        return None if model_class is None else denoisers_of(model_class).name

    @property
    def denoiser(self) -> tuple[str, ComponentState] | None:
        """("unet" or "transformer", its part), None where only text encoders were trained."""
        return next(((n, c) for n, c in self.components.items() if n in ("unet", "transformer")), None)

    @property
    def is_low_rank(self) -> bool:
        """Whether all of it is low-rank factors, so that formats for LoRA can hold it."""
        return not any(component.other for component in self.components.values())

    def folded(self) -> AdapterState:
        """The same with alpha = rank throughout."""
        parts = {
            name: replace(part, low_rank={module: pair.folded() for module, pair in part.low_rank.items()})
            for name, part in self.components.items()
        }
        return replace(self, components=parts)

    def check_finite(self) -> None:
        """Refuse weights that training blew up.

        Raises:
            UserError: a value is infinite or not a number.
        """
        for part in self.components.values():
            tensors = dict(part.other)
            for module, pair in part.low_rank.items():
                tensors |= {f"{module} (down)": pair.down, f"{module} (up)": pair.up}
            for name, tensor in tensors.items():
                if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                    raise UserError(
                        f"{name} has values that are not finite, so this adapter is not saved; what was saved before "
                        "is still there. Train again with a smaller learning rate"
                    )


@dataclass(frozen=True)
class Names:
    """The layers of a model that a file is read for: their weights' shapes by name."""

    component: str
    shapes: Mapping[str, tuple[int, ...]]
    family: str | None = None

    @staticmethod
    def of(model: nn.Module) -> Names:
        shapes = {
            name: tuple(getattr(layer, "weight_shape", ()) or layer.weight.shape) for name, layer in layers(model)
        }
        family = denoisers_of(model)
        return Names(family.component, shapes, family.name)


def layers(model: nn.Module) -> list[tuple[str, nn.Linear | nn.Conv2d]]:
    """The model's own layers: those of adapters beside them (`lora_A` of PEFT) left out."""
    return [(name, layer) for name, layer in find_layers(model) if ".lora_" not in name]
