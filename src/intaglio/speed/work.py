"""What a step consists of: the same for every variant of a run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

DENOISING_STEPS = 10
"""Of an image."""


@dataclass(frozen=True)
class Work:
    model: str = "sd15"
    resolution: int = 256
    batch: int = 1
    threads: int = os.cpu_count() or 1
    task: Literal["train", "generate"] = "train"

    def title(self) -> str:
        what = "One training step" if self.task == "train" else f"One image of {DENOISING_STEPS} steps with guidance"
        return f"{what}, {self.model}, {self.resolution} px, batch {self.batch}"

    def note(self) -> str:
        if self.task == "generate":
            return "The denoiser alone, with random weights."
        return "The denoiser with random weights; LoRA of rank 16 on attention unless said otherwise; AdamW."
