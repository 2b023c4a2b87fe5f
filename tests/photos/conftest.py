"""Small photo folders."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def write_photo(path: Path, size: tuple[int, int] = (20, 24), seed: int = 0) -> Path:
    levels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels).save(path)
    return path


@pytest.fixture
def photo():
    return write_photo
