"""The structures of the C headers, read from the headers themselves: nobody repeats them.

Standard library only, without the package: the build reads them too.

A header that Python calls through has `extern "C" {`. Its structures have members of these kinds: pointers, `int64_t`,
`uint64_t`, `float`, `double`, and other structures, which come first.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent
_STRUCT = re.compile(r"^struct (\w+) \{\n(.*?)^\};", re.MULTILINE | re.DOTALL)
_MEMBER = re.compile(r"(?:const )?(?:struct )?(\w+) ?(.*)")


def headers() -> list[Path]:
    """Those that Python calls through, those of the operations that others are made of first."""
    found = [p for p in sorted(ROOT.glob("*/native/*.h")) if 'extern "C" {' in p.read_text(encoding="utf-8")]
    return sorted(found, key=lambda path: sum(other.name in path.read_text(encoding="utf-8") for other in found))


def structures() -> dict[str, list[tuple[str, str]]]:
    """Name -> (member, kind) in order; a kind is "pointer", a type of C, or the name of a structure."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in headers():
        for name, body in _STRUCT.findall(path.read_text(encoding="utf-8")):
            if name in found:
                raise ValueError(f"{path.name}: a second structure {name}")
            found[name] = _members(body)
    return found


def _members(body: str) -> list[tuple[str, str]]:
    members = []
    for declaration in re.sub(r"//.*", "", body).split(";"):
        if not declaration.strip():
            continue
        match = _MEMBER.fullmatch(" ".join(declaration.split()))
        if match is None:
            raise ValueError(f"no member of a structure: {declaration.strip()}")
        for name in match[2].replace("* ", "*").split(","):
            pointer = "*" in name or "*" in match[1]
            members.append((name.strip().lstrip("*"), "pointer" if pointer else match[1]))
    return members


def layout_source() -> str:
    """C++ that says how the compiler lays the structures out: `intaglio_layout` of `native/library.h`."""
    lines = ["#include <cstddef>", "#include <string>", '#include "native/library.h"']
    lines += [f'#include "{path.relative_to(ROOT).as_posix()}"' for path in headers()]
    lines += ['extern "C" const char* intaglio_layout(void) {', "    static const std::string all = [] {"]
    lines += ["        std::string s;"]
    for name, members in structures().items():
        lines.append(f'        s += "{name} " + std::to_string(sizeof({name}));')
        for member, _ in members:
            lines.append(f'        s += " {member} " + std::to_string(offsetof({name}, {member}));')
        lines.append('        s += ";";')
    return "\n".join([*lines, "        return s;", "    }();", "    return all.c_str();", "}", ""])
