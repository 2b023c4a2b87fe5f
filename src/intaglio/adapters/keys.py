"""How the tensors of a LoRA are called: the ends of their keys, in all the spellings that are about.

Sources: PEFT `peft/utils/save_and_load.py` (`lora_A`, `lora_B`), diffusers `utils/state_dict_utils.py` (`lora.down`,
`lora_linear_layer.down`, `to_q_lora.down`), kohya-ss/sd-scripts `networks/lora.py` (`lora_down`, `lora_up`, `alpha`),
KohakuBlueleaf/LyCORIS `modules/locon.py` (`lora_mid`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from intaglio.errors import Problems, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from intaglio.adapters.state import LowRank

_ENDS = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_mid.weight": "mid",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".alpha": "alpha",
}
_OTHER_KINDS = {
    ".lora_magnitude_vector": "DoRA",
    ".dora_scale": "DoRA",
    ".hada_": "LoHa",
    ".lokr_": "LoKr",
    ".oft_": "OFT",
    ".boft_": "BOFT",
    ".lora_B.bias": "LoRA with biases",
    ".lora_bias": "LoRA with biases",
    ".diff_b": "whole biases",
    ".diff": "whole weights",
    ".set_weight": "whole weights",
    ".w_norm": "norms",
    ".b_norm": "norms",
    ".a1.weight": "GLoRA",
    ".b1.weight": "GLoRA",
    ".reshape_weight": "reshaped weights",
}
MAX_RANK = 4096


def split_key(key: str) -> tuple[str, str] | None:
    """(layer, "down" | "up" | "mid" | "alpha"), or None for a key that is no part of a LoRA."""
    for end, part in _ENDS.items():
        if key.endswith(end) and len(key) > len(end):
            return key.removesuffix(end), part
    return None


def other_kind(key: str) -> str | None:
    """The adapter that is no plain LoRA and to which this key belongs."""
    return next((kind for mark, kind in _OTHER_KINDS.items() if mark in key), None)


def refuse_other_kinds(path: Path, keys: Mapping[str, object]) -> None:
    """One line for DoRA, LoHa, LoKr and what else is no LoRA.

    Raises:
        UserError: some key is of such an adapter.
    """
    kinds = {kind: key for key in keys if split_key(key) is None and (kind := other_kind(key)) is not None}
    if kinds:
        kind, key = next(iter(kinds.items()))
        raise UserError(
            f"{path}: a {' and '.join(kinds)} adapter ({shorten(key)}); intaglio reads LoRA and LoCon alone. Use it "
            "with the program that made it, or merge it into a float base there"
        )


def collect(path: Path, tensors: Mapping[str, Tensor]) -> tuple[dict[str, LowRank], list[str]]:
    """The low-rank factors by the layer's name as the file spells it, and the keys that are part of none.

    A layer without alpha has alpha = rank, as every reader of such files takes it. A `lora_mid` of LoCon's Tucker form
    is multiplied into `down`, which is exact: both are linear.

    Raises:
        Problems: half a pair, shapes that do not fit each other, an alpha that is no number; all of them at once.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    rest = []
    for key, tensor in tensors.items():
        found = split_key(key)
        if found is None:
            rest.append(key)
        else:
            layers.setdefault(found[0], {})[found[1]] = tensor
    result, problems = {}, []
    for layer, parts in layers.items():
        problem = _problem(parts)
        if problem is None:
            result[layer] = _low_rank(parts)
        else:
            problems.append(f"{shorten(layer)}: {problem}")
    if problems:
        shown = problems[:5] + ([f"and {len(problems) - 5} more"] if len(problems) > 5 else [])
        raise Problems(f"{path} is no LoRA that can be read", shown)
    return result, rest


def _problem(parts: Mapping[str, Tensor]) -> str | None:
    import torch

    missing = [part for part in ("down", "up") if part not in parts]
    if missing:
        return f"no {' and no '.join(missing)} weights"
    down, up, mid, alpha = parts["down"], parts["up"], parts.get("mid"), parts.get("alpha")
    if not down.is_floating_point() or not up.is_floating_point():
        return f"weights of {down.dtype} and {up.dtype}, expected floats"
    if down.ndim not in (2, 4) or up.ndim not in (2, 4):
        return f"shapes {tuple(down.shape)} and {tuple(up.shape)}, expected matrices or convolutions"
    if up.ndim == 4 and up.shape[2:] != (1, 1):
        return f"up {tuple(up.shape)}, expected a 1 x 1 convolution"
    rank = down.shape[0]
    if not 1 <= rank <= MAX_RANK or not down.numel() or not up.numel():
        return f"rank {rank}, expected 1 to {MAX_RANK}"
    if mid is not None and (mid.ndim != 4 or mid.shape[:2] != (up.shape[1], rank) or down.shape[2:] != (1, 1)):
        return f"mid {tuple(mid.shape)} between {tuple(down.shape)} and {tuple(up.shape)}"
    if mid is None and up.shape[1] != rank:
        return f"down has rank {rank}, up {up.shape[1]}"
    if alpha is not None and (alpha.numel() != 1 or alpha.is_complex() or not torch.isfinite(alpha.double()).all()):
        return f"alpha of shape {tuple(alpha.shape)}, expected one finite number"
    if not all(torch.isfinite(tensor).all() for tensor in (down, up)):
        return "values that are not finite"
    return None


def _low_rank(parts: Mapping[str, Tensor]) -> LowRank:
    import torch

    from intaglio.adapters.state import LowRank

    down, up = parts["down"], parts["up"]
    alpha = float(parts["alpha"].reshape(()).item()) if "alpha" in parts else float(down.shape[0])
    if "mid" in parts:
        mid = parts["mid"]
        down = torch.einsum("srhw,ri->sihw", mid.double(), down.double().flatten(1)).float()
    if down.ndim == 4 and up.ndim == 2:
        up = up[..., None, None]
    if down.ndim == 2 and up.ndim == 4:
        up = up.flatten(1)
    return LowRank(down, up, alpha)


def shorten(text: str, most: int = 100) -> str:
    """A name out of a stranger's file, for one line of a terminal."""
    clean = "".join(c if c.isprintable() else "?" for c in text)
    return clean if len(clean) <= most else clean[: most - 3] + "..."
