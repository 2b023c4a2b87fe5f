"""Build the benchmark folder from packages: `intaglio study build`. The manifest comes last."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from intaglio.errors import UserError
from intaglio.study.tasks import emoji, wesnoth
from intaglio.study.tasks.compose import compose, recolour
from intaglio.study.tasks.fetch import Packages
from intaglio.study.tasks.manifest import RGB, Kind, Manifest, Prompt, Task
from intaglio.study.tasks.objects import render_views
from intaglio.study.tasks.plan import Group, Plan, slug

WHITE: RGB = (255, 255, 255)
GALLERY_SIZE = 100
"""Drawings of a style among which an emoji is looked up."""
Parts = Sequence[str]
Say = Callable[[str], None]


def build_benchmark(
    plan: Plan, out: Path, cache: Path, colours: dict[str, RGB], parts: Parts, say: Say = lambda _: None
) -> Manifest:
    """Fetch, draw and write the parts of `plan` that are asked for.

    Args:
        plan: what to build.
        out: the benchmark's folder.
        cache: where packages are unpacked; what is there is not fetched again.
        colours: sRGB of the colour names in prompts.
        parts: any of `PARTS`; the manifest lists these and no others.
        say: told what is being done.

    Raises:
        UserError: a package manager or a renderer is missing, or a package is not what it was.
    """
    builder = _Builder(
        plan, out, Packages(cache, plan.sha256), {name: colours[name] for name in plan.prompts.colours}, say
    )
    for part in parts:
        getattr(builder, part)()
    builder.groups()
    manifest = builder.manifest()
    manifest.save()
    return manifest


PARTS = ("subjects", "families", "objects", "styles")


class _Builder:
    def __init__(self, plan: Plan, out: Path, packages: Packages, colours: dict[str, RGB], say: Say):
        self.plan, self.out, self.packages, self.colours, self.say = plan, out, packages, colours, say
        self.backgrounds: dict[str, RGB | Path] = dict(colours)
        self.palette: tuple[RGB, ...] = ()
        self.team_colours: dict[str, tuple[RGB, RGB, RGB]] = {}
        self.galleries: dict[str, dict[str, Path]] = {}
        self.tasks: list[Task] = []
        self._styles: dict[str, emoji.Style] = {}
        self._concepts: list[emoji.Concept] = []

    def manifest(self) -> Manifest:
        return Manifest(
            folder=self.out,
            sources=self.packages.sources,
            backgrounds=self.backgrounds,
            palette=self.palette,
            team_colours=self.team_colours,
            galleries=self.galleries,
            unrelated=self.plan.prompts.unrelated,
            tasks=tuple(self.tasks),
        )

    def subjects(self) -> None:
        """Units of Wesnoth, one a task."""
        self.say("fetching the sprites of Wesnoth (146 MB)")
        core = wesnoth.core_of(self.packages.debian(self.plan.packages["wesnoth"]))
        self.palette, ranges = wesnoth.team_colours(core)
        self.team_colours = {name: ranges[name] for name in self.plan.prompts.team_colours}
        for name, tile in self.plan.terrains.items():
            self.backgrounds[name] = self._save(wesnoth.terrain(core, tile), f"terrain/{slug(name)}.png")
        self.galleries["wesnoth"] = {
            slug(unit): self._save(_open(path), f"gallery/wesnoth/{slug(unit)}.png")
            for unit, path in wesnoth.units(core).items()
        }
        learned, heldout = {}, {}
        for subject in self.plan.subjects:
            self.say(f"subject: {subject.unit}")
            train, test = wesnoth.poses(core, subject.image)
            learned[subject.key] = self._cutouts(train, subject.key, "learned")
            heldout[subject.key] = self._cutouts(test, subject.key, "heldout")
            noun, token = subject.noun, self.plan.prompts.token
            prompts = {
                "colour": self._colour_prompts(subject.key, token, noun, "red"),
                "terrain": self._terrain_prompts(subject.key, token, noun),
            }
            self._photo_task(subject.key, "subject", "wesnoth", learned, heldout, prompts, noun, subject.tuning)

    def groups(self) -> None:
        """Several subjects at once: the groups whose subjects were all built."""
        built = {task.name: task for task in self.tasks}
        for group in self.plan.groups:
            if built.keys() >= set(group.tasks):
                self._group_task(group, [built[name] for name in group.tasks])

    def families(self) -> None:
        """The cat faces of an emoji style."""
        families = self.plan.families
        for style in (*families.styles, *families.tuning_styles):
            key = f"{style}-cat"
            self.say(f"family: {key}")
            drawn = {c.label: c.icons[style] for c in self._emoji(style) if style in c.icons}
            if missing := [n for n in (*families.train, *families.heldout) if n not in drawn]:
                raise UserError(f"{self.plan.styles[style]} draws no {', '.join(missing)}; expected all nine cat faces")
            draw = self._styles[style].draw
            learned = {key: self._cutouts([draw(drawn[n]) for n in families.train], key, "learned")}
            heldout = {key: self._cutouts([draw(drawn[n]) for n in families.heldout], key, "heldout")}
            others = [n for n in drawn if "cat" not in n.split() and n not in families.train + families.heldout]
            self.galleries[key] = self._style_gallery(style, others[:: max(1, len(others) // GALLERY_SIZE)])
            self.galleries[key][key] = heldout[key][0]
            prompts = {"colour": self._colour_prompts(key, self.plan.prompts.token, families.noun, None)}
            tuning = style in families.tuning_styles
            self._photo_task(key, "family", style, learned, heldout, prompts, families.noun, tuning)

    def objects(self) -> None:
        """Objects from all around: every second view is held out."""
        plan = self.plan.objects
        self.packages.sources[self.plan.packages["pybullet"]] = "installed"
        learned, heldout, gallery = {}, {}, {}
        for noun, urdf in plan.models.items():
            key = f"object-{slug(noun)}"
            self.say(f"object: {noun}")
            views = render_views(urdf, plan.views, plan.elevation_deg)
            learned[key] = self._cutouts(views[::2], key, "learned")
            heldout[key] = self._cutouts(views[1::2], key, "heldout")
            gallery[key] = heldout[key][0]
        self.galleries["objects"] = gallery
        for noun in plan.models:
            key = f"object-{slug(noun)}"
            prompts = {"colour": self._colour_prompts(key, self.plan.prompts.token, noun, None)}
            self._photo_task(key, "object", "pybullet", learned, heldout, prompts, noun, noun in plan.tuning)

    def styles(self) -> None:
        """Styles: some concepts to learn the style from, others to draw in it."""
        plan = self.plan.style_tasks
        for style in (*plan.styles, *plan.tuning_styles):
            self.say(f"style: {style}")
            usable = [c for c in self._emoji(style) if style in c.icons and c.group in plan.groups]
            usable = [c for c in usable if not {"cat", "monkey"} & set(c.label.split())]
            stride = len(usable) // (plan.train + plan.test)
            chosen = usable[:: max(1, stride)][: plan.train + plan.test]
            self._style_task(style, chosen[: plan.train * 2 : 2], chosen)

    def _style_task(self, style: str, train: list[emoji.Concept], chosen: list[emoji.Concept]) -> None:
        key, draw = f"style-{style}", self._styles[style].draw
        test = [c for c in chosen if c not in train]
        token, template = self.plan.prompts.token, self.plan.prompts.style

        def text(concept: emoji.Concept, background: str) -> str:
            filled = template.format(token=token, concept=concept.phrase, background=background)
            return filled.replace(" a orange", " an orange")

        names = self.plan.prompts.style_colours
        cutouts = self._cutouts([draw(c.icons[style]) for c in train], key, "learned")
        captions = [text(c, "white") for c in train]
        references = {c.label: self._cutouts([draw(c.icons[style])], key, f"heldout/{slug(c.label)}") for c in test}
        prompts = tuple(
            Prompt(text=text(c, names[i % len(names)]), reference=c.label, background=names[i % len(names)])
            for i, c in enumerate(test)
        )
        self.galleries[key] = {label: files[0] for label, files in references.items()}
        self.tasks.append(
            Task(
                name=key,
                kind="style",
                tuning=style in self.plan.style_tasks.tuning_styles,
                licence=self.plan.licences[style],
                train=self._photos(key, cutouts, captions, None),
                learned={c.label: (cutouts[i],) for i, c in enumerate(train)},
                references=references,
                gallery=key,
                style=style,
                prompts={"style": prompts},
            )
        )

    def _photo_task(
        self,
        key: str,
        kind: Kind,
        source: str,
        learned: dict[str, tuple[Path, ...]],
        heldout: dict[str, tuple[Path, ...]],
        prompts: dict[str, tuple[Prompt, ...]],
        noun: str,
        tuning: bool,
    ) -> None:
        """A task of one subject, whose photos lie on white under one prompt."""
        team = "red" if kind == "subject" else None
        if team:
            self.galleries["wesnoth"][key] = heldout[key][0]
        instance = self.plan.prompts.colour.format(token=self.plan.prompts.token, noun=noun, background="white")
        self.tasks.append(
            Task(
                name=key,
                kind=kind,
                tuning=tuning,
                licence=self.plan.licences[source],
                train=self._photos(key, learned[key], None, team),
                instance_prompt=instance,
                learned={key: learned[key]},
                references={key: heldout[key]},
                gallery={"subject": "wesnoth", "object": "objects"}.get(kind, key),
                team_colour=team,
                prompts=prompts,
            )
        )

    def _group_task(self, group: Group, members: list[Task]) -> None:
        """Several subjects in one folder, each caption with the identifier of its own."""
        self.say(f"group: {group.name}")
        prompts: list[Prompt] = []
        captions: list[str] = []
        learned, references, gallery = {}, {}, {}
        for token, task in zip(self.plan.prompts.tokens, members, strict=False):
            own = self.plan.prompts.token
            prompts += [p.model_copy(update={"text": p.text.replace(own, token)}) for p in task.prompts["colour"]]
            learned |= task.learned
            references |= task.references
            captions += [str(task.instance_prompt).replace(own, token)] * sum(map(len, task.learned.values()))
            gallery |= self.galleries[str(task.gallery)]
        self.galleries[group.name] = gallery
        teams = {task.team_colour for task in members}
        team = teams.pop() if len(teams) == 1 else None
        cutouts = tuple(cutout for files in learned.values() for cutout in files)
        self.tasks.append(
            Task(
                name=group.name,
                kind="multi",
                tuning=group.tuning,
                licence=", ".join(dict.fromkeys(task.licence for task in members)),
                train=self._photos(group.name, cutouts, captions, team),
                learned=learned,
                references=references,
                gallery=group.name,
                team_colour=team,
                prompts={"colour": tuple(prompts)},
            )
        )

    def _colour_prompts(self, reference: str, token: str, noun: str, team: str | None) -> tuple[Prompt, ...]:
        template = self.plan.prompts.colour
        return tuple(
            Prompt(
                text=template.format(token=token, noun=noun, background=name).replace(" a orange", " an orange"),
                reference=reference,
                background=name,
                team_colour=team,
            )
            for name in self.colours
        )

    def _terrain_prompts(self, reference: str, token: str, noun: str) -> tuple[Prompt, ...]:
        """Two team colours on each terrain; over all terrains, each team colour three times."""
        teams = self.plan.prompts.team_colours
        prompts = []
        for number, terrain in enumerate(self.plan.terrains):
            for team in (teams[number % len(teams)], teams[(number + len(teams) // 2) % len(teams)]):
                text = self.plan.prompts.terrain.format(token=token, noun=noun, team=team, background=terrain)
                prompts.append(Prompt(text=text, reference=reference, background=terrain, team_colour=team))
        return tuple(prompts)

    def _photos(self, key: str, cutouts: tuple[Path, ...], captions: Sequence[str] | None, team: str | None) -> Path:
        """The training folder: cut-outs on white, captions beside them where they differ."""
        folder = Path("train") / key
        for number, path in enumerate(cutouts):
            cutout = _open(self.out / path)
            if team is not None:
                cutout = recolour(cutout, self.palette, self.team_colours[team])
            self._save(compose(cutout, WHITE, max(cutout.size)), f"{folder}/{number:02}.png")
        if captions is not None:
            lines = [json.dumps({"file_name": f"{i:02}.png", "text": text}) for i, text in enumerate(captions)]
            (self.out / folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return folder

    def _cutouts(self, images: list[Image.Image], key: str, part: str) -> tuple[Path, ...]:
        return tuple(self._save(p, f"cutouts/{key}/{part}/{number:02}.png") for number, p in enumerate(images))

    def _style_gallery(self, style: str, labels: list[str]) -> dict[str, Path]:
        icons = {c.label: c.icons[style] for c in self._concepts if style in c.icons}
        draw = self._styles[style].draw
        return {n: self._save(draw(icons[n]), f"gallery/{style}/{slug(n)}.png") for n in labels}

    def _emoji(self, style: str) -> list[emoji.Concept]:
        """All concepts; the collection of `style` is loaded."""
        if style not in self._styles:
            self._styles[style] = emoji.Style(self.packages.npm(self.plan.styles[style]))
            emojibase = self.packages.npm(self.plan.packages["emojibase"])
            self._concepts = emoji.match(emojibase, self._styles)
        return self._concepts

    def _save(self, image: Image.Image, name: str) -> Path:
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        return Path(name)


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGBA")
