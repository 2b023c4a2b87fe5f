"""Aligned emoji styles: which drawing of which style shows a concept, rendered from SVG."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from intaglio.errors import UserError

SIDE_PIXELS = 256
DRAWING_PIXELS = 224
"""A margin of 1/16 keeps the background visible, and checkable, on every side: as the shipped base was trained."""
_VENDORS = ("emojibase", "github", "iamcal", "joypixels")


@dataclass(frozen=True)
class Concept:
    label: str
    """The CLDR name, in lower case."""
    group: str
    icons: dict[str, str]
    """Style -> name of its icon."""

    @property
    def phrase(self) -> str:
        """'red apple' -> 'a red apple', 'octopus' -> 'an octopus', 'grapes' -> 'grapes'."""
        if self.label.endswith("s") and not self.label.endswith(("us", "ss")):
            return self.label
        return f"{'an' if self.label[0] in 'aeiou' else 'a'} {self.label}"


class Style:
    """One iconify collection."""

    def __init__(self, package: Path):
        self._table: dict[str, Any] = json.loads((package / "icons.json").read_text(encoding="utf-8"))
        self.names = [*self._table["icons"], *self._table.get("aliases", {})]

    def draw(self, name: str) -> Image.Image:
        """The icon, centred on a transparent canvas: RGBA, 256 x 256."""
        try:
            import resvg_py
        except ImportError:
            raise UserError("rendering emoji needs resvg-py: pip install 'intaglio[study]'") from None
        alias = self._table.get("aliases", {}).get(name)
        icon = self._table["icons"][alias["parent"] if alias else name]
        width, height = (icon.get(side, self._table.get(side, 16)) for side in ("width", "height"))
        view = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{view}" width="{DRAWING_PIXELS}" height="{DRAWING_PIXELS}">{icon["body"]}</svg>'
        )
        data = resvg_py.svg_to_bytes(svg_string=svg, width=DRAWING_PIXELS, skip_system_fonts=True)
        image = Image.open(io.BytesIO(bytes(data))).convert("RGBA")
        canvas = Image.new("RGBA", (SIDE_PIXELS, SIDE_PIXELS))
        canvas.paste(image, ((SIDE_PIXELS - image.width) // 2, (SIDE_PIXELS - image.height) // 2))
        return canvas


def match(emojibase: Path, styles: dict[str, Style]) -> list[Concept]:
    """Concepts of emojibase (no flags, components, skin tones or gender variants) with their icons by style.

    Collections name icons after the CLDR label; shortcodes of four vendors are tried where that finds nothing, and
    then, for labels of several words, older labels ("kissing cat face", now "kissing cat").
    FxEmoji draws its cats as foxes and monkeys under names that fit other concepts: those never match.
    """
    entries = json.loads((emojibase / "en/data.json").read_text(encoding="utf-8"))
    messages = json.loads((emojibase / "en/messages.json").read_text(encoding="utf-8"))
    groups = {entry["order"]: entry["key"] for entry in messages["groups"]}
    codes = _shortcodes(emojibase)
    lookup = {}
    for word, style in styles.items():
        names = [n for n in style.names if not (word == "fxemoji" and n.startswith(("cat", "fox", "monkey")))]
        older = {_plain(n.replace("cat-face", "cat")): n for n in names if n.count("-") > 1}
        lookup[word] = older | {_plain(n): n for n in names}
    concepts = []
    for entry in entries:
        if "group" not in entry or "gender" in entry or groups[entry["group"]] in ("flags", "component"):
            continue
        keys = [_plain(entry["label"]), *codes.get(entry["hexcode"], [])]
        found = {word: next((names[k] for k in keys if k in names), None) for word, names in lookup.items()}
        icons = {word: name for word, name in found.items() if name is not None}
        concepts.append(Concept(entry["label"].lower(), groups[entry["group"]], icons))
    return concepts


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _shortcodes(emojibase: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for vendor in _VENDORS:
        table = json.loads((emojibase / f"en/shortcodes/{vendor}.json").read_text(encoding="utf-8"))
        for hexcode, codes in table.items():
            found.setdefault(hexcode, []).extend(_plain(c) for c in ([codes] if isinstance(codes, str) else codes))
    return found
