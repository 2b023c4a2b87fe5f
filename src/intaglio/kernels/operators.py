"""Whether something watches the operators.

A custom operator is what `torch.compile`, fake tensors, the trace and the profiler see; its call takes 25 to 40 us, and
a training step of a Stable Diffusion U-Net makes a thousand. So a plain call on plain CPU tensors goes straight to the
function.
"""

from __future__ import annotations

import torch


def watched() -> bool:
    """Whether something asks to see the operators: a dispatch mode, a compiler, functorch, or the profiler."""
    return (
        torch.compiler.is_compiling()  # first: a compiler cannot trace the others
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore[reportAttributeAccessIssue]
        or torch.autograd._profiler_enabled()
    )
