"""What commands print: one console, one look."""

from __future__ import annotations

import logging
import os
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a tenth of a second that `--help` does without
    from rich.console import Console
    from rich.table import Table


def make_console() -> Console:
    """The console for people, on standard error; libraries' chatter is kept out of it."""
    from rich.console import Console

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    console = Console(stderr=True, highlight=False)
    _print_ours(console)
    return console


def _print_ours(console: Console) -> None:
    """Our own warnings as a line for people; others' keep the place in the code that they come from."""
    from rich.text import Text

    from intaglio.errors import Slower

    others = warnings.showwarning

    def show(message: Any, category: Any, *rest: Any) -> None:
        if issubclass(category, Slower):
            console.print(Text.assemble(("warning: ", "bold yellow"), str(message)))
        else:
            others(message, category, *rest)

    warnings.showwarning = show


def quiet_libraries() -> None:
    """Turn off the progress bars that loading prints. Imports the libraries: call it when they are needed anyway."""
    import diffusers
    import transformers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def two_columns(title: str, rows: list[tuple[str, str]]) -> Table:
    from rich.table import Table

    table = Table(title=title, show_header=False, title_justify="left", title_style="bold")
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    for key, value in rows:
        table.add_row(key, value)
    return table
