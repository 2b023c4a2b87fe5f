"""Mutations of files, for fuzzing readers: seeded, so that a failure is a number."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

_VALUES = (
    None,
    -1,
    0,
    1,
    2**31,
    2**63,
    2**70,
    1.5,
    float("nan"),
    "",
    "x" * 300,
    "F32",
    [],
    [2**40, 2**40],
    {},
    [[]],
    True,
)


def mutate(data: bytes, seed: int) -> bytes:
    """One to three changes of a safetensors or other file: of bytes, of its length, of its JSON header."""
    generator = random.Random(seed)
    for _ in range(generator.randint(1, 3)):
        change = generator.choice((_flip, _flip, _cut, _insert, _header, _header, _header))
        data = change(data, generator)
    return data


def _flip(data: bytes, generator: random.Random) -> bytes:
    if not data:
        return data
    # Most of a file is weights, any of which are as good as others: the beginning is what a reader believes.
    end = len(data) if generator.random() < 0.2 else min(len(data), 3000)
    at = generator.randrange(end)
    return data[:at] + bytes([generator.randrange(256)]) + data[at + 1 :]


def _cut(data: bytes, generator: random.Random) -> bytes:
    return data[: generator.randrange(len(data) + 1)]


def _insert(data: bytes, generator: random.Random) -> bytes:
    at = generator.randrange(len(data) + 1)
    return data[:at] + generator.randbytes(generator.randint(1, 40)) + data[at:]


def _header(data: bytes, generator: random.Random) -> bytes:
    """Another value somewhere in the JSON, with lengths that fit."""
    try:
        length = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + length])
        rest = data[8 + length :]
    except (ValueError, struct.error):
        return _flip(data, generator)
    _change(header, generator)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


def _change(value: object, generator: random.Random) -> None:
    if isinstance(value, dict) and value:
        key = generator.choice(list(value))
        inner = value[key]
        if isinstance(inner, str) and inner.startswith("{") and generator.random() < 0.8:
            nested = json.loads(inner) if _is_json(inner) else {}
            _change(nested, generator)
            value[key] = json.dumps(nested)
        elif isinstance(inner, dict | list) and inner and generator.random() < 0.7:
            _change(inner, generator)
        else:
            kind = generator.randrange(4)
            if kind == 0:
                del value[key]
            elif kind == 1:
                other = str(key)
                at = generator.randrange(len(other) + 1)
                value[other[:at] + generator.choice((".", "_", "0", "lora_A", "é", "\0", "to_q")) + other[at:]] = (
                    value.pop(key)
                )
            else:
                value[key] = generator.choice(_VALUES)
    elif isinstance(value, list) and value:
        value[generator.randrange(len(value))] = generator.choice(_VALUES)


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
