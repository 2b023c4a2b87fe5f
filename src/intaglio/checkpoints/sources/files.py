"""The safetensors files of a component, read one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from intaglio.errors import UserError
from intaglio.safetensors_header import SafetensorsHeader, TensorEntry, read_safetensors_header

if TYPE_CHECKING:
    from torch import Tensor


def weight_files(path: Path) -> list[Path]:
    """The file itself, or the plain safetensors files of a folder (no variants), in order."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.glob("*.safetensors") if file.name.count(".") == 1)


class TensorFiles:
    """All tensors of a component by name, whatever file they lie in. Nothing is read before it is asked for."""

    def __init__(self, path: Path):
        """Checks the header of every file.

        Raises:
            UserError: a damaged file, none at all, or a tensor that lies in two.
        """
        self.path = path
        self.headers: dict[Path, SafetensorsHeader] = {f: read_safetensors_header(f) for f in weight_files(path)}
        self._where: dict[str, Path] = {}
        for file, header in self.headers.items():
            twice = self._where.keys() & header.tensors.keys()
            if twice:
                raise UserError(f"{path}: {sorted(twice)[0][:80]!r} lies in two files; copy the folder again")
            self._where |= dict.fromkeys(header.tensors, file)
        if not self._where:
            raise UserError(f"{path}: no tensors in .safetensors files; was the copy complete?")

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def entry(self, name: str) -> TensorEntry:
        return self.headers[self._where[name]].tensors[name]

    def get(self, name: str) -> Tensor:
        """One tensor, on the CPU.

        Raises:
            UserError: no such tensor.
        """
        from safetensors import SafetensorError, safe_open

        if name not in self._where:
            raise UserError(f"{self.path}: no {name[:80]} in it; was the copy complete?")
        try:
            with safe_open(self._where[name], framework="pt") as file:
                return file.get_tensor(name)
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{self._where[name]}: {name[:80]} cannot be read ({error}); copy it again") from error
