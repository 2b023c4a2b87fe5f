"""Named groups of tensors kept in memory and, when asked, in one safetensors file that is whole or absent."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from intaglio.files import write_atomic

logger = logging.getLogger(__name__)


class TensorStore:
    """`store[key] = {"name": tensor}`. The file's name carries a hash of `identity`, so that what was computed with
    another model or transform is never read."""

    def __init__(self, folder: Path | None, kind: str, *identity: object):
        digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
        self.path = folder / f"{kind}-{digest}.safetensors" if folder else None
        self._groups: dict[str, dict[str, Tensor]] = {}
        self._unsaved = False
        if self.path and self.path.is_file():
            self._load(self.path)

    def __contains__(self, key: str) -> bool:
        return key in self._groups

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, key: str) -> dict[str, Tensor]:
        return self._groups[key]

    def __setitem__(self, key: str, group: dict[str, Tensor]) -> None:
        self._groups[key] = {name: tensor.detach().cpu().clone() for name, tensor in group.items()}
        self._unsaved = True

    def save(self) -> None:
        """Write the file if there is one and something is new."""
        if self.path is None or not self._unsaved:
            return
        flat = {f"{key}.{name}": t.contiguous() for key, group in self._groups.items() for name, t in group.items()}
        write_atomic(self.path, lambda temporary: save_file(flat, temporary))
        self._unsaved = False

    def _load(self, path: Path) -> None:
        try:
            flat = load_file(path)
        except (SafetensorError, OSError) as error:
            logger.warning("%s: unreadable (%s); encoding again", path, error)
            return
        for full_name, tensor in flat.items():
            key, _, name = full_name.rpartition(".")
            self._groups.setdefault(key, {})[name] = tensor
