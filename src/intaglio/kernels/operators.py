"""Our operations as torch custom operators, without torch's price for one where nobody looks.

A custom operator is what `torch.compile`, fake tensors, the trace and the profiler see; its call takes 25 to 40 us, and
a training step of a Stable Diffusion U-Net makes a thousand. So a plain call on plain CPU tensors goes straight to the
function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


class Operator(Generic[P, R]):
    """A function of tensors, which returns new ones or writes to those named, and its custom operator."""

    def __init__(
        self, name: str, function: Callable[P, R], fake: Callable[..., Any], mutates: tuple[str, ...] = ()
    ) -> None:
        self.function = function
        self.operator = torch.library.custom_op(name, function, mutates_args=mutates)
        self.operator.register_fake(fake)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        first = args[0]
        if (type(first) is Tensor or type(first) is torch.nn.Parameter) and first.is_cpu and not watched():
            return self.function(*args, **kwargs)
        return self.operator(*args, **kwargs)


def watched() -> bool:
    """Whether something asks to see the operators: a dispatch mode, a compiler, functorch, or the profiler."""
    return (
        torch.compiler.is_compiling()  # first: a compiler cannot trace the others
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore[reportAttributeAccessIssue]
        or torch.autograd._profiler_enabled()
    )
