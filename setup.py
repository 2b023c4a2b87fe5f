"""Compiles the CPU kernels on the way to a wheel or an editable installation; all else is in pyproject.toml.

The library has a plain C interface, so a wheel with it serves every Python 3: `py3-none-<platform>`. Without a compiler
the package installs as pure Python and computes with torch alone.
"""

import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "src" / "intaglio" / "kernels"))
import build as kernels  # noqa: E402  a file of its own: it imports nothing of the package


class BuildWithKernels(build_py):
    def run(self):
        super().run()
        folder = kernels.FOLDER if self.editable_mode else Path(self.build_lib) / "intaglio" / "kernels" / "native"
        try:
            built = kernels.build(folder)
        except (OSError, subprocess.CalledProcessError) as error:  # the package works without
            print(error, file=sys.stderr)
            built = None
        if built is None:
            print("the kernels were not compiled: intaglio will compute with torch alone", file=sys.stderr)

    def get_outputs(self, *args, **kwargs):
        library = Path(self.build_lib) / "intaglio" / "kernels" / "native" / kernels.LIBRARY
        return [*super().get_outputs(*args, **kwargs), *([str(library)] if library.exists() else [])]


class WithKernels(Distribution):
    def has_ext_modules(self):
        return kernels.compiler() is not None


class AnyPython(bdist_wheel):
    def get_tag(self):
        return ("py3", "none", "any" if self.root_is_pure else super().get_tag()[2])


setup(distclass=WithKernels, cmdclass={"build_py": BuildWithKernels, "bdist_wheel": AnyPython})
