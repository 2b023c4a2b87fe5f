"""A benchmark folder of five by five drawings, built as `study build` builds the real one, without a network."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from intaglio.study.tasks.plan import load_plan

MAGENTA = ((0xF4, 0x9A, 0xC1), (0x3F, 0x00, 0x16), (0xFD, 0xE9, 0xF1))
CORE = "usr/share/games/wesnoth/1.16/data/core"


def sprite(colour, pose, size=72):
    """A figure whose arm points in the direction of its pose, with a sash in the team's palette."""
    image = Image.new("RGBA", (size, size))
    draw = ImageDraw.Draw(image)
    middle = size // 2
    draw.ellipse((middle - 12, middle - 12, middle + 12, middle + 12), fill=(*colour, 255))
    end = (middle + 16 * np.cos(pose), middle + 16 * np.sin(pose))
    draw.line((middle, middle, *end), fill=(30, 30, 30, 255), width=4)
    draw.rectangle((middle - 8, middle - 3, middle + 8, middle + 3), fill=(*MAGENTA[0], 255))
    return image


def write_wesnoth(root):
    core = root / CORE
    for folder in ("images/units/elves", "images/units/orcs", "images/terrain/grass", "images/terrain/frozen", "units"):
        (core / folder).mkdir(parents=True)
    (core / "team-colors.cfg").write_text(
        "[color_range]\n    id=red\n    rgb=FF0000,FFFFFF,000000,FF0000\n[/color_range]\n"
        "[color_range]\n    id=blue\n    rgb=2E419B,FFFFFF,0F0F0F,0000FF\n[/color_range]\n"
        "[color_palette]\n    magenta=F49AC1,3F0016,FDE9F1\n[/color_palette]\n"
    )
    for folder, stem, unit, colour in (
        ("elves", "archer", "Elf", (40, 120, 60)),
        ("orcs", "grunt", "Orc", (90, 60, 30)),
    ):
        images = core / "images/units" / folder
        sprite(colour, 0).save(images / f"{stem}.png")
        for number in range(1, 14):
            sprite(colour, number / 2, 72 if number % 2 else 100).save(images / f"{stem}-melee-{number}.png")
        sprite(colour, 1).save(images / f"{stem}-die-1.png")
        Image.new("RGBA", (72, 72), (255, 255, 0, 255)).save(images / f"{stem}-flash.png")
        (core / "units" / f"{unit}.cfg").write_text(
            f'[unit_type]\n    id={unit}\n    image="units/{folder}/{stem}.png"\n'
        )
    Image.new("RGBA", (72, 72), (30, 140, 40, 255)).save(core / "images/terrain/grass/green.png")
    Image.new("RGBA", (342, 180), (240, 240, 250, 255)).save(core / "images/terrain/frozen/snow.png")


def write_emoji(cache, plan):
    labels = [*plan.families.train, *plan.families.heldout, *(f"thing {word}" for word in "abcdefgh")]
    base = cache / plan.packages["emojibase"] / "package/en"
    (base / "shortcodes").mkdir(parents=True)
    entries = [{"label": n, "hexcode": str(i), "group": int("thing" in n)} for i, n in enumerate(labels)]
    (base / "data.json").write_text(json.dumps(entries))
    groups = [{"order": 0, "key": "smileys-emotion"}, {"order": 1, "key": "objects"}]
    (base / "messages.json").write_text(json.dumps({"groups": groups}))
    for vendor in ("emojibase", "github", "iamcal", "joypixels"):
        (base / f"shortcodes/{vendor}.json").write_text("{}")
    for package in plan.styles.values():
        folder = cache / package.lstrip("@").replace("/", "_") / "package"
        folder.mkdir(parents=True)
        icons = {
            n.replace(" ", "-"): {"body": f'<circle cx="16" cy="16" r="{6 + i % 9}" fill="hsl({40 * i},80%,50%)"/>'}
            for i, n in enumerate(labels)
        }
        (folder / "icons.json").write_text(json.dumps({"icons": icons, "width": 32, "height": 32}))
    for folder in (p.parent for p in cache.rglob("package")):
        (folder / "fetched.txt").write_text("a fixture")


@pytest.fixture(scope="session")
def small_plan():
    """The real plan, cut down to what the fixture draws."""
    plan = load_plan().model_dump()
    plan["styles"] = {name: plan["styles"][name] for name in ("openmoji", "noto")}
    archer = {"unit": "Elf", "image": "elves/archer", "noun": "archer"}
    orc = {"unit": "Orc", "image": "orcs/grunt", "noun": "orc", "tuning": True}
    plan |= {
        "subjects": [archer, orc],
        "groups": [{"name": "both", "tasks": ["elf", "orc"]}, {"name": "cats", "tasks": ["openmoji-cat", "noto-cat"]}],
    }
    plan["families"] |= {"styles": ["openmoji"], "tuning_styles": ["noto"]}
    plan["style_tasks"] |= {"styles": ["openmoji"], "tuning_styles": [], "train": 3, "test": 4}
    plan["style_tasks"]["groups"] = ["objects"]
    plan["objects"] |= {"views": 4, "models": {"ball": "soccerball.urdf"}}
    plan["prompts"] |= {
        "team_colours": ["red", "blue"],
        "colours": ["white", "red", "blue"],
        "style_colours": ["white"],
    }
    plan["terrains"] = {"grass": "grass/green.png", "snow": "frozen/snow.png"}
    return type(load_plan()).model_validate(plan)


@pytest.fixture(scope="session")
def bench(tmp_path_factory, small_plan):
    """The manifest of a small benchmark folder: subjects, a group, families and a style."""
    from intaglio.study.tasks.build import build_benchmark

    cache, out = tmp_path_factory.mktemp("packages"), tmp_path_factory.mktemp("bench")
    write_emoji(cache, small_plan)
    write_wesnoth(cache / small_plan.packages["wesnoth"])
    (cache / small_plan.packages["wesnoth"] / "fetched.txt").write_text("a fixture")
    colours = {"white": (255, 255, 255), "red": (214, 48, 49), "blue": (50, 100, 220)}
    return build_benchmark(small_plan, out, cache, colours, ("subjects", "families", "styles"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    from tiny_pipelines import make_pipeline

    folder = tmp_path_factory.mktemp("model") / "sd"
    make_pipeline("sd").save_pretrained(folder)
    return folder
