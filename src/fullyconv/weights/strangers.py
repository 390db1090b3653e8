"""Whose a weight file is that does not say so: what to tell someone who wants a segmenter of it."""

from __future__ import annotations

import re
from pathlib import Path

from fullyconv.weights.checkpoints import recognize
from fullyconv.weights.segmenters import SEGMENTERS
from fullyconv.weights.statedict import read_state_dict
from fullyconv.weights.within import find

LIBRARIES = {
    "segmentation_models.pytorch": r"(?:^|\.)segmentation_head\.\d",
    "mmsegmentation": r"(?:^|\.)decode_head\.conv_seg\.",
    "transformers": r"(?:^|\.)decode_head\.(?:classifier|linear_c)\b",
}
"""Segmenters of others -> a name that their files alone hold."""

REMEDY = (
    "does not say which model it belongs to; if it is of a segmenter of torchvision, pass architecture= ({}) and the "
    "names of its classes in their order, classes= (fullyconv convert FILE --architecture NAME --classes a,b,c --to "
    "FOLDER makes a model folder of it); if it is of a classifier, load_classifier loads it, load_backbone(NAME, "
    "weights=...) and SegmentationModule(MODEL, backbone_weights=...) start a segmenter from it"
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
            return (
                f"it is of {library}, whose decoders this package does not have: use it there. Where its encoder is "
                "one of the backbones here, load_backbone(NAME, weights=FILE) takes that"
            )
    if recognize(find(tensors)).naming == "fullyconv":
        return (
            "it holds the tensors of a model of this package, but not which one: load them into the module that you "
            "saved them from, and write that with save_pretrained(FOLDER), which keeps model and classes"
        )
    return REMEDY
