"""The strings that other programs look for in a LoRA file: `ss_*` of kohya's scripts, `modelspec.*` of Stability AI.

Strings only. What a stranger's file says is data: it is printed in one line without control characters, and never
becomes markup or a command.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from intaglio.adapters.names import map_for, unet

if TYPE_CHECKING:
    from intaglio.adapters.state import AdapterState

MAX_CHARACTERS = 2000


def kohya_metadata(state: AdapterState, version: str, architecture: str) -> dict[str, str]:
    """Rank, alpha, model and trigger words, as sd-scripts writes them.

    Args:
        version: `ss_base_model_version`.
        architecture: `modelspec.architecture` without "/lora".
    """
    pairs = [pair for part in state.components.values() for pair in part.low_rank.values()]
    rank = Counter(pair.rank for pair in pairs).most_common(1)[0][0]
    alpha = Counter(pair.alpha for pair in pairs).most_common(1)[0][0]
    found = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alpha),
        "ss_base_model_version": version,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "diffusers",
    }
    if any(pair.down.ndim == 4 for pair in pairs):
        found["ss_network_args"] = f'{{"conv_dim": "{rank}", "conv_alpha": "{alpha}"}}'
    return {**found, **state.metadata}


def with_trigger(state_metadata: Mapping[str, str], prompt: str) -> dict[str, str]:
    """The prompt of the training images as trigger words."""
    return {**state_metadata, "modelspec.trigger_phrase": clean(prompt)}


def trigger_of(metadata: Mapping[str, str]) -> str | None:
    """The trigger words that a file names, in one line."""
    for key in ("modelspec.trigger_phrase", "ss_trigger_words"):
        if metadata.get(key, "").strip():
            return clean(metadata[key])
    return None


def clean(text: str) -> str:
    """Without line breaks and control characters, and not endless."""
    return "".join(c if c.isprintable() else " " for c in text)[:MAX_CHARACTERS].strip()


def family_of(state: AdapterState) -> tuple[str, str, str] | None:
    """(family, `ss_base_model_version`, `modelspec.architecture`), None where it cannot be told."""
    denoiser = state.denoiser
    if denoiser is None:
        return None
    component, part = denoiser
    if component == "unet":
        widths = {name: pair.down.shape[1] for name, pair in part.low_rank.items()}
        if unet.is_xl(widths) or "text_encoder_2" in state.components:
            return "sdxl", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base"
        return "sd", "sd_v1", "stable-diffusion-v1"
    names = map_for(state.family, part.low_rank)
    return None if names is None else (names.family, names.version, names.architecture)
