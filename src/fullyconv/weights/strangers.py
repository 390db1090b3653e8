"""Whose a weight file is that does not say so: what to tell someone who wants a segmenter of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fullyconv.errors import WeightsError
from fullyconv.weights.checkpoints import fitting, recognize
from fullyconv.weights.segmenters import SEGMENTERS, names_of
from fullyconv.weights.statedict import read_state_dict
from fullyconv.weights.within import find

LIBRARIES = {
    "segmentation_models.pytorch": r"(?:^|\.)segmentation_head\.\d",
    "mmsegmentation": r"(?:^|\.)decode_head\.conv_seg\.",
    "transformers": r"(?:^|\.)decode_head\.(?:classifier|linear_c)\b",
}
"""Segmenters of others -> a name that their files alone hold."""

REMEDY = (
    "if it is of a segmenter of torchvision, pass architecture= ({}) and classes=; if it is of a classifier, "
    "load_classifier loads it, load_backbone(NAME, weights=...) and SegmentationModule(MODEL, backbone_weights=...) "
    "start a segmenter from it"
).format(", ".join(SEGMENTERS))


def stranger(path: Path) -> str:
    """Say whose names the tensors of a file have, and what can be done with it.

    Args:
        path: a weight file or a checkpoint.

    Raises:
        WeightsError: if it cannot be read.
    """
    tensors = read_state_dict(path, whole=True).tensors
    for library, name in LIBRARIES.items():
        if any(re.search(name, key) for key in tensors):
            return f"it is of {library}, whose decoders this package does not have: use it there{_start(tensors, path)}"
    like_theirs = all(any(part in key for key in tensors) for part in ("backbone.", "classifier."))
    fit = [name for name in SEGMENTERS if like_theirs and _fits(tensors, name)]
    if fit:
        return (
            f"it has the names of torchvision's {' or '.join(fit)}: pass architecture={fit[0]!r}, and classes= with "
            "the names of its classes in their order (fullyconv convert FILE --architecture NAME --classes a,b,c --to "
            "FOLDER makes a model folder of it)"
        )
    names = find(tensors)
    if recognize(names).naming == "fullyconv":
        return (
            "it holds the tensors of a model of this package, but not which one: load them into the module that you "
            "saved them from, and write that with save_pretrained(FOLDER), which keeps model and classes"
        )
    return f"does not say which model it belongs to; {REMEDY}"


def _fits(tensors: Mapping[str, Tensor], name: str) -> bool:
    like = names_of(name)
    names = find(tensors, like)
    return all(key in names for key in like if not key.startswith("aux_classifier.") and "num_batches" not in key)


def _start(tensors: Mapping[str, Tensor], path: Path) -> str:
    """Say which backbone takes the encoder, if one does."""
    try:
        names = find(tensors)
        found = fitting({name: tensors[key] for name, key in names.items()})
    except WeightsError:
        found = []
    if not found:
        return ""
    return f"; its encoder starts a segmenter of this package: load_backbone({found[0]!r}, weights={path.name!r})"
