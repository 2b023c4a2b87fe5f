"""Which concepts and drawings the base model may see: the written rules, read from `holdout.toml`."""

import hashlib
import json
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

# Widen the base model by adding to this line: groups of emojibase.
GROUPS = {"smileys-emotion", "animals-nature", "food-drink", "activities", "objects", "travel-places"}
MIN_STYLES = 3

# The class noun of a concept, for captions that name no concept ("a picture of an animal").
CATEGORIES = {
    "animal": "animal",
    "plant": "plant",
    "drink": "drink",
    "food": "food",
    "dishware": "dish",
    "transport": "vehicle",
    "face": "face",
    "musical": "instrument",
}


@dataclass(frozen=True)
class Concept:
    """One emoji concept; `icons` maps a style of `holdout.toml` to the icon's name in that style's package."""

    label: str
    group: str
    subgroup: str
    icons: dict[str, str]

    @property
    def category(self) -> str:
        return next((noun for key, noun in CATEGORIES.items() if self.subgroup.startswith(key)), "object")


@cache
def holdout() -> dict[str, Any]:
    """The hold-outs, fixed before the first training run."""
    return tomllib.loads(Path(__file__).with_name("holdout.toml").read_text())


def is_heldout_family(label: str, subgroup: str) -> bool:
    """Whether the concept is of a family (cats, monkeys) that no style may show."""
    families = holdout()["families"]
    return subgroup in families["subgroups"] or not set(families["words"]).isdisjoint(
        re.findall(r"[a-z]+", label.lower())
    )


def is_caption_concept(concept: Concept) -> bool:
    """Whether the text-to-image model trains on the concept (the VAE sees every drawing that is not held out)."""
    return (
        concept.group in GROUPS
        and len(concept.icons) >= MIN_STYLES
        and not is_heldout_family(concept.label, concept.subgroup)
    )


def _percent(kind: str, concept: str, other: str) -> int:
    return int(hashlib.sha256(f"{kind}|{concept}|{other}".encode()).hexdigest(), 16) % 100


def heldout_style(concept: Concept) -> str | None:
    """The style in which this concept is held out, if any (rule: `[pairs]` of `holdout.toml`)."""
    styles = list(holdout()["styles"]["train"])
    if len(concept.icons) < len(styles):
        return None
    limit = holdout()["pairs"]["concept_style_percent"]
    return next((style for style in styles if _percent("style", concept.label, style) < limit), None)


def is_heldout_colour(label: str, colour: str) -> bool:
    """Whether the concept is never seen on this background (white is never held out)."""
    return colour != "white" and _percent("colour", label, colour) < holdout()["pairs"]["concept_colour_percent"]


def match_concepts(emojibase: Path, icon_names: dict[str, list[str]]) -> list[Concept]:
    """Concepts of emojibase (no flags, components, skin tones, gender variants) with their icons per style.

    Styles name icons after the CLDR label; FxEmoji has names of its own, so shortcodes are tried for it too.
    """
    entries = json.loads((emojibase / "en/data.json").read_text())
    messages = json.loads((emojibase / "en/messages.json").read_text())
    groups = {entry["order"]: entry["key"] for entry in messages["groups"]}
    subgroups = {entry["order"]: entry["key"] for entry in messages["subgroups"]}
    shortcodes = _shortcodes(emojibase)
    lookup = {style: {_plain(name): name for name in names} for style, names in icon_names.items()}
    for style, prefixes in holdout()["families"]["icon_prefixes"].items():
        lookup[style] = {key: name for key, name in lookup[style].items() if not name.startswith(tuple(prefixes))}
    concepts = []
    for entry in entries:
        if "group" not in entry or "gender" in entry or groups[entry["group"]] in ("flags", "component"):
            continue
        label = entry["label"].lower()
        icons = {}
        for style, names in lookup.items():
            keys = [_plain(label)] + (shortcodes.get(entry["hexcode"], []) if style == "fxemoji" else [])
            found = next((names[key] for key in keys if key in names), None)
            if found is not None:
                icons[style] = found
        concepts.append(Concept(label, groups[entry["group"]], subgroups[entry["subgroup"]], icons))
    return concepts


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _shortcodes(emojibase: Path) -> dict[str, list[str]]:
    """hexcode -> plain shortcodes of every vendor list that emojibase carries."""
    found: dict[str, list[str]] = {}
    for vendor in ("emojibase", "github", "iamcal", "joypixels"):
        path = emojibase / f"en/shortcodes/{vendor}.json"
        for hexcode, codes in json.loads(path.read_text()).items():
            found.setdefault(hexcode, []).extend(
                _plain(code) for code in ([codes] if isinstance(codes, str) else codes)
            )
    return found
