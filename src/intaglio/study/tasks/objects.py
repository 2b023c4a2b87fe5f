"""Objects of pybullet_data (zlib licence), seen from all around."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from intaglio.errors import UserError

SIDE_PIXELS = 256
_FILL = 0.87  # of the image's width, as the emoji fill theirs
_FIELD_OF_VIEW_DEG = 30.0


def render_views(urdf: str, views: int, elevation_deg: float) -> list[Image.Image]:
    """RGBA images, 256 x 256, from `views` azimuths; the software renderer, so the same on every machine.

    The object fills the image as seen from where it is the widest.
    """
    with _world() as bullet:
        body = bullet.loadURDF(urdf, useFixedBase=True)
        low, high = _bounds(bullet, body)
        centre, radius = (low + high) / 2, float(np.linalg.norm(high - low)) / 2
        azimuths = [360 * view / views for view in range(views)]
        distance = radius / math.sin(math.radians(_FIELD_OF_VIEW_DEG / 2))
        for _ in range(2):  # the sphere around an object is larger than it looks: come nearer until it fills
            shown = [_image(bullet, body, centre, distance, a, elevation_deg, SIDE_PIXELS // 4) for a in azimuths]
            distance *= max(_extent(p) for p in shown) / _FILL
        return [_image(bullet, body, centre, distance, a, elevation_deg, SIDE_PIXELS) for a in azimuths]


def _image(
    bullet: Any, body: int, centre: np.ndarray, distance: float, azimuth_deg: float, elevation_deg: float, side: int
) -> Image.Image:
    twice = 2 * side  # drawn larger and reduced: the renderer does not smooth edges
    view = bullet.computeViewMatrixFromYawPitchRoll(centre.tolist(), distance, azimuth_deg, -elevation_deg, 0, 2)
    near, far = distance / 100, distance * 10
    projection = bullet.computeProjectionMatrixFOV(_FIELD_OF_VIEW_DEG, 1.0, near, far)
    light = {"lightDirection": [1, -1, 2], "lightAmbientCoeff": 0.6, "lightDiffuseCoeff": 0.5, "shadow": 0}
    _, _, rgba, _, mask = bullet.getCameraImage(
        twice, twice, view, projection, renderer=bullet.ER_TINY_RENDERER, **light
    )
    pixels = np.array(rgba, dtype=np.uint8).reshape(twice, twice, 4)
    pixels[..., 3] = np.where(np.array(mask).reshape(twice, twice) == body, 255, 0)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX)


def _extent(image: Image.Image) -> float:
    """Twice the distance from the middle to the farthest edge of what is shown, as a share of the image."""
    box = image.getchannel("A").getbbox()
    half = image.width / 2
    return 0.5 if box is None else max(abs(edge - half) for edge in box) / half


def _bounds(bullet: Any, body: int) -> tuple[np.ndarray, np.ndarray]:
    boxes = [bullet.getAABB(body, link) for link in range(-1, bullet.getNumJoints(body))]
    return np.min([b[0] for b in boxes], axis=0), np.max([b[1] for b in boxes], axis=0)


@contextmanager
def _world() -> Iterator[Any]:
    with _silence():
        try:
            import pybullet  # pyright: ignore[reportMissingImports]
            import pybullet_data  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise UserError("rendering objects needs pybullet: pip install 'intaglio[study]'") from None
        client = pybullet.connect(pybullet.DIRECT)
        try:
            pybullet.setAdditionalSearchPath(pybullet_data.getDataPath())
            yield pybullet
        finally:
            pybullet.disconnect(client)


@contextmanager
def _silence() -> Iterator[None]:
    """Away with what the C library prints."""
    kept, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(null)
