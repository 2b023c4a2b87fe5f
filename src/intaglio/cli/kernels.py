"""`intaglio kernels`."""

from __future__ import annotations

import click

from intaglio.cli import SETTINGS

EPILOG = """\b
Examples:
  intaglio kernels
  INTAGLIO_KERNELS=avx2 intaglio kernels

An implementation is named after the features of the processor that it needs. Above the one that is used stand those
that would be asked first, and why they are not used; below it, what computes the arguments that it does not take."""


@click.command(name="kernels", context_settings=SETTINGS, epilog=EPILOG)
@click.option("--device", default="cpu", show_default=True, help="type of device that the tensors lie on")
def command(device: str) -> None:
    """Which implementation of each operation this machine uses, and why not a better one."""
    from rich.console import Console
    from rich.table import Table

    from intaglio.kernels import isa, operations
    from intaglio.kernels.library import load

    console = Console(highlight=False)
    _, reason = load()
    console.print(f"features in use: {' '.join(sorted(isa.in_use())) or f'none ({reason or isa.state().path})'}")
    table = Table(box=None, pad_edge=False)
    for name in ("operation", "implementation", "used", "for"):
        table.add_column(name, overflow="fold")
    for name, op in operations().items():
        for index, (implementation, why_not) in enumerate(op.explain(device)):
            table.add_row(
                name if index == 0 else "",
                "definition" if implementation is None else implementation.name,
                "yes" if not why_not else f"no: {why_not}",
                "what is left" if implementation is None else implementation.condition or "all",
            )
    console.print(table)
