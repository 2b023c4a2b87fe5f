"""Fetch the open art by package name, render it, pack it into one file; load the file again.

`python -m pretrain.data` writes `out/pretrain/emoji.npz` (under 28 MB), all that the training scripts read,
so that it can travel to a machine without a network.
"""

import argparse
import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

from pretrain.captions import backgrounds
from pretrain.concepts import (
    Concept,
    heldout_style,
    holdout,
    is_caption_concept,
    is_heldout_colour,
    is_heldout_family,
    match_concepts,
)

SIZE_PX = 64
DRAWING_PX = 56  # a margin of 4 pixels keeps the background visible, and checkable, on every side
PACK = Path("out/pretrain/emoji.npz")
MAX_PACK_BYTES = 28 * 10**6


@dataclass(frozen=True)
class Pack:
    """Rendered drawings with what captions need. Row i of `rgba` (N, 64, 64, 4) uint8 is described by `rows[i]`."""

    rgba: np.ndarray
    rows: list[dict]  # label, category, style, role: "train" (captioned), "heldout_style" or "vae" (no caption)

    def captioned(self) -> list[int]:
        return [index for index, row in enumerate(self.rows) if row["role"] == "train"]

    def autoencoded(self) -> list[int]:
        return [index for index, row in enumerate(self.rows) if row["role"] in ("train", "vae")]

    def drawings(self) -> list[tuple[str, str, str]]:
        return [(row["label"], row["category"], row["style"]) for row in self.rows if row["role"] == "train"]


def allowed_colours(label: str) -> list[str]:
    """The backgrounds on which the concept is trained."""
    return [colour for colour in backgrounds() if not is_heldout_colour(label, colour)]


def load_pack(path: Path = PACK) -> Pack:
    if not path.exists():
        raise SystemExit(f"{path} is missing. Build it with: python -m pretrain.data --out {path}")
    with np.load(path) as arrays:
        return Pack(arrays["rgba"], json.loads(bytes(arrays["rows"]).decode()))


def save_pack(pack: Pack, path: Path) -> int:
    """Write the pack and return its size in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.frombuffer(json.dumps(pack.rows).encode(), dtype=np.uint8)
    with path.open("wb") as file:
        np.savez_compressed(file, rgba=pack.rgba, rows=rows)
    return path.stat().st_size


def fetch(packages: list[str], folder: Path) -> dict[str, Path]:
    """Download npm packages with `npm pack` and unpack them; returns package name -> folder."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for package in packages:
        target = folder / package.replace("/", "_").lstrip("@")
        if not target.exists():
            try:
                done = subprocess.run(
                    ["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True, text=True
                )
            except FileNotFoundError:
                raise SystemExit("npm is missing: the art comes from npm packages. Install Node.js (npm).") from None
            except subprocess.CalledProcessError as error:
                raise SystemExit(f"npm could not fetch {package}:\n{error.stderr}") from None
            with tarfile.open(folder / done.stdout.split()[-1]) as archive:
                archive.extractall(target, filter="data")
        found[package] = target / "package"
    return found


def render(icons: dict, name: str, drawing_px: int, canvas_px: int) -> np.ndarray:
    """One icon of an iconify collection, centred on a transparent canvas: (canvas_px, canvas_px, 4) uint8."""
    alias = icons.get("aliases", {}).get(name)
    icon = icons["icons"][alias["parent"] if alias else name]
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    view = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{view}" width="{drawing_px}" height="{drawing_px}">{icon["body"]}</svg>'
    )
    picture = Image.open(io.BytesIO(resvg_py.svg_to_bytes(svg_string=svg, width=drawing_px, skip_system_fonts=True)))
    canvas = Image.new("RGBA", (canvas_px, canvas_px))
    canvas.paste(picture.convert("RGBA"), ((canvas_px - picture.width) // 2, (canvas_px - picture.height) // 2))
    return np.asarray(canvas)


def _role(concept: Concept, style: str) -> str:
    if not is_caption_concept(concept):
        return "vae"
    return "heldout_style" if heldout_style(concept) == style else "train"


def build(folder: Path) -> Pack:
    """Fetch and render everything that the rules of `concepts` allow."""
    styles: dict[str, str] = holdout()["styles"]["train"]
    folders = fetch(["emojibase-data", *styles.values()], folder)
    icons = {style: json.loads((folders[package] / "icons.json").read_text()) for style, package in styles.items()}
    names = {style: [*table["icons"], *table.get("aliases", {})] for style, table in icons.items()}
    images, rows, seen = [], [], set()
    for concept in match_concepts(folders["emojibase-data"], names):
        if is_heldout_family(concept.label, concept.subgroup):
            continue
        for style, name in concept.icons.items():
            if (style, name) in seen:  # two concepts share a drawing: the first keeps it
                continue
            seen.add((style, name))
            images.append(render(icons[style], name, DRAWING_PX, SIZE_PX))
            role = _role(concept, style)
            rows.append({"label": concept.label, "category": concept.category, "style": style, "role": role})
    return Pack(np.stack(images), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PACK)
    parser.add_argument("--cache", type=Path, default=Path("out/pretrain/npm"), help="where npm packages are unpacked")
    arguments = parser.parse_args()
    pack = build(arguments.cache)
    size_bytes = save_pack(pack, arguments.out)
    if size_bytes > MAX_PACK_BYTES:
        raise SystemExit(
            f"{arguments.out} has {size_bytes} bytes, over the limit of {MAX_PACK_BYTES}: narrow the concepts."
        )
    captioned = {pack.rows[index]["label"] for index in pack.captioned()}
    print(
        f"{arguments.out}: {len(pack.rows)} drawings, {len(pack.captioned())} captioned, "
        f"{len(captioned)} concepts, {size_bytes / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    main()
