"""A plan drawn on its canvas: the conditions in their boxes, the related region, and both prompts beneath."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sow.types import Box, Canvas, Plan, Request, VisualCondition

_SIDE = 512  # smaller canvases are enlarged by a whole factor to at least this
_PAPER, _INK, _GRAY = (255, 255, 255), (30, 30, 34), (128, 128, 128)
_BOX_COLORS = ((230, 60, 50), (40, 110, 220), (150, 60, 190), (220, 130, 20))
_RELATED = (20, 150, 80)


def draw_plan(request: Request, plan: Plan, canvas: Canvas) -> Image.Image:
    """The plan as a PIL RGB picture, at least 512 px wide, with c and c' as wrapped text beneath."""
    scale = max(1, -(-_SIDE // min(canvas.width, canvas.height)))
    picture = Image.new("RGB", (canvas.width * scale, canvas.height * scale), _GRAY)
    for condition, box in zip(request.conditions, plan.boxes, strict=True):
        _paste(picture, condition, box, scale)
    draw = ImageDraw.Draw(picture)
    font = _font(max(12, picture.width // 36))
    taken: list[tuple[float, ...]] = []
    for i, region in enumerate(plan.related):
        corners = _corners(region, scale)
        _dashed(draw, corners, _RELATED, max(2, picture.width // 200))
        name = "related region" if len(plan.related) == 1 else f"related region {i + 1}"
        _label(draw, name, corners, _RELATED, font, picture, taken, bottom=True)
    for i, (condition, box) in enumerate(zip(request.conditions, plan.boxes, strict=True)):
        color = _BOX_COLORS[i % len(_BOX_COLORS)]
        corners = _corners(box, scale)
        draw.rectangle(corners, outline=color, width=max(2, picture.width // 200))
        name = f"{condition.name} {box.w} x {box.h} at ({box.x}, {box.y})"
        _label(draw, name, corners, color, font, picture, taken, bottom=False)
    return _captioned(picture, [("c", request.prompt), ("c'", plan.prompt)], plan.source)


def wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Lines of `text` no wider than `width` pixels; a word longer than a line is broken."""
    lines, line = [], ""
    for word in text.split() or [""]:
        while font.getlength(word) > width:
            fits = next(n for n in range(len(word), 0, -1) if n == 1 or font.getlength(word[:n]) <= width)
            if line:
                lines.append(line)
                line = ""
            lines.append(word[:fits])
            word = word[fits:]
            if not word:
                break
        longer = f"{line} {word}".strip()
        if font.getlength(longer) <= width:
            line = longer
        else:
            lines.append(line)
            line = word
    return [*lines, line] if line else lines


def _paste(picture: Image.Image, condition: VisualCondition, box: Box, scale: int) -> None:
    size = (box.w * scale, box.h * scale)
    image = condition.image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    mask = condition.mask
    stencil = None if mask is None else mask.convert("L").resize(size, Image.Resampling.BILINEAR)
    picture.paste(image, (box.x * scale, box.y * scale), stencil)


def _corners(box: Box, scale: int) -> tuple[int, int, int, int]:
    return box.x * scale, box.y * scale, box.right * scale - 1, box.bottom * scale - 1


def _dashed(
    draw: ImageDraw.ImageDraw, corners: Sequence[int], color: tuple[int, int, int], width: int
) -> None:
    x0, y0, x1, y1 = corners
    dash = 5 * width
    for x in range(x0, x1, 2 * dash):
        for y in (y0, y1 - width + 1):
            draw.rectangle((x, y, min(x + dash, x1), y + width - 1), fill=color)
    for y in range(y0, y1, 2 * dash):
        for x in (x0, x1 - width + 1):
            draw.rectangle((x, y, x + width - 1, min(y + dash, y1)), fill=color)


def _label(
    draw: ImageDraw.ImageDraw,
    text: str,
    corners: Sequence[int],
    color: tuple[int, int, int],
    font: ImageFont.FreeTypeFont,
    picture: Image.Image,
    taken: list[tuple[float, ...]],
    bottom: bool,
) -> None:
    """A label at a corner of the rectangle, moved up past labels that are there already,
    kept on the picture."""
    width, height = font.getlength(text) + 8, font.size + 8
    x = min(max(0, corners[0]), max(0, picture.width - width))
    y = corners[3] + 1 - height if bottom else corners[1] - height  # above the box: the head stays visible
    step = -height
    while any(x < t[2] and x + width > t[0] and y < t[3] and y + height > t[1] for t in taken):
        y += step
    if not 0 <= y <= picture.height - height:
        y = min(max(0, y), picture.height - height)
    taken.append((x, y, x + width, y + height))
    draw.rectangle((x, y, x + width, y + height), fill=color)
    draw.text((x + 4, y + 2), text, fill=_PAPER, font=font)


def _captioned(picture: Image.Image, texts: Sequence[tuple[str, str]], source: str) -> Image.Image:
    font = _font(max(14, picture.width // 30))
    margin, indent = round(font.size), font.getlength("c' = ")
    rows: list[tuple[str, str]] = []
    for name, text in texts:
        lines = wrap(text, font, picture.width - 2 * margin - indent)
        rows += [(f"{name} =" if i == 0 else "", line) for i, line in enumerate(lines)]
    rows.append(("", f"(planner: {source})"))
    line_height = round(1.35 * font.size)
    page = Image.new("RGB", (picture.width, picture.height + margin * 2 + line_height * len(rows)), _PAPER)
    page.paste(picture, (0, 0))
    draw = ImageDraw.Draw(page)
    for i, (name, line) in enumerate(rows):
        y = picture.height + margin + i * line_height
        draw.text((margin, y), name, fill=_INK, font=font)
        draw.text((margin + indent, y), line, fill=_INK, font=font)
    return page


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)
