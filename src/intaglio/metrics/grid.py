"""A contact sheet: images in rows under a title, with labels that can be read."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

INK, SOFT, PAPER, LINE = (28, 30, 34), (92, 97, 105), (255, 255, 255), (222, 224, 228)
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]],
    *,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    title: str = "",
    cell: int = 192,
) -> Image.Image:
    """An RGB sheet with a white margin; rows may differ in length. `cell` is the side of an image on it, in pixels.

    Smaller images are enlarged by a whole factor, larger ones shrunk to fit; the aspect ratio stays. Labels are
    wrapped to the room they have.
    """
    if not any(rows):
        raise ValueError("no images for a contact sheet")
    if row_labels is not None and len(row_labels) != len(rows):
        raise ValueError(f"{len(row_labels)} row labels for {len(rows)} rows")
    columns = max(len(row) for row in rows)
    if column_labels is not None and len(column_labels) != columns:
        raise ValueError(f"{len(column_labels)} column labels for {columns} columns")
    gap, margin = max(4, cell // 20), max(12, cell // 8)
    body, heading = ImageFont.load_default(max(12, cell / 10)), ImageFont.load_default(max(15, cell / 7))

    left = margin + (round(cell * 1.1) + gap if row_labels else 0)
    width = left + columns * (cell + gap) - gap + margin
    title_lines = _wrap(title, heading, width - 2 * margin)
    top_lines = [_wrap(label, body, cell) for label in column_labels or []]
    title_height = _height(title_lines, heading)
    top = margin + title_height + (margin // 2 if title_height else 0)
    images_top = top + max((_height(lines, body) for lines in top_lines), default=0) + (gap if top_lines else 0)
    height = images_top + len(rows) * (cell + gap) - gap + margin

    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, title_lines, heading, margin, margin, INK)
    for column, lines in enumerate(top_lines):
        bottom = images_top - gap - _height(lines, body)
        _write(draw, lines, body, left + column * (cell + gap) + cell / 2, bottom, SOFT, anchor="ma")
    for number, row in enumerate(rows):
        y = images_top + number * (cell + gap)
        if row_labels:
            lines = _wrap(row_labels[number], body, round(cell * 1.1))
            _write(draw, lines, body, left - gap, y + (cell - _height(lines, body)) / 2, SOFT, anchor="ra")
        for column, image in enumerate(row):
            _paste(sheet, draw, image, left + column * (cell + gap), y, cell)
    return sheet


def _paste(sheet: Image.Image, draw: ImageDraw.ImageDraw, image: Image.Image, x: int, y: int, cell: int) -> None:
    fitted = fit(image.convert("RGB"), cell)
    x, y = x + (cell - fitted.width) // 2, y + (cell - fitted.height) // 2
    sheet.paste(fitted, (x, y))
    draw.rectangle((x - 1, y - 1, x + fitted.width, y + fitted.height), outline=LINE)  # white images on white paper


def fit(image: Image.Image, cell: int) -> Image.Image:
    """Enlarge by the largest whole factor that fits into `cell`, or shrink to fit; Lanczos both ways."""
    longest = max(image.size)
    factor = cell // longest if longest <= cell else cell / longest
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def _wrap(text: str, font: Font, width: float) -> list[str]:
    """Lines no wider than `width`; a word that is wider alone is cut."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] = f"{lines[-1]} {word}"
            continue
        while font.getlength(word) > width and len(word) > 1:
            keep = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or font.getlength(word[:n]) <= width)
            lines.append(word[:keep])
            word = word[keep:]
        lines.append(word)
    return lines


def _write(
    draw: ImageDraw.ImageDraw,
    lines: list[str],
    font: Font,
    x: float,
    y: float,
    colour: tuple[int, int, int],
    anchor: str = "la",
) -> None:
    for number, line in enumerate(lines):
        draw.text((x, y + number * _line_height(font)), line, fill=colour, font=font, anchor=anchor)


def _height(lines: list[str], font: Font) -> int:
    return len(lines) * _line_height(font)


def _line_height(font: Font) -> int:
    top, bottom = font.getbbox("Àgjy")[1::2]
    return round((bottom - top) * 1.15)
