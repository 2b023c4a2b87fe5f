"""Sprites of the game Battle for Wesnoth (GPL-2+): poses of a unit, all units, terrains, team colours."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

from intaglio.errors import UserError

POSES = 12
"""Poses of a subject: five to learn, the others held out."""
TRAIN = 5
_NOT_A_POSE = re.compile(r"(^|[-+])(die|dying|death|female|n|ne|nw|s|sw|fire|halo)(-|\d|$)")
HEXAGON_PIXELS = 72
_INSIDE = 0.93
_AREA = (0.75, 1.35)  # of the unit's own; outside it lies a blow with a flash, or a fall
_CORE = "usr/share/games/wesnoth/1.16/data/core"
RGB = tuple[int, int, int]


def core_of(package: Path) -> Path:
    """The folder of the game's core data inside the unpacked Debian package."""
    core = package / _CORE
    if not core.is_dir():
        raise UserError(f"{package}: no {_CORE} in it; expected the Debian package wesnoth-1.16-data, unpacked")
    return core


def poses(core: Path, image: str) -> tuple[list[Image.Image], list[Image.Image]]:
    """Poses of the unit with the sprite `units/IMAGE.png`, RGBA: five to learn, up to seven held out.

    Of all frames that show the unit from the front and standing, the most different are taken, one after the other:
    the next is the one whose nearest taken frame is the farthest. The unit's own image comes first and is held out,
    so that it can stand in a gallery.
    """
    base = core / "images/units" / f"{image}.png"
    if not base.is_file():
        raise UserError(f"{base}: no such sprite; this is another version of Wesnoth than the benchmark was made for")
    stem = base.stem
    names = sorted(p for p in base.parent.glob(f"{stem}[-+]*.png") if not _NOT_A_POSE.search(p.stem[len(stem) :]))
    frames = [frame for frame in map(_on_hexagon, (base, *names)) if frame is not None]
    area = _area(frames[0])
    frames = [f for f in frames if _AREA[0] <= _area(f) / area <= _AREA[1]]
    order = farthest_first(np.stack([_premultiplied(f) for f in frames]), POSES)
    chosen = [frames[i] for i in order]
    learned = chosen[1 : 2 * TRAIN : 2]
    return learned, [f for f in chosen if not any(f is other for other in learned)]


def farthest_first(points: np.ndarray, count: int) -> list[int]:
    """Indices of up to `count` rows of (N, ...): row 0, then again and again the one farthest from all taken ones.

    Rows that equal a taken one are left out.
    """
    flat = points.reshape(len(points), -1).astype(np.float64)
    distance = np.square(flat - flat[0]).sum(axis=1)
    taken = [0]
    while len(taken) < min(count, len(flat)) and distance.max() > 0:
        taken.append(int(distance.argmax()))
        distance = np.minimum(distance, np.square(flat - flat[taken[-1]]).sum(axis=1))
    return taken


def units(core: Path) -> dict[str, Path]:
    """The sprite of every unit by its name, each sprite once."""
    found: dict[str, Path] = {}
    for path in sorted((core / "units").rglob("*.cfg")):
        text = path.read_text(encoding="utf-8", errors="replace")
        name = re.search(r"^\s*id=([A-Z][\w' -]+?)\s*$", text, re.M)
        image = re.search(r'^\s*image="?(units/[^"~\s]+\.png)', text, re.M)
        if name and image and (core / "images" / image[1]).is_file():
            sprite = core / "images" / image[1]
            if sprite not in found.values():
                found[name[1]] = sprite
    return found


def team_colours(core: Path) -> tuple[tuple[RGB, ...], dict[str, tuple[RGB, RGB, RGB]]]:
    """The palette that is replaced, and the ranges that replace it, from `team-colors.cfg`."""
    text = (core / "team-colors.cfg").read_text(encoding="utf-8")
    palette = re.search(r"^\s*magenta=([0-9A-F,]+)", text, re.M)
    assert palette is not None
    ranges = {}
    for name, levels in re.findall(r"\[color_range\]\s*id=(\w+)\s*rgb=([0-9A-F,]+)", text):
        average, highlight, shadow, _ = map(_rgb, levels.split(","))
        ranges[name] = (average, highlight, shadow)
    return tuple(map(_rgb, palette[1].split(","))), ranges


def terrain(core: Path, tile: str) -> Image.Image:
    """A texture: the game's hexagon of 72 x 72 laid out as on its maps, or the middle of a larger drawing."""
    path = core / "images/terrain" / tile
    if not path.is_file():
        raise UserError(f"{path}: no such tile; this is another version of Wesnoth than the benchmark was made for")
    with Image.open(path) as image:
        hexagon = image.convert("RGBA")
    side = HEXAGON_PIXELS
    if hexagon.size != (side, side):  # water and lava come as drawings of several hexagons
        left, top = (hexagon.width - side) // 2, (hexagon.height - side) // 2
        return hexagon.crop((left, top, left + side, top + side)).convert("RGB")
    whole = Image.new("RGBA", (3 * side, 3 * side))
    for column in range(-1, 6):
        for row in range(-1, 4):
            place = (column * side * 3 // 4, row * side + (side // 2 if column % 2 else 0))
            layer = Image.new("RGBA", whole.size)
            layer.paste(hexagon, place)
            whole = Image.alpha_composite(whole, layer)
    return whole.convert("RGB")


def _rgb(text: str) -> RGB:
    level = int(text, 16)
    return level >> 16, level >> 8 & 255, level & 255


def _on_hexagon(path: Path) -> Image.Image | None:
    """A sprite of any size centred on 72 x 72, as the game draws it; None when it reaches far beyond."""
    with Image.open(path) as image:
        frame = image.convert("RGBA")
    left, top = (frame.width - HEXAGON_PIXELS) // 2, (frame.height - HEXAGON_PIXELS) // 2
    cut = frame.crop((left, top, left + HEXAGON_PIXELS, top + HEXAGON_PIXELS))
    return cut if _area(cut) >= _INSIDE * _area(frame) else None


def _area(frame: Image.Image) -> int:
    return int((np.asarray(frame)[..., 3] > 127).sum())


def _premultiplied(frame: Image.Image) -> np.ndarray:
    rgba = np.asarray(frame, dtype=np.float32) / 255
    return rgba * rgba[..., 3:]
