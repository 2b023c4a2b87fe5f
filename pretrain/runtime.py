"""What both training scripts do alike: device and precision, resumable checkpoints, the loss log."""

import csv
import os
import signal
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def mixed_precision(device: torch.device) -> AbstractContextManager:
    """bfloat16 autocast where the hardware multiplies it natively; float32 elsewhere (it would only be slower)."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", torch.bfloat16)
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()


@dataclass
class Budget:
    """The clock of one planned training of `total_minutes`, run in pieces of `minutes`.

    `samples` and `spent_s` go through the checkpoint, so a resumed run goes on in the same schedule.
    """

    total_minutes: float
    minutes: float
    samples: int = 0
    spent_s: float = 0.0
    started: float = field(default_factory=time.monotonic)
    stopped: bool = False

    def __post_init__(self) -> None:
        signal.signal(signal.SIGTERM, self._stop)  # `kill` ends the piece with a checkpoint

    def _stop(self, *_: object) -> None:
        self.stopped = True

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, earlier pieces included."""
        return self.spent_s + time.monotonic() - self.started

    @property
    def progress(self) -> float:
        return min(1.0, self.elapsed_s / (60 * self.total_minutes))

    @property
    def over(self) -> bool:
        return self.stopped or self.progress >= 1 or time.monotonic() - self.started > 60 * self.minutes

    def state(self) -> dict[str, float]:
        return {"samples": self.samples, "spent_s": self.elapsed_s}


def save_checkpoint(path: Path, state: dict) -> None:
    """Written whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    torch.save(state, partial)
    os.replace(partial, path)


def append_log(path: Path, row: dict[str, float]) -> None:
    """One line of a CSV of losses over samples seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if fresh:
            writer.writeheader()
        writer.writerow(row)


@dataclass(frozen=True)
class Workers:
    """The processes of one data-parallel training (`torchrun --nproc_per_node N -m pretrain.train_unet`).

    On a shared CPU two processes of one thread each do half as much again as one process of two threads,
    which waits at every small operation for whichever thread is held up.
    """

    rank: int
    count: int

    @classmethod
    def start(cls) -> "Workers":
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count > 1:
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return cls(int(os.environ.get("RANK", "0")), count)

    @torch.no_grad()
    def share(self, model: nn.Module, budget: Budget) -> tuple[float, bool]:
        """Average the gradients over all processes; returns the progress and the end of training they agree on."""
        if self.count == 1:
            return budget.progress, budget.over
        grads = [param.grad for param in model.parameters() if param.grad is not None]
        flat = torch.cat([grad.flatten() for grad in grads] + [grads[0].new_tensor([budget.progress, budget.over])])
        dist.all_reduce(flat)
        flat /= self.count
        parts = flat[:-2].split([grad.numel() for grad in grads])
        for grad, part in zip(grads, parts, strict=True):
            grad.copy_(part.view(grad.shape))
        return float(flat[-2]), bool(flat[-1] > 0)
