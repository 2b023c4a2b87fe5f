"""Every operation of a real training step: `schema` (what an event is, standard library only), its writers and readers,
and the recorder.

>>> from intaglio.trace import record
>>> trace = record(lambda: loss(model, batch).backward())
"""

from typing import TYPE_CHECKING, Any

__all__ = ["Recorder", "record"]


def __getattr__(name: str) -> Any:
    """The recorder on first use: reading a trace needs no torch."""
    if name in __all__:
        from intaglio.trace import recorder

        return getattr(recorder, name)
    raise AttributeError(f"module 'intaglio.trace' has no attribute {name!r}; it has {', '.join(__all__)}")


if TYPE_CHECKING:
    from intaglio.trace.recorder import Recorder, record
