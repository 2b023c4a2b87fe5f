"""What goes wrong because of what a user gave. Each error builds its own message: what came, the rule, the way out.

The command line prints the message of a `UserError` and exits with code 2; anything else is a fault of ours and
keeps its traceback. A `Slower` is one line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class Slower(UserWarning):
    """A slower path than usual is taken. The message says which, why, and what would be faster."""


class UserError(Exception):
    """Input that cannot be used. The message says what came, what was expected, and the way out."""


class Problems(UserError):
    """All that is wrong with one thing (a configuration, a photo folder), found before any work starts."""

    def __init__(self, subject: str, problems: Iterable[str]):
        self.subject, self.problems = subject, list(problems)
        count = len(self.problems)
        head = f"{subject}: {count} problem{'s' if count != 1 else ''}"
        super().__init__("\n".join([head, *(f"  - {p}" for p in self.problems)]))


def lines_of(error: UserError) -> list[str]:
    """The error as lines of a longer list: each of its problems says by itself what it belongs to."""
    if isinstance(error, Problems):
        return [f"{error.subject}: {problem}" for problem in error.problems]
    return [str(error)]


class UnknownChoice(UserError):
    """A name that is not one of the known ones."""

    def __init__(self, what: str, came: object, known: Iterable[str]):
        names = sorted(known)
        super().__init__(f"unknown {what} {came!r}{did_you_mean(str(came), names)}; known: {', '.join(names)}")


class NoMatch(UserError):
    """Targets or patterns that name no layer of the model."""

    def __init__(self, patterns: Sequence[str], names: Sequence[str]):
        missing = ", ".join(repr(p) for p in patterns)
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        hint = "".join(did_you_mean(p, {n.rsplit(".", 1)[-1] for n in names}) for p in patterns)
        super().__init__(
            f"{missing} matches no Linear or Conv2d of this model{hint}. A target is the end of a layer's name, "
            f"as in PEFT, for example 'to_q'; 'all' stands alone. The model's layers: {shown}"
        )


class WrongBase(UserError):
    """An adapter that was trained on other integers than those of the model at hand."""

    def __init__(self, adapter: str, trained_on: str, loaded: str):
        super().__init__(
            f"{adapter} was trained on the base {trained_on[:16]}, but this model is {loaded[:16]}. "
            "An adapter is exact only on the integers that it was trained on: load the same quantized folder, "
            "or quantize the same model again with the same format, range search and float list."
        )


class CannotMerge(UserError):
    """A fold that would not be exact."""


def did_you_mean(came: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or the empty string when nothing is near."""
    near = get_close_matches(came, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""
