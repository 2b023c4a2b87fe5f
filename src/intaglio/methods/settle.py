"""What is left open, settled: which method, over which base, computed how. Everybody asks `settle`.

The command line, `attach`, `compare`, `trace`, `generate` and `speed` share these rules, so the same words mean the
same arithmetic everywhere:

- method: `int8_lora` where INT8 kernels run, `qlora` on another device.
- base: the model's own where it is quantized, else what was asked for, else what the method wishes.
- compute: integers wherever this device has a fast exact path for the format, else float, with the reason why.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from dataclasses import replace as with_fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from intaglio.errors import Problems, Slower, UnknownChoice, UserError, lines_of
from intaglio.methods.base import Method, moved_options
from intaglio.methods.registry import METHODS, build_method, method_options
from intaglio.quantizers.base import Base
from intaglio.quantizers.formats import Format, parse_format

if TYPE_CHECKING:
    import torch

Compute = Literal["auto", "integer", "float"]
"""How the GEMMs of a quantized base run: a property of a run on a device, never of a method or an adapter's file."""


@dataclass(frozen=True)
class Settled:
    """What a run is, with nothing left open."""

    method: Method
    base: Base | None
    """With its format filled in; None: the base is float."""
    compute: Literal["integer", "float"]
    device: str
    why_not_integer: str | None
    """Why the faster arithmetic was not taken; None where it was, or where float was asked for."""

    def __str__(self) -> str:
        """One line: what was chosen, and why not the faster."""
        options = ", ".join(f"{k}={v}" for k, v in _changed_options(self.method).items())
        method = f"{self.method.name}({options})" if options else self.method.name
        over = "float weights" if self.base is None else f"{self.base.format}"
        words = "integers" if self.compute == "integer" else "float"
        because = f" ({self.why_not_integer})" if self.why_not_integer else ""
        return f"{method} over {over}, computed in {words} on {self.device}{because}"

    def warn(self) -> None:
        """Say once why the slower path is taken."""
        if self.why_not_integer is not None:
            warnings.warn(str(self), Slower, stacklevel=3)


def default_device() -> torch.device:
    """The accelerator of this process, else the CPU."""
    import torch

    return torch.accelerator.current_accelerator() or torch.device("cpu")


def default_method_name(device: torch.device | str | None = None) -> str:
    """What `train` takes where no method is named (docs/decisions/default-method.md)."""
    return "int8_lora" if _has_kernels(device or default_device()) else "qlora"


def settle(
    method: Method | str | None = None,
    *,
    base: Base | str | None = None,
    compute: Compute = "auto",
    present: Base | str | None = None,
    device: torch.device | str | None = None,
    source: str = "this model",
) -> Settled:
    """Fill in what is open, and check that it goes together.

    Args:
        method: a method, its name, or None for the device's default.
        base: what was asked for.
        present: how the model at hand is quantized; None for a float one.
        source: what the model is called in messages.

    Raises:
        Problems: all that does not go together; nothing has been touched.
    """
    device = device or default_device()
    chosen = _method(method, device)
    moved = moved_options(chosen)
    base = _base(base)
    base = with_fields(base, format=base.format or moved.get("base"))
    compute = moved.get("compute", compute) if compute == "auto" else compute
    here = None if present is None else _base(present)
    problems = []
    if compute not in get_args(Compute):
        problems.append(str(UnknownChoice("compute", compute, get_args(Compute))))
    try:
        base = _settle_base(chosen, base, here, source)
    except UserError as error:
        problems += lines_of(error)
    if compute == "integer" and not chosen.needs_base:
        problems.append(
            f"compute = 'integer', but method {chosen.name} trains beside float weights; use qlora, peqa, tuneqdm or "
            "int8_lora, or leave compute out"
        )
    if compute == "float" and chosen.integer_only:
        problems.append(f"compute = 'float', but method {chosen.name} is integer arithmetic; use qlora for float")
    if problems:
        raise Problems("this does not go together", problems)
    if base is None:
        return Settled(chosen, None, "float", str(device), None)
    assert base.format is not None
    reason = why_not_integer(parse_format(base.format), device)
    if compute == "auto":
        compute = "integer" if reason is None or chosen.integer_only else "float"
        return Settled(chosen, base, compute, str(device), reason)
    return Settled(chosen, base, compute, str(device), reason if compute == "integer" else None)


def why_not_integer(format: Format, device: torch.device | str) -> str | None:
    """Why the integer road is not the fast one for this format here; None where it is."""
    if not _has_kernels(device):
        return f"no INT8 kernels for {device} yet"
    from intaglio.kernels.binding import path_in_use
    from intaglio.kernels.weight_product import is_exact_by_int_mm, is_plain

    if path_in_use() != "torch":
        return None
    without = f"compiled kernels are not in use, and for {format.name} torch's INT8 product"
    if not is_plain(format):
        return f"{without} would unpack the base at every call"
    return None if is_exact_by_int_mm(format) else f"{without} is not exact on this processor"


def _has_kernels(device: torch.device | str) -> bool:
    return str(device).partition(":")[0] in ("cpu", "meta")  # meta: what the CPU would run


def _method(method: Method | str | None, device: torch.device | str) -> Method:
    if isinstance(method, Method):
        return method
    return build_method(method or default_method_name(device), {})


def _base(base: Base | str | None) -> Base:
    return base if isinstance(base, Base) else Base(base)


def _settle_base(method: Method, asked: Base, present: Base | None, source: str) -> Base | None:
    if not method.needs_base:
        if present is not None:
            raise UserError(
                f"method {method.name} trains beside float weights, but {source} is quantized to {present.format}; "
                f"load the float model, or use {', '.join(n for n, m in METHODS.items() if m.needs_base)}"
            )
        return None
    if present is None:
        found = with_fields(asked, format=parse_format(asked.format or method.default_base).name)
    else:
        assert present.format is not None
        if asked.format is not None and parse_format(asked.format) != parse_format(present.format):
            raise UserError(
                f"base = {asked.format!r}, but {source} is quantized to {present.format!r}; leave base out, or load a "
                "model of that format"
            )
        found = present
    assert found.format is not None
    method.check_base(parse_format(found.format))
    return found


def _changed_options(method: Method) -> dict[str, Any]:
    default = method_options(type(method)())
    return {key: value for key, value in method_options(method).items() if value != default[key] or key == "rank"}
