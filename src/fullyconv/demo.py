"""``fullyconv demo``: where a classifier sees a word on a photograph, and a segmenter on an image it is made for."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from fullyconv.images import refuse_address

CLASSIFIER = "efficientnet_lite0.imagenet"
SAMPLE_WORD = "palace"  # what scikit-learn's photograph shows
SEGMENTER = "nuclei"

_LANCZOS = Image.Resampling.LANCZOS
_GAP, _TITLE, _TEXT = 24, 22, 15
_PAPER, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)


@dataclass(frozen=True)
class Shown:
    """What the demo made.

    Args:
        sheet: the panels beside each other.
        lines: what to say of it.
    """

    sheet: Image.Image
    lines: tuple[str, ...]


def show(image: str | Path | None = None, word: str | None = None) -> Shown:
    """Draw the heat map of a word of ImageNet on a photograph and, on the photograph of the package, a segmentation.

    Args:
        image: a photograph; None takes scikit-learn's of a palace by a lake, and a sample of cell nuclei beside it.
        word: a class of ImageNet; None takes the one that wins most pixels.

    Returns:
        The panels and what to say of them.

    Raises:
        FileNotFoundError: if there is no image.
        DownloadError: if the weights are not installed; the message names the command.
        ValueError: if there is no such word; near ones are offered.
    """
    from fullyconv.hub.load import load, load_classifier

    if image is not None:
        refuse_address(image)
    photograph = Path(image) if image is not None else sample_photograph()
    dense = load_classifier(CLASSIFIER).convolutionalize()
    shares = dense.predict(photograph).shares()
    leading = [(name, share) for name, share in shares.items() if share > 0][:4]
    if word is None:
        word = leading[0][0] if image is not None else SAMPLE_WORD
    heat = dense.heatmap(photograph, word)
    words = ", ".join(f"{name} {share:.0%}" for name, share in leading)
    lines = [f"{photograph.name}: {CLASSIFIER} sees {words} (of the pixels)"]
    panels = [(heat.overlay(), f"Where a classifier sees “{heat.label}”", "trained on whole images of ImageNet alone")]
    if image is None:
        segmenter = load(SEGMENTER)
        place = sample_of(SEGMENTER)
        result = segmenter.predict(place)
        lines.append(
            f"{place.name}: {SEGMENTER} finds " + ", ".join(f"{n} {s:.0%}" for n, s in result.shares().items())
        )
        lines.append("photograph: scikit-learn, CC BY 2.0; nuclei: 2018 Data Science Bowl, CC0")
        panels.append((Image.fromarray(result.image), "Cell nuclei under a microscope", "a test image"))
        panels.append((result.overlay(), "What a segmenter makes of it", f"the model “{SEGMENTER}” of the zoo"))
    return Shown(_beside(panels), tuple(lines))


def sample_photograph() -> Path:
    """Find scikit-learn's photograph of a palace, without importing scikit-learn.

    Raises:
        FileNotFoundError: if it is not installed.
    """
    spec = importlib.util.find_spec("sklearn")
    for place in (spec.submodule_search_locations or []) if spec else []:
        photograph = Path(place) / "datasets" / "images" / "china.jpg"
        if photograph.is_file():
            return photograph
    raise FileNotFoundError(
        "no image to show: give one, as in 'fullyconv demo photo.jpg', or install the sample photograph with "
        "pip install 'fullyconv[demo]'"
    )


def sample_of(name: str) -> Path:
    """Find the sample image of a shipped model.

    Raises:
        FileNotFoundError: if it has none.
    """
    from fullyconv.weights import catalog

    entry = catalog.find(name)
    path = None if entry is None else entry.folder / catalog.SAMPLE
    if path is None or not path.is_file():
        raise FileNotFoundError(f"{name}: has no {catalog.SAMPLE}; install fullyconv again")
    return path


def _beside(panels: list[tuple[Image.Image, str, str]]) -> Image.Image:
    """Lay panels beside each other, of one width, each under a title and a line."""
    side = panels[0][0].width
    scaled = [image.resize((side, round(image.height * side / image.width)), _LANCZOS) for image, _, _ in panels]
    title, text = ImageFont.load_default(_TITLE), ImageFont.load_default(_TEXT)
    top = _GAP + round(2.6 * _TITLE)
    widths = [
        max(image.width, round(title.getlength(name)), round(text.getlength(line)))
        for image, (_, name, line) in zip(scaled, panels, strict=True)
    ]
    height = top + max(image.height for image in scaled) + _GAP
    sheet = Image.new("RGB", (sum(widths) + _GAP * (len(panels) + 1), height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    left = _GAP
    for image, width, (_, name, line) in zip(scaled, widths, panels, strict=True):
        draw.text((left, _GAP), name, _INK, title)
        draw.text((left, _GAP + round(1.4 * _TITLE)), line, _FAINT, text)
        sheet.paste(image, (left, top))
        left += width + _GAP
    return sheet
