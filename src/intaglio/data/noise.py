"""One random generator for each sample of each step, whatever process computes it."""

from __future__ import annotations

import torch

from intaglio.data.sampling import derive_seed


def step_generator(seed: int, step: int, item: int, stream: str = "noise") -> torch.Generator:
    """A CPU generator that depends on nothing but its arguments.

    `item` is the sample's place in the global batch (`rank * batch_size + i`), so that two processes draw what one
    process with twice the batch draws. Draw on the CPU and move the result: then a CPU and a GPU see the same noise.
    `stream` separates uses that must not be correlated, for example "noise" and "crop".
    """
    return torch.Generator().manual_seed(derive_seed(stream, seed, step, item))
