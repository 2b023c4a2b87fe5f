"""What a model is, from its JSON files and safetensors headers alone.

Without torch, so that the command line can refuse wrong input at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from intaglio.checkpoints.recognize import refuse_pickles
from intaglio.checkpoints.sources import find_source
from intaglio.errors import UserError, WrongBase
from intaglio.safetensors_header import check_readable, read_safetensors_header

EMBEDDED = "embedded"
"""The name under which the model that ships with the package goes."""
DENOISERS = ("unet", "transformer")
_WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class ModelInfo:
    source: str
    """The Hub id, folder or file, as it was given."""
    folder: Path | None
    """The local folder; None for a Hub id and a single file."""
    is_single_file: bool
    pipeline_class: str | None
    """None for a single file, as the two below."""
    denoiser: str | None
    """"unet" or "transformer"."""
    denoiser_class: str | None
    format: str | None
    """Format of a quantized denoiser, None for a float one."""
    base_hash: str | None
    source_name: str = "float"
    """The weight source (`checkpoints/sources`) that its denoiser is read by."""
    text_encoders: tuple[str, ...] = ()
    """The pipeline's names of them."""

    def check_adapter(self, adapter: str | Path, base_hash: str | None) -> None:
        """Refuse an adapter that was trained on other integers.

        Args:
            adapter: its folder, for the message.
            base_hash: what its file says; None when it was trained on float weights.

        Raises:
            WrongBase: this model is quantized, and not to the base of the adapter.
        """
        if self.base_hash is not None and base_hash != self.base_hash:
            raise WrongBase(str(adapter), base_hash or "of float weights", self.base_hash)


def embedded_base() -> Path:
    """The folder of the base model that ships with the package."""
    folder = Path(str(files("intaglio") / "assets" / "base"))
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"{folder}: this installation of intaglio has no embedded base model; install the package again, or name a "
            "model: a folder, a .safetensors file or a Hub id"
        )
    return folder


def inspect_model(name_or_path: str | Path, *, revision: str | None = None) -> ModelInfo:
    """Read what `name_or_path` is, without loading it.

    Args:
        name_or_path: "embedded", a local folder, a .safetensors file, or a Hub id (its JSON files are downloaded).

    Raises:
        UserError: nothing there, no diffusers pipeline, one without a U-Net or transformer, or a damaged file.
    """
    source = str(name_or_path)
    path = embedded_base() if source == EMBEDDED else Path(source).expanduser()
    if path.is_file():
        refuse_pickles(path)
        if path.suffix not in (".safetensors", ".gguf"):
            raise UserError(f"{path}: expected a .safetensors or .gguf file, a folder or a Hub id; others are not read")
        name = find_source(path, None, source).name
        if name != "gguf":
            read_safetensors_header(path)
        return ModelInfo(source, None, True, None, None, None, None, None, name)
    folder = path if path.is_dir() else None
    if folder is None and _looks_local(source):
        raise UserError(
            f"{path}: no such file or folder; expected a diffusers pipeline, a .safetensors file or a Hub id"
        )
    index = _read_json(source, folder, "model_index.json", revision)
    denoiser = next((name for name in DENOISERS if _is_component(index.get(name))), None)
    if denoiser is None:
        there = ", ".join(name for name, value in index.items() if _is_component(value)) or "nothing"
        raise UserError(
            f"{source}: a {index.get('_class_name')} with {there}; expected a pipeline with a unet or a transformer"
        )
    config = _read_json(source, folder, f"{denoiser}/config.json", revision)
    quantization = config.get("quantization_config")
    if quantization is not None and not isinstance(quantization, dict):
        raise UserError(f"{source}: quantization_config is a {type(quantization).__name__}, expected an object")
    if folder is not None:
        _check_weights(folder, denoiser, index)
    found = find_source((folder or Path(source)) / denoiser, quantization, source)
    own = quantization if found.name == "intaglio" and quantization is not None else {}
    format, base_hash = own.get("format"), own.get("base_hash")
    texts = tuple(name for name, value in index.items() if name.startswith("text_encoder") and _is_component(value))
    pipeline_class, denoiser_class = index.get("_class_name"), index[denoiser][1]
    return ModelInfo(
        source, folder, False, pipeline_class, denoiser, denoiser_class, format, base_hash, found.name, texts
    )


def read_component_config(info: ModelInfo, component: str, revision: str | None = None) -> dict[str, Any]:
    """`config.json` of a component of a pipeline that is no single file."""
    return _read_json(info.source, info.folder, f"{component}/config.json", revision)


def _is_component(value: Any) -> bool:
    """[library, class], where a component that was left out is [null, null]."""
    return isinstance(value, list) and len(value) == 2 and value[1] is not None


def _looks_local(source: str) -> bool:
    return source.startswith(("/", ".", "~")) or source.count("/") != 1 or source.endswith(("/", ".safetensors"))


def _read_json(source: str, folder: Path | None, relative: str, revision: str | None) -> dict[str, Any]:
    path = folder / relative if folder is not None else _download(source, relative, revision)
    if not path.is_file():
        raise UserError(f"{source}: no {relative} in it; expected the folder of a diffusers pipeline")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}; was the copy complete?") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values


def _download(repo: str, relative: str, revision: str | None) -> Path:
    """One small file of a Hub repository; `HF_HOME` and `HF_HUB_OFFLINE` are the library's own business."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, relative, revision=revision))
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"{repo}: no such folder here, and the Hub cannot be asked (offline, or HF_HUB_OFFLINE is set) and the "
            f"cache has no {relative} of it; give a local folder, or connect once to download it"
        ) from error
    except (HfHubHTTPError, HFValidationError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"{repo}: no such folder here, and the Hub has no {relative} for it: {first}") from error


def _check_weights(folder: Path, denoiser: str, index: dict[str, Any]) -> None:
    if not any(file for pattern in _WEIGHTS for file in (folder / denoiser).glob(pattern)):
        raise UserError(f"{folder / denoiser}: no weights in it; expected .safetensors files. Copy the folder again")
    for name, value in index.items():
        if _is_component(value):
            for file in (folder / name).glob("*.safetensors"):
                check_readable(file)
