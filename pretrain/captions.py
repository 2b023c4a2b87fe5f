"""Captions with concept, style and background colour, and the parts that are dropped sometimes."""

import random
import tomllib
from functools import cache
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / "src/intaglio/assets"

# (weight, template). {style} and {colour} appear only where the picture is bound to them;
# a template without {colour} is always trained on white, one without {style} on any style.
TEMPLATES = (
    (12, "a {style} emoji of {concept} on a {colour} background"),
    (4, "{concept} on a {colour} background, {style} style"),
    (1, "{concept} on a {colour} background"),
    (1, "a photo of {concept} on a {colour} background"),
    (2, "a {style} emoji of {concept}"),
    (1, "a photo of {concept}"),
    (1, "a picture of {category} on a {colour} background"),
)


@cache
def backgrounds() -> dict[str, tuple[int, int, int]]:
    """Background colour names with their sRGB values."""
    table = tomllib.loads((ASSETS / "colours.toml").read_text())["backgrounds"]
    return {name: (rgb[0], rgb[1], rgb[2]) for name, rgb in table.items()}


def with_article(label: str) -> str:
    """'red apple' -> 'a red apple', 'octopus' -> 'an octopus', 'grapes' -> 'grapes'."""
    if label.endswith("s") and not label.endswith(("us", "ss")):
        return label
    return f"{'an' if label[0] in 'aeiou' else 'a'} {label}"


def caption(template: str, label: str, category: str, style: str, colour: str) -> str:
    return template.format(
        style=style, concept=with_article(label), category=with_article(category), colour=colour
    ).replace("a orange", "an orange")


def draw_template(rng: random.Random) -> str:
    """A template with the probability of its weight."""
    return rng.choices([text for _, text in TEMPLATES], [weight for weight, _ in TEMPLATES])[0]


def every_caption(drawings: list[tuple[str, str, str]], allowed_colours: dict[str, list[str]]) -> list[str]:
    """All captions that can occur, for the tokenizer and the tests; drawings are (label, category, style)."""
    lines = {
        caption(template, label, category, style, colour)
        for label, category, style in drawings
        for colour in allowed_colours[label]
        for _, template in TEMPLATES
    }
    return sorted(lines)
