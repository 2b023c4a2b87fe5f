"""Look at the base model: contact sheet, loss curve, share of right backgrounds. Writes beside the model card.

python -m pretrain.sample --base src/intaglio/assets/base
"""

import argparse
import csv
import json
import random
from pathlib import Path

import matplotlib
import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image, ImageDraw

from pretrain.base import BASE
from pretrain.captions import backgrounds, with_article
from pretrain.concepts import holdout, is_heldout_colour
from pretrain.data import PACK, Pack, allowed_colours, load_pack
from pretrain.runtime import pick_device
from pretrain.train_vae import heldout_pictures, psnr

matplotlib.use("Agg")
LOGS = Path(__file__).with_name("logs")
BORDER_PX = 3


def background_of(picture: np.ndarray) -> str:
    """The named background nearest to the median colour of the border of a (H, W, 3) uint8 picture."""
    inner = np.zeros(picture.shape[:2], dtype=bool)
    inner[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = True
    colour = np.median(picture[~inner], axis=0)
    return min(backgrounds(), key=lambda name: float(np.square(colour - np.array(backgrounds()[name])).sum()))


def full_prompt(label: str, style: str, colour: str) -> str:
    return f"a {style} emoji of {with_article(label)} on {'an' if colour == 'orange' else 'a'} {colour} background"


def prompts_of(pack: Pack, kind: str, count: int, seed: int = 0) -> list[tuple[str, str, str]]:
    """`count` random (label, style, colour): "seen", or held out by "colour" or by "style"."""
    rng = random.Random(seed)
    roles = {"seen": "train", "colour": "train", "style": "heldout_style"}
    rows = [row for row in pack.rows if row["role"] == roles[kind]]
    found = []
    while len(found) < count:
        row = rng.choice(rows)
        heldout = [name for name in backgrounds() if is_heldout_colour(row["label"], name)]
        colours = heldout if kind == "colour" else allowed_colours(row["label"])
        if colours:
            found.append((row["label"], row["style"], rng.choice(colours)))
    return found


def generate(pipe: StableDiffusionPipeline, prompts: list[str], steps: int, guidance: float) -> list[Image.Image]:
    """One picture a prompt; picture i of a given prompt list is reproducible on the CPU."""
    images = []
    for start in range(0, len(prompts), 32):
        part = prompts[start : start + 32]
        generators = [torch.Generator().manual_seed(start + index) for index in range(len(part))]
        result = pipe(part, num_inference_steps=steps, guidance_scale=guidance, generator=generators)
        images += result.images  # pyright: ignore[reportAttributeAccessIssue]
    return images


def true_picture(pack: Pack, label: str, style: str, colour: str) -> Image.Image:
    index = next(i for i, row in enumerate(pack.rows) if row["label"] == label and row["style"] == style)
    canvas = Image.new("RGBA", pack.rgba.shape[2:0:-1], (*backgrounds()[colour], 255))
    canvas.alpha_composite(Image.fromarray(pack.rgba[index]))
    return canvas.convert("RGB")


def contact_sheet(sections: list[tuple[str, list[tuple[Image.Image, Image.Image, str]]]], path: Path) -> None:
    """Sections of (truth, generated, text), eight pairs in a row: the true drawing small, the generated one large."""
    columns, cell, text_px = 8, 132, 26
    heights = [24 + -(-len(items) // columns) * (cell + text_px - 26) + 14 * 2 for _, items in sections]
    sheet = Image.new("RGB", (columns * cell + 8, sum(heights) + 40), "white")
    draw, top = ImageDraw.Draw(sheet), 4
    for title, items in sections:
        draw.text((6, top), title, fill="black")
        top += 16
        for index, (truth, generated, text) in enumerate(items):
            x, y = 4 + index % columns * cell, top + index // columns * (cell - 20)
            sheet.paste(generated.resize((96, 96), Image.Resampling.BICUBIC), (x, y))
            sheet.paste(truth.resize((32, 32), Image.Resampling.BICUBIC), (x + 97, y))
            draw.text((x, y + 96), text[:24], fill="black")
        top += -(-len(items) // columns) * (cell - 20) + 8
    sheet.crop((0, 0, sheet.width, top)).quantize(128).save(path, optimize=True)


def loss_curve(path: Path) -> None:
    """Loss over samples seen, from the committed logs."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3))
    for axis, name, keys in ((axes[0], "vae", ["heldout_psnr_db"]), (axes[1], "unet", ["loss", "heldout_loss"])):
        with (LOGS / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        for key in keys:
            axis.plot([int(row["samples"]) for row in rows], [float(row[key]) for row in rows], label=key)
        axis.set(title={"vae": "autoencoder", "unet": "text encoder and U-Net"}[name], xlabel="samples seen")
        axis.legend()
        axis.grid(alpha=0.3)
    axes[1].set_yscale("log")
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=BASE)
    parser.add_argument("--out", type=Path, help="folder for the pictures (default: --base)")
    parser.add_argument("--data", type=Path, default=PACK)
    parser.add_argument("--count", type=int, default=64, help="pictures a kind of prompt for the colour share")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=3.0)
    arguments = parser.parse_args()
    out = arguments.out or arguments.base
    out.mkdir(parents=True, exist_ok=True)
    pack = load_pack(arguments.data)
    pipe = StableDiffusionPipeline.from_pretrained(arguments.base, torch_dtype=torch.float32).to(pick_device())
    pipe.set_progress_bar_config(disable=True)
    titles = {
        "seen": "seen in training (small: the true drawing)",
        "colour": "held out: this concept was never seen on this background",
        "style": "held out: this concept was never seen in this style",
    }
    sections, scores = (
        [],
        {"pictures_a_kind": arguments.count, "steps": arguments.steps, "guidance_scale": arguments.guidance},
    )
    for kind, title in titles.items():
        wanted = prompts_of(pack, kind, arguments.count)
        images = generate(pipe, [full_prompt(*item) for item in wanted], arguments.steps, arguments.guidance)
        right = [background_of(np.asarray(image)) == item[2] for image, item in zip(images, wanted, strict=True)]
        scores[f"colour_{kind}"] = round(sum(right) / len(right), 3)
        shown = list(zip(wanted, images, strict=True))[:24]
        sections.append((title, [(true_picture(pack, *item), image, f"{item[1]} {item[0]}") for item, image in shown]))
    families = [f"a photo of {with_article(word)} on a blue background" for word in holdout()["families"]["words"]]
    families += ["a noto emoji of a cat face", "a photo of an animal on a green background", "", "a red apple"]
    white = Image.new("RGB", (64, 64), "white")
    made = generate(pipe, families, arguments.steps, arguments.guidance)
    sections.append(
        (
            "never seen words, class words, empty prompt",
            [(white, image, text[:24]) for text, image in zip(families, made, strict=True)],
        )
    )
    contact_sheet(sections, out / "samples.png")
    if (LOGS / "vae.csv").exists() and (LOGS / "unet.csv").exists():
        loss_curve(out / "loss.png")
    vae: AutoencoderKL = pipe.vae
    scores["vae_heldout_psnr_db"] = round(psnr(vae, heldout_pictures(pack, vae.device)), 2)
    (out / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    print(json.dumps(scores, indent=2))


if __name__ == "__main__":
    main()
