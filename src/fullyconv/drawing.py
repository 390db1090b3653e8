"""Overlay a mask on its image, with a legend that says what the colors are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from fullyconv.images import read_image
from fullyconv.labels import VOID_COLOR, Labels
from fullyconv.palettes import Color

_PAPER = (255, 255, 255)
_INK, _FAINT = (20, 20, 20), (90, 90, 90)
_LISTED = 24  # classes in a legend; of a thousand, a photograph may hold more than one can look up

Array = npt.NDArray[Any]
_Entry = tuple[str, Color | None, float]  # name, color unless it is not drawn, and share in percent


def color_mask(mask: Array, palette: Sequence[Sequence[int]]) -> npt.NDArray[np.uint8]:
    """Paint every class of a mask in its color.

    Args:
        mask: (H, W) class indices.
        palette: one (red, green, blue) color in 0..255 per class.

    Returns:
        (H, W, 3) uint8; indices beyond the palette (ignored pixels) in the void color of PASCAL VOC.

    Raises:
        ValueError: if the mask is not (H, W) integers or the palette not colors.

    Example:
        >>> color_mask(np.array([[0, 255]]), [(255, 0, 0)]).tolist()
        [[[255, 0, 0], [224, 224, 192]]]
    """
    mask = _checked_mask(mask)
    table = np.array(palette)
    if table.ndim != 2 or table.shape[1] != 3 or table.min() < 0 or table.max() > 255:
        raise ValueError(f"palette has shape {table.shape}; give one (red, green, blue) color in 0..255 per class")
    table = np.concatenate([table, [VOID_COLOR]]).astype(np.uint8)
    last = len(table) - 1
    inside = (mask >= 0) & (mask < last)
    painted: npt.NDArray[np.uint8] = table[np.where(inside, mask, last)]
    return painted


def overlay(
    image: str | Path | Image.Image | Array,
    mask: Array,
    labels: Labels,
    alpha: float = 0.55,
    legend: bool | Literal["steady"] = True,
    borders: bool = True,
) -> Image.Image:
    """Lay a mask in color over its image, and list the classes in it below.

    Ignored pixels show the image as it is. Black, the usual color of a background, is laid on with the cube of
    `alpha`: what is in no class of interest stays visible.

    Args:
        image: what `fullyconv.images.read_image` takes.
        mask: (H, W) class indices, of the image's size.
        labels: names and colors.
        alpha: weight of the colors, from 0 (the image alone) to 1 (the colors alone).
        legend: add a legend below: color, name and share of each class that occurs, in the order of `legend_order`; of
            more than 24 the smallest are one entry. "steady" lists the classes that do not occur too, for the frames
            of a video. The shares are of all pixels, ignored ones included.
        borders: draw a thin light line where classes meet, on images of at least 128 pixels each way.

    Returns:
        An RGB image: of the image's own size without legend; with it, higher, and wider where the image is too
        narrow for a line of text.

    Raises:
        ValueError: if `alpha` is out of range, the sizes differ, or the mask holds an index that is no class.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha={alpha}: a weight in 0..1")
    photo = read_image(image)
    mask = _checked_mask(mask)
    if mask.shape != photo.shape[:2]:
        raise ValueError(f"mask has shape {mask.shape} and the image {photo.shape[:2]} (H, W); both must be equal")
    shares = _shares(mask, labels)
    colors = color_mask(mask, labels.palette)
    blended = photo.astype(np.float32)
    weight = np.where(colors.any(axis=2, keepdims=True), np.float32(alpha), np.float32(alpha**3))
    blended += weight * (colors - blended)
    counted = mask != labels.ignore_index
    blended = np.where(counted[..., None], blended, photo)
    if borders and alpha > 0.0 and min(mask.shape) >= 128:
        edge = _border(mask, max(1, min(mask.shape) // 500))
        blended[edge] = 0.35 * blended[edge] + 0.65 * 255
    result = Image.fromarray(np.rint(blended).astype(np.uint8))
    if not legend:
        return result
    steady = legend == "steady"
    return _with_legend(result, _entries(shares, labels, every=steady), room=labels.names if steady else ())


def _checked_mask(mask: Array) -> Array:
    mask = np.asarray(mask)
    if mask.ndim != 2 or not np.issubdtype(mask.dtype, np.integer):
        raise ValueError(f"mask has shape {mask.shape} and type {mask.dtype}; give (H, W) integers")
    return mask


def legend_order(labels: Labels) -> list[int]:
    """Give the classes in the order of every legend: as the network scores them, those that are black last.

    Black is laid over an image so lightly that it is no color to look up: legends show it without one.

    Example:
        >>> legend_order(Labels.of(["background", "cat", "dog"]))
        [1, 2, 0]
    """
    return sorted(range(labels.num_classes), key=lambda k: not any(labels.palette[k]))


def _shares(mask: Array, labels: Labels) -> dict[int, float]:
    """Class, or the ignored index -> share of the pixels of a mask in percent, for those that occur."""
    found, pixels = np.unique(mask, return_counts=True)
    known = {*range(labels.num_classes), labels.ignore_index}
    if stray := [index for index in found.tolist() if index not in known]:
        raise ValueError(
            f"mask holds {stray[0]}, and labels has the classes 0..{labels.num_classes - 1} and "
            f"{labels.ignore_index} for ignore; encode the mask with labels.encode"
        )
    return {index: 100.0 * count / mask.size for index, count in zip(found.tolist(), pixels.tolist(), strict=True)}


def _entries(shares: Mapping[int, float], labels: Labels, every: bool = False, most: int = _LISTED) -> list[_Entry]:
    """Write what a legend lists; of very many classes the largest, and the others as one.

    With `every` the same classes in every image: the first of very many.
    """
    found = [k for k in legend_order(labels) if every or k in shares]
    kept = sorted(found, key=lambda k: 0.0 if every else -shares[k])[:most]
    entries: list[_Entry] = [
        (labels.names[k], labels.palette[k] if any(labels.palette[k]) else None, shares.get(k, 0.0))
        for k in found
        if k in kept
    ]
    if len(found) > most and not every:
        entries.append((f"{len(found) - most} more", None, sum(shares[k] for k in found if k not in kept)))
    if labels.ignore_index in shares and not every:
        entries.append(("ignored", None, shares[labels.ignore_index]))
    return entries


def _border(mask: Array, width: int) -> npt.NDArray[np.bool_]:
    """Mark the pixels from which another class lies so many pixels to the right or below."""
    edge = np.zeros(mask.shape, dtype=np.bool_)
    edge[:, :-width] |= mask[:, :-width] != mask[:, width:]
    edge[:-width] |= mask[:-width] != mask[width:]
    return edge


def _with_legend(
    image: Image.Image, entries: Sequence[_Entry], letters: int | None = None, room: Sequence[str] = ()
) -> Image.Image:
    """Write a legend below an image, with room for any shares of the classes in `room`."""
    size = letters or min(max(round(min(image.size) / 26), 12), 64)  # of the letters, in pixels
    font = ImageFont.load_default(size)
    gap, text = round(size * 0.6), round(size * 1.3)
    texts = [f"{name} {percent(share)}" for name, _, share in entries] + [f"{name} 100.0 %" for name in room]
    cell = text + round(max(map(font.getlength, texts))) + 3 * gap
    columns = min(max((image.width + gap) // cell, 1), len(entries))
    rows = -(-len(entries) // columns)
    line = round(size * 1.5)
    width = max(image.width, columns * cell)
    sheet = Image.new("RGB", (width, image.height + rows * line + 2 * gap), _PAPER)
    sheet.paste(image, ((width - image.width) // 2, 0))
    draw = ImageDraw.Draw(sheet)
    for i, (name, color, share) in enumerate(entries):
        column, row = divmod(i, rows)
        left, top = gap + column * cell, image.height + gap + row * line
        if color is not None:
            draw.rectangle((left, top, left + size - 1, top + size - 1), fill=color)
        middle = top + size / 2
        draw.text((left + text, middle), name, fill=_INK, font=font, anchor="lm")
        beside = left + text + font.getlength(f"{name} ") + gap / 2
        draw.text((beside, middle), percent(share), fill=_FAINT, font=font, anchor="lm")
    return sheet


def percent(share: float) -> str:
    """Write a share in percent.

    Example:
        >>> percent(66.66), percent(0.01), percent(0)
        ('66.7 %', '<0.1 %', '0 %')
    """
    if share == 0:
        return "0 %"
    return f"{share:.1f} %" if share >= 0.05 else "<0.1 %"


def contact_sheet(
    samples: Sequence[tuple[Array, Array, str]], labels: Labels, *, columns: int = 4, side: int = 320
) -> Image.Image:
    """Draw images under their masks, side by side with their names, and one legend below.

    Args:
        samples: images (H, W, 3) uint8, masks (H, W) of class indices, and what to write below each.
        labels: names and colors.
        columns: images in a row.
        side: pixels that the longer side of an image is scaled to.

    Returns:
        An RGB image.

    Raises:
        ValueError: if there are no samples, or a mask does not fit its image.
    """
    if not samples:
        raise ValueError("samples is empty: give at least one image with its mask")
    total: Counter[int] = Counter()
    for _, mask, _ in samples:
        total.update({k: share / len(samples) for k, share in _shares(_checked_mask(mask), labels).items()})
    tiles = [(overlay(image, mask, labels, legend=False), title) for image, mask, title in samples]
    return _with_legend(sheet(tiles, columns=columns, side=side), _entries(total, labels, most=60), 15)


def sheet(
    images: Sequence[tuple[Image.Image, str]], *, columns: int = 4, side: int = 320, letters: int = 13
) -> Image.Image:
    """Lay images side by side, each over its name.

    Args:
        images: what to lay there, and what to write below each.
        columns: images in a row.
        side: pixels that the longer side of an image is scaled to.
        letters: size of the letters in pixels.
    """
    font = ImageFont.load_default(letters)
    gap, line = 10, round(1.5 * letters)
    tiles = []
    for image, title in images:
        scale = side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        tiles.append((image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST), title))
    columns = min(columns, len(tiles))
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile, _ in row) + line for row in rows]
    drawn = Image.new("RGB", (gap + columns * (side + gap), gap + sum(heights) + gap * len(rows)), _PAPER)
    draw = ImageDraw.Draw(drawn)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for column, (tile, title) in enumerate(row):
            left = gap + column * (side + gap)
            drawn.paste(tile, (left + (side - tile.width) // 2, top))
            below = top + height - line + 3
            draw.text((left + side // 2, below), _shortened(title, font, side), _INK, font, anchor="ma")
        top += height + gap
    return drawn


def _shortened(text: str, font: Any, width: int) -> str:
    """Cut the beginning of a name that is too long: its end tells files apart."""
    plain = "".join(sign if sign.isprintable() else "?" for sign in text)
    while len(plain) > 4 and font.getlength(plain) > width:
        plain = "..." + plain[4:] if plain.startswith("...") else "..." + plain[3:]
    return plain
