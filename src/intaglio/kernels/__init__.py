"""Integer arithmetic, a folder an operation: `op.py` says what is true of it, `reference.py` what it is, the other
files and `native/` how it is computed. `registry` chooses.

>>> from intaglio import kernels
>>> with kernels.using("reference"):
...     y = kernels.op("quantize_rows").run(x, None)
"""

from typing import TYPE_CHECKING, Any

__all__ = ["op", "operations", "using"]


def __getattr__(name: str) -> Any:
    """The registry on first use: a build needs no torch."""
    if name in __all__:
        from intaglio.kernels import registry

        return getattr(registry, name)
    raise AttributeError(f"module 'intaglio.kernels' has no attribute {name!r}; it has {', '.join(__all__)}")


if TYPE_CHECKING:
    from intaglio.kernels.registry import op, operations, using
