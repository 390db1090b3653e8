"""Where on an image one class is seen: the result, and how it is drawn. It needs numpy and Pillow, not torch."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from fullyconv.drawing import percent
from fullyconv.files import replacing
from fullyconv.images import write_image

# Matplotlib's inferno from a fifth of its length on (CC0): equal steps look equally large, also to people who do not
# tell red from green and in print without colors.
_COLORS = (
    (66, 10, 104), (93, 18, 110), (120, 28, 109), (147, 38, 103), (174, 48, 92), (199, 62, 76), (221, 81, 58),
    (237, 105, 37), (248, 133, 15), (252, 165, 10), (250, 198, 45), (242, 230, 97), (252, 255, 164),
)  # fmt: skip
_LEAST_TOP = 0.1  # share that has the last color at least: what is seen nowhere is not blown up to a hot spot
_FULL_AT = 0.4  # of the top, where the colors are as opaque as they become; below they fade into the image
_GRAY, _DIM = 0.65, 0.85  # how far the image beneath is turned to gray and darkened, so that color means heat alone
_SHOWN = 1600  # pixels of the longer side that a notebook shows
_PAPER, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)

Shares = npt.NDArray[np.float32]


@dataclass(frozen=True, repr=False)
class Heatmap:
    """The share of one class at every pixel of an image.

    Args:
        values: (H, W) float32 in 0..1, the softmax probability of the class, at the image's own size.
        label: name of the class.
        image: (H, W, 3) uint8, the image as it was read; of more bands the first three.

    Example:
        >>> Heatmap(np.eye(3, dtype=np.float32), "palace", np.zeros((3, 3, 3), np.uint8))
        Heatmap('palace', 3 x 3 pixels, up to 100.0 %, at row 0, column 0)
    """

    values: Shares
    label: str
    image: npt.NDArray[np.uint8]

    @property
    def peak(self) -> tuple[int, int]:
        """Row and column of the pixel with the largest share."""
        row, column = divmod(int(self.values.argmax()), self.values.shape[1])
        return row, column

    @property
    def most(self) -> str:
        """How large the share becomes, in words: "up to 60.0 %"."""
        said = percent(100 * float(self.values.max()))
        return said.replace("<", "below ") if said.startswith("<") else f"up to {said}"

    def overlay(self, alpha: float = 0.7, legend: bool = True) -> Image.Image:
        """Draw the map over the image, which is gray beneath it, with the name and a scale below.

        The last color of the scale is the largest share, but not less than 10 %, so that a class that is seen nowhere
        has no hot spot.

        Args:
            alpha: weight of the colors, from 0 (the image alone, as it is) to 1 (the hottest places hide it).
            legend: write the name, the largest share and the scale below.

        Returns:
            An RGB image; of the image's own size without legend.

        Raises:
            ValueError: if `alpha` is out of range.
        """
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"alpha={alpha}: a weight in 0..1")
        top = max(_LEAST_TOP, float(self.values.max()))
        drawn = np.empty_like(self.image)
        for start in range(0, len(drawn), 256):  # of a large image, a few rows at a time
            rows = slice(start, start + 256)
            beneath = _beneath(self.image[rows]) if alpha > 0 else self.image[rows]
            drawn[rows] = _heated(beneath, self.values[rows] / top, alpha)
        image = Image.fromarray(drawn)
        return _with_scale(image, self.label, self.most, top, alpha) if legend else image

    def save(self, path: str | Path, *, gray: bool = False) -> Path:
        """Write the overlay as an image, or the values.

        Args:
            path: `.png`, `.jpg` or another image for the overlay; `.npy` for the values, (H, W) float32.
            gray: write a `.png` of the values in place of the overlay: 16 bits, of which 65535 is a share of 1.

        Returns:
            The path.

        Raises:
            ValueError: if no format goes with the ending, or `gray` with another one than `.png`.
        """
        path = Path(path)
        if gray and path.suffix.lower() != ".png":
            raise ValueError(f"path={str(path)!r}: gray values are written as .png; end the name so")
        if gray:
            return write_image(path, Image.fromarray(np.rint(self.values * 65535).astype(np.uint16)))
        if path.suffix.lower() != ".npy":
            return write_image(path, self.overlay())
        with replacing(path) as part, part.open("xb") as file:
            np.save(file, self.values)
        return path

    def __repr__(self) -> str:
        height, width = self.values.shape
        row, column = self.peak
        return f"Heatmap({self.label!r}, {height} x {width} pixels, {self.most}, at row {row}, column {column})"

    def _repr_png_(self) -> bytes:
        """Show the overlay in a notebook, a large one smaller."""
        file, shown = io.BytesIO(), self.overlay()
        shown.thumbnail((_SHOWN, _SHOWN))
        shown.save(file, "PNG")
        return file.getvalue()


def _beneath(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Turn an image (H, W, 3) most of the way to gray, and darken it a little."""
    photo = Image.fromarray(image)
    gray = Image.blend(photo, photo.convert("L").convert("RGB"), _GRAY)
    return np.asarray(gray.point(lambda value: value * _DIM))


def _heated(beneath: npt.NDArray[Any], heat: npt.NDArray[Any], alpha: float) -> npt.NDArray[np.uint8]:
    """Lay colors (h, w) of 0..1 over an image (h, w, 3); the coldest of them let it through."""
    places = np.linspace(0, 1, len(_COLORS))
    colors = np.stack([np.interp(heat, places, channel) for channel in zip(*_COLORS, strict=True)], -1)
    weight = (alpha * np.minimum(1, heat / _FULL_AT))[..., None]
    drawn: npt.NDArray[np.uint8] = np.rint(beneath + weight * (colors - beneath)).astype(np.uint8)
    return drawn


def _with_scale(image: Image.Image, title: str, share: str, top: float, alpha: float) -> Image.Image:
    """Write name and largest share below, and the scale of colors with its ends."""
    size = min(max(round(min(image.size) / 26), 12), 64)  # of the letters, in pixels
    font = ImageFont.load_default(size)
    small = ImageFont.load_default(max(11, round(size * 0.8)))
    gap, bar = round(size * 0.75), (round(size * 8), round(size * 0.9))
    ends = ("0 %", percent(100 * top))
    words = [round(font.getlength(title)), round(small.getlength(share))]
    marks = [round(small.getlength(end)) for end in ends]
    left, right = gap + words[0] + gap + words[1], marks[0] + bar[0] + marks[1] + gap + gap
    side_by_side = image.width >= left + 2 * gap + right
    lines = 1 if side_by_side else 2
    line = round(size * 1.6)
    width = image.width if side_by_side else max(image.width, left + gap, right + gap)
    sheet = Image.new("RGB", (width, image.height + lines * line + gap), _PAPER)
    sheet.paste(image, ((width - image.width) // 2, 0))
    draw = ImageDraw.Draw(sheet)
    middle = image.height + gap // 2 + line // 2
    base = middle + round(size * 0.36)  # letters of two sizes stand on one line
    draw.text((gap, base), title, _INK, font, anchor="ls")
    draw.text((gap + words[0] + gap, base), share, _FAINT, small, anchor="ls")
    if not side_by_side:
        middle, base = middle + line, base + line
    start = (width - gap - marks[1] - gap // 2 - bar[0]) if side_by_side else gap + marks[0] + gap // 2
    heat = np.linspace(0, 1, bar[0])[None].repeat(bar[1], 0)
    paper = np.full((bar[1], bar[0], 3), 255 * _DIM)
    sheet.paste(Image.fromarray(_heated(paper, heat, alpha)), (start, middle - bar[1] // 2))
    draw.text((start - gap // 2, base), ends[0], _FAINT, small, anchor="rs")
    draw.text((start + bar[0] + gap // 2, base), ends[1], _FAINT, small, anchor="ls")
    return sheet
