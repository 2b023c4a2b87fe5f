"""The C structures as ctypes sees them: made from the headers (`headers.py`), held against the compiler's layout."""

from __future__ import annotations

import ctypes
import keyword
from functools import cache
from typing import Any

from intaglio.kernels import headers

_KINDS: dict[str, Any] = {
    "pointer": ctypes.c_void_p,
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
}


def structure(name: str) -> Any:
    """The class of a C structure. A pointer is an address: the caller keeps alive what lies there.

    A member that is a word of Python has an underscore behind it: `in_`.
    """
    return _all()[name]


@cache
def _all() -> dict[str, type[ctypes.Structure]]:
    made: dict[str, type[ctypes.Structure]] = {}
    for name, members in headers.structures().items():
        fields = [(_python_name(member), _KINDS.get(kind) or made[kind]) for member, kind in members]
        made[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
    return made


def _python_name(member: str) -> str:
    return f"{member}_" if keyword.iskeyword(member) else member


def misplaced(layout: str) -> str | None:
    """What lies elsewhere for the compiler, by its `intaglio_layout`, than for Python; None where all agrees."""
    compiled = {words[0]: words[1:] for words in (part.split() for part in layout.split(";")) if words}
    for name, made in _all().items():
        ours = [str(ctypes.sizeof(made))]
        for member in (field[0] for field in made._fields_):
            ours += [member.rstrip("_"), str(getattr(made, member).offset)]
        theirs = compiled.get(name)
        if theirs != ours:
            return f"{name} is {' '.join(theirs or ['missing'])} in C, {' '.join(ours)} in Python"
    return None
