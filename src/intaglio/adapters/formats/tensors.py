"""Reading and writing the tensors of an adapter file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from intaglio.adapters.header import METADATA_KEY, build_header, header_values
from intaglio.errors import UserError
from intaglio.files import write_atomic
from intaglio.safetensors_header import read_safetensors_header

if TYPE_CHECKING:
    from torch import Tensor

    from intaglio.adapters.header import Header
    from intaglio.adapters.state import AdapterState

MAX_ADAPTER_BYTES = 16 * 2**30


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file whose header has been checked, on the CPU.

    Raises:
        UserError: a damaged file, or one too large to be an adapter.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    header = read_safetensors_header(path)
    size = sum(entry.num_bytes for entry in header.tensors.values())
    if size > MAX_ADAPTER_BYTES:
        raise UserError(f"{path}: {size / 2**30:.0f} GiB of tensors; expected an adapter, is it a whole model?")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); was the copy complete?") from error


def read_metadata(path: Path) -> tuple[Header | None, dict[str, str]]:
    """Intaglio's header if there is one, and all other strings."""
    metadata = dict(read_safetensors_header(path).metadata)
    values = header_values(path, metadata)
    metadata.pop(METADATA_KEY, None)
    return None if values is None else build_header(values), metadata


def write_tensors(path: Path, tensors: Mapping[str, Tensor], state: AdapterState, extra: Mapping[str, str]) -> None:
    """Write tensors with the state's header and strings, whole or not at all.

    Raises:
        UserError: nothing to write, or values that are not finite. What lies there stays then.
    """
    from safetensors.torch import save_file

    if not tensors:
        raise UserError(f"{path}: an adapter without tensors is not saved; is it still attached?")
    state.check_finite()
    metadata = {k: v for k, v in state.metadata.items() if k not in ("format", METADATA_KEY)}
    metadata |= {"format": "pt", **extra}
    if state.header is not None:
        metadata[METADATA_KEY] = state.header.to_json()
    # A clone of INT8 codes is their float values.
    plain = {k: v.detach().clone().cpu().contiguous() for k, v in tensors.items()}
    write_atomic(path, lambda temporary: save_file(plain, temporary, metadata))
