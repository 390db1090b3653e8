"""``fullyconv.load``: one string to a segmenter that is ready to predict or to be trained further."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fullyconv.errors import near_miss
from fullyconv.hub.catalog import ALIASES, SHIPPED, zoo_folder
from fullyconv.labels import Labels
from fullyconv.module import SegmentationModule


def load(source: str | Path, *, classes: Sequence[str] | Labels | None = None) -> SegmentationModule:
    """Load a pretrained segmenter.

    Args:
        source: a name or alias of the zoo, such as ``"street"``, or the folder of an artefact. A string that starts
            with ``.``, ``/`` or ``~`` or ends in ``/`` is always a folder; another one is a zoo name first.
        classes: other classes than the artefact's: everything is kept but the score layers, which start at zero;
            ``reinitialised`` of the result names their tensors.

    Returns:
        The segmenter, in evaluation mode. ``Trainer.fit`` puts it into training mode.

    Raises:
        ValueError: if no model has that name; the message lists what there is.
        FileNotFoundError: if the folder is no artefact.
        WeightsError: if the artefact is damaged or made for another model.

    Example:
        >>> load("stret")
        Traceback (most recent call last):
            ...
        ValueError: source='stret': no model of the zoo and no folder with config.json. Did you mean street? ...
    """
    module = SegmentationModule.load(_find(source))
    if classes is None:
        return module
    labels = classes if isinstance(classes, Labels) else Labels.of(classes)
    return module.with_classes(labels)


def _find(source: str | Path) -> Path:
    text = str(source)
    if isinstance(source, str) and not text.startswith((".", "/", "~")) and not text.endswith("/"):
        name = ALIASES.get(text, text)
        if name in SHIPPED:
            return zoo_folder() / name
        if not (Path(text) / "config.json").is_file():
            raise ValueError(
                f"source={text!r}: no model of the zoo and no folder with config.json. "
                f"{near_miss(text, [*ALIASES, *SHIPPED])}"
            )
    folder = Path(text).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"source={text!r}: no such folder; pass the folder of an artefact, or a zoo name")
    return folder
