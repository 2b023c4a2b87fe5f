"""The DreamBooth set (github.com/google/dreambooth, folder `dataset`) as tasks: 30 subjects with 25 prompts each."""

from __future__ import annotations

import re
from pathlib import Path

from intaglio.data.images import SUFFIXES
from intaglio.errors import Problems, UserError
from intaglio.study.tasks.manifest import Manifest, Prompt, Task

PROMPTS_FILE = "prompts_and_classes.txt"
TOKEN = "sks"
LIVE = ("cat", "dog")
"""Classes that take the prompts for live subjects (Ruiz et al. 2023, supplement)."""


def read_dreambooth(folder: Path) -> Manifest:
    """One task a subject. The photos to learn are also the references: that is how DINO-I and CLIP-I are published.

    Raises:
        UserError: the prompts file is not that of the set.
        Problems: subjects without photos.
    """
    classes, prompts = _read_prompts(folder / PROMPTS_FILE)
    tasks, problems = [], []
    for subject, noun in classes.items():
        photos = tuple(sorted(p.relative_to(folder) for p in (folder / subject).glob("*") if p.suffix in SUFFIXES))
        if not photos:
            problems.append(f"{subject}: no photos in {folder / subject}")
            continue
        texts = prompts["live" if noun in LIVE else "object"]
        filled = [text.format(TOKEN, noun) for text in texts]
        tasks.append(
            Task(
                name=subject,
                kind="photos",
                licence="see the set's references_and_licenses.txt",
                train=Path(subject),
                instance_prompt=f"a photo of {TOKEN} {noun}",
                learned={subject: photos},
                references={subject: photos},
                prompts={"dreambooth": tuple(Prompt(text=text, reference=subject) for text in filled)},
            )
        )
    if problems:
        raise Problems(str(folder), problems)
    unrelated = tuple(f"a photo of a {noun}" for noun in sorted(set(classes.values())))
    return Manifest(folder=folder, unrelated=unrelated, tasks=tuple(tasks))


def _read_prompts(path: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Class noun of each subject, and the templates for objects and for live subjects."""
    classes: dict[str, str] = {}
    prompts: dict[str, list[str]] = {"object": [], "live": []}
    kind = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"(Object|Live Subject) Prompts:?", line.strip()):
            kind = "live" if match[1].startswith("Live") else "object"
        elif match := re.match(r"'(.+)'\.format\(", line.strip()):
            prompts[kind or "object"].append(match[1])
        elif (match := re.fullmatch(r"(\w+),([\w ]+)", line.strip())) and match[1] != "subject_name":
            classes[match[1]] = match[2]
    if not classes or not prompts["object"] or not prompts["live"]:
        raise UserError(f"{path}: expected subjects with their classes, object prompts and live subject prompts")
    return classes, prompts
