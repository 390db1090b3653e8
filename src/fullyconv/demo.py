"""``fullyconv demo``: where a classifier sees a word on a photograph, and a segmenter on an image it is made for."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from PIL import Image

from fullyconv.drawing import sheet
from fullyconv.images import refuse_address

CLASSIFIER = "efficientnet_lite0.imagenet"
SAMPLE_WORD = "palace"  # what scikit-learn's photograph shows
SEGMENTER = "nuclei"


def show(image: str | Path | None = None, word: str | None = None) -> tuple[Image.Image, list[str]]:
    """Draw the heat map of a word of ImageNet on a photograph and, on the photograph of the package, a segmentation.

    Args:
        image: a photograph; None takes scikit-learn's of a palace by a lake, and a sample of cell nuclei beside it.
        word: a class of ImageNet; None takes the one that wins most pixels.

    Returns:
        The panels beside each other, and what to say of them.

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
    panels = [(heat.overlay(), f"where a classifier sees “{heat.label}”")]
    if image is None:
        place = sample_of(SEGMENTER)
        result = load(SEGMENTER).predict(place)
        found = ", ".join(f"{name} {share:.0%}" for name, share in result.shares().items())
        lines.append(f"{place.name}: {SEGMENTER} finds {found}")
        lines.append("photograph: scikit-learn, CC BY 2.0; nuclei: 2018 Data Science Bowl, CC0")
        panels.append((Image.fromarray(result.image), "cell nuclei under a microscope"))
        panels.append((result.overlay(), f"what the model “{SEGMENTER}” of the zoo makes of them"))
    return sheet(panels, side=max(panels[0][0].size), letters=18), lines


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
