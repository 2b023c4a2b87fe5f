"""One variant in a process of its own: it prepares, then does one step for each line of its input.

    python -m intaglio.speed.worker NAME '{"model": "sd15", ...}' PIPELINE

It answers each line with one line of JSON; what libraries print in between does not begin with a brace.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from intaglio.errors import UserError
from intaglio.runtime.memory import tune_allocator
from intaglio.speed.models import new_denoiser, random_inputs, shape_named
from intaglio.speed.variants import VARIANTS, Variant
from intaglio.speed.work import DENOISING_STEPS, Work

Step = Callable[[], None]


def main() -> None:
    tune_allocator()  # as our commands do; a baseline has HUGE_PAGES = 0, which leaves it alone
    name, given, pipeline = sys.argv[1:]
    work = Work(**json.loads(given))
    try:
        serve(VARIANTS[name], work, Path(pipeline))
    except UserError as error:
        print(json.dumps({"error": str(error)}), flush=True)


def serve(variant: Variant, work: Work, pipeline: Path) -> None:
    """Prepare, say so, then answer: `step` by its seconds and bytes, `profile` by where they go."""
    import torch

    if variant.tuned:
        tune_allocator()
    torch.set_num_threads(work.threads)
    variant.import_everything()
    imports_bytes = status_bytes("VmRSS:")
    step = prepare(variant, work, pipeline)
    forget_peak()
    from intaglio.kernels.binding import path_in_use

    print(json.dumps({"ready": True, "kernels": path_in_use() if variant.ours else None}), flush=True)
    for line in sys.stdin:
        if line.strip() == "profile":
            from intaglio.speed.profile import profile

            print(json.dumps({"profile": profile(step)}), flush=True)
            continue
        start = time.perf_counter()
        step()
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "peak_bytes": status_bytes("VmHWM:") - imports_bytes}), flush=True)


def prepare(variant: Variant, work: Work, pipeline: Path) -> Step:
    """A call that does one step of what `work` asks for; `pipeline` is what the command line's road trains on."""
    if variant.train_method is not None:
        from intaglio.speed.road import training_step

        step = training_step(variant.train_method, work, pipeline)
    else:
        step = {"train": _training_step, "generate": _image}[work.task](variant, work)
    _settle()
    return step


def _training_step(variant: Variant, work: Work) -> Step:
    """Forward, backward, AdamW."""
    import torch

    shape = shape_named(work.model)
    denoiser: Any = new_denoiser(shape, variant.dtype)
    inputs = random_inputs(denoiser, shape, work.resolution, work.batch, variant.dtype)
    trained = variant.prepare(denoiser)
    if variant.checkpointing:
        denoiser.enable_gradient_checkpointing()
    denoiser.train()
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    noise: list[torch.Tensor] = []

    def step() -> None:
        from torch.profiler import record_function

        with record_function("forward"):
            predicted = denoiser(**inputs)[0]
            noise[:] = noise or [torch.randn_like(predicted)]
            loss = torch.nn.functional.mse_loss(predicted, noise[0])
        with record_function("backward"):
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _image(variant: Variant, work: Work) -> Step:
    """`DENOISING_STEPS` calls of the denoiser with guidance: no text encoder, no VAE."""
    import torch

    shape = shape_named(work.model)
    denoiser: Any = new_denoiser(shape, variant.dtype)
    inputs = random_inputs(denoiser, shape, work.resolution, 2 * work.batch, variant.dtype)
    variant.prepare(denoiser)
    denoiser.eval()
    latents = "sample" if "sample" in inputs else "hidden_states"

    @torch.no_grad()
    def image() -> None:
        x = inputs[latents]
        for timestep in torch.linspace(999, 1, DENOISING_STEPS).long():
            called = {**inputs, latents: x, "timestep": timestep.expand(2 * work.batch)}
            without, told = denoiser(**called)[0].chunk(2)
            guided = without + 7.5 * (told - without)
            x = (x - 0.1 * guided.repeat(2, *(1,) * (x.ndim - 1))).clamp(-4, 4)  # random weights denoise nothing

    return image


def _settle() -> None:
    from intaglio.runtime.memory import return_memory

    return_memory()
    gc.freeze()  # what stays is not looked through again in the middle of a step


def status_bytes(key: str) -> int:
    """A figure of /proc/self/status: `VmRSS:` is resident now, `VmHWM:` at most since `forget_peak`."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        raise UserError("intaglio speed step reads memory from /proc, which only Linux has") from None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def forget_peak() -> None:
    """Preparing may take more than the steps: begin the peak anew."""
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
