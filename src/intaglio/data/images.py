"""One image file -> an upright RGB picture. No torch here: folders are checked before it is imported."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from intaglio.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
FORMATS = ("JPEG", "PNG", "WEBP")  # the MPO files of some phones open as JPEG
MIN_SIDE_PIXELS = 16


def open_rgb(source: Path | str | IO[bytes]) -> Image.Image:
    """Decode a JPEG, PNG or WebP into mode RGB, 8 bits a channel.

    The EXIF rotation is applied, transparency is laid on white, and palette, grey, 16-bit and CMYK pixels are converted
    with their full range. Of an animation the first frame is taken. Raises `UserError` when the data cannot be decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a 100 megapixel photo is no attack
            with Image.open(source, formats=FORMATS) as image:
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # the decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise UserError(f"{getattr(source, 'name', source)}: {_reason(error)}") from error


def find_fault(path: Path) -> str | None:
    """Why this image cannot be trained on, in words; None when it decodes to the last pixel and is large enough."""
    try:
        if path.stat().st_size == 0:
            return "the file is empty (0 bytes)"
        with path.open("rb") as file:
            image = open_rgb(file)
    except UserError as error:
        return _reason(error.__cause__ or error)
    except OSError as error:
        return _reason(error)
    if min(image.size) < MIN_SIDE_PIXELS:
        return f"{image.width} x {image.height} pixels; the shorter side must have at least {MIN_SIDE_PIXELS}"
    return None


def _reason(error: BaseException) -> str:
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels to decode ({error}); scale the photo down"
    if isinstance(error, Image.UnidentifiedImageError):
        return "its content is no JPEG, PNG or WebP; convert it or take it away"
    return f"cannot be decoded ({str(error) or type(error).__name__}); export or download the photo again"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit grey: convert("RGB") would clip at 255
        return _grey_from_16_bits(image).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _grey_from_16_bits(image: Image.Image) -> Image.Image:
    levels_HW = np.asarray(image).astype(np.float64)
    return Image.fromarray(np.clip(np.rint(levels_HW / 257), 0, 255).astype(np.uint8))  # 65535 / 255 = 257
