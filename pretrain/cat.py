"""Render the sample subject of the demo: the cat faces of Noto, split by the rule in `holdout.toml`.

python -m pretrain.cat        # writes src/intaglio/assets/cat/{train,heldout}/*.png
"""

import json
from pathlib import Path

from PIL import Image

from pretrain.captions import ASSETS
from pretrain.concepts import holdout
from pretrain.data import fetch, render

SIZE_PX, DRAWING_PX = 256, 224


def main() -> None:
    rule = holdout()["cat"]
    package = holdout()["styles"]["train"][rule["style"]]
    folder = fetch([package], Path("out/pretrain/npm"))[package]
    icons = json.loads((folder / "icons.json").read_text())
    for split in ("train", "heldout"):
        target = ASSETS / "cat" / split
        target.mkdir(parents=True, exist_ok=True)
        for label in rule[split]:
            name = label.replace(" ", "-")
            canvas = Image.new("RGBA", (SIZE_PX, SIZE_PX), "white")
            canvas.alpha_composite(Image.fromarray(render(icons, name, DRAWING_PX, SIZE_PX)))
            canvas.convert("RGB").save(target / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
