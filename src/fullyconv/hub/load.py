"""``fullyconv.load``: one string to a segmenter that is ready to predict or to be trained further."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from fullyconv.classifier import Classifier, DenseScorer
from fullyconv.errors import tell
from fullyconv.inference.processor import Device, device_of
from fullyconv.labels import Labels
from fullyconv.preprocessing import Preprocessing
from fullyconv.training.module import SegmentationModule
from fullyconv.weights.described import DenseFolder
from fullyconv.weights.lock import accepting
from fullyconv.weights.segmenters import fetch_segmenter, fetch_segmenter_as


@overload
def load(
    source: str | Path, *, allow_unverified: bool = False, device: Device = "auto"
) -> SegmentationModule | DenseScorer: ...


@overload
def load(
    source: str | Path, *, classes: Sequence[str] | Labels, allow_unverified: bool = False, device: Device = "auto"
) -> SegmentationModule: ...


@overload
def load(
    source: str | Path,
    *,
    architecture: str,
    classes: Sequence[str] | Labels | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    allow_unverified: bool = False,
    device: Device = "auto",
) -> SegmentationModule: ...


@accepting()
def load(
    source: str | Path,
    *,
    architecture: str | None = None,
    classes: Sequence[str] | Labels | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    allow_unverified: bool = False,
    device: Device = "auto",
) -> SegmentationModule | DenseScorer:
    """Load a pretrained segmenter.

    Args:
        source: a name or alias of the zoo, such as ``"street"``; ``"hf://ORG/REPO[@REVISION]"`` or ``"ORG/REPO"``, a
            model folder on the Hugging Face Hub; ``"torchvision://FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1"``; the
            model folder; a ``.caffemodel`` of the reference networks; a ``.ckpt`` of this package; an https
            address of such a file, with ``#sha256=DIGEST``. A string that starts with ``.``, ``/`` or ``~`` or ends in
            ``/`` is always a path; another one is a zoo name first.
        architecture: only for a weight file of one of torchvision's segmenters that you trained, which does not say
            so: "deeplabv3_resnet50", "fcn_resnet50" and so on, the name of its builder.
        classes: other classes than those of the weights: everything is kept but the score layers, which start at zero;
            ``load_report`` of the result says so. With ``architecture`` the classes that the file was trained on, in
            their order.
        preprocessing: with ``architecture``, what the file was trained on, as a `Preprocessing` or a dict; ImageNet's
            mean and deviation unless told otherwise.
        allow_unverified: accept weights without a known digest (the hub's, where no digest is pinned): commit, size
            and sha256 are shown and recorded in a lock file, and every later load must match them.
        device: where it computes: "cuda", "cuda:1", "mps", "xpu", "cpu" or a ``torch.device``; "auto" is the
            GPU or another accelerator, or the CPU where there is none. None is the CPU.

    Returns:
        The segmenter, in evaluation mode; a converted classifier if the model folder holds one. ``Trainer.fit`` puts a
        segmenter into training mode.

    Raises:
        ValueError: if no model has this name (the message suggests some), or there is no such device.
        FileNotFoundError: if a path does not exist.
        WeightsError: if the weights are damaged, differ from their digest, or are of another model or of a
            classifier.
        DownloadError: if the download fails.

    Example:
        >>> load("stret")
        Traceback (most recent call last):
            ...
        ValueError: source='stret': no model of the zoo and no folder with config.json. Did you mean street? ...
    """
    place = device_of(device)
    labels = classes if classes is None or isinstance(classes, Labels) else Labels.of(classes)
    if architecture is not None:
        expected = None if preprocessing is None else Preprocessing.of(preprocessing)
        weights = fetch_segmenter_as(source, architecture, labels, expected, allow_unverified)
        return SegmentationModule.of(weights).to(place)
    if preprocessing is not None:
        raise ValueError("preprocessing: goes with architecture; these weights say what they expect, leave it out")
    opened = fetch_segmenter(source, allow_unverified)
    if isinstance(opened, DenseFolder):
        if labels is None:
            return DenseScorer.from_pretrained(opened.path, device=place)
        raise ValueError(
            f"classes: {source} is a converted classifier, which has no score layers to exchange; build a segmenter on "
            f"it: SegmentationModule(MODEL, classes=..., backbone_weights={str(source)!r})"
        )
    module = SegmentationModule.of(opened)
    if labels is None:
        return module.to(place)
    other = module.with_classes(labels)
    if other.reinitialized:
        kept = len(other.model.state_dict()) - len(other.reinitialized)
        tell(
            f"{source}: now {len(labels.names)} classes; {kept} tensors kept, {len(other.reinitialized)} start anew: "
            f"{', '.join(other.reinitialized)}"
        )
    return other.to(place)


def load_classifier(
    source: str | Path,
    *,
    architecture: str | None = None,
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    allow_unverified: bool = False,
    device: Device = "auto",
) -> Classifier:
    """Load a pretrained image classifier, ready to classify or to be converted.

    Args:
        source: a name of the zoo ("vgg16.imagenet"), "torchvision://VGG16_Weights.IMAGENET1K_V1",
            "hf://timm/resnet18.a1_in1k", a model folder of a classifier (on the hub or a folder), a weight file, or an
            https address with ``#sha256=DIGEST``.
        architecture: "torchvision/NAME", "timm/NAME" or a classifier of this package; only needed where the source does
            not say.
        classes: the K class names; only needed where the source does not say.
        preprocessing: what the weights expect of an image, as a `Preprocessing` or a dict; only needed where the source
            does not say.
        allow_unverified: accept weights without a known digest; commit, size and sha256 are shown and recorded.
        device: where it computes, as `load` takes it.

    Returns:
        The classifier, in evaluation mode; ``convolutionalize()`` gives the dense network.

    Raises:
        ValueError: if the source means nothing, or does not say which architecture it is of, or there is no such
            device.
        WeightsError: if the weights do not belong to the architecture, or are not what was promised.
        DownloadError: if the download fails.
    """
    return Classifier.from_pretrained(
        source,
        architecture=architecture,
        classes=classes,
        preprocessing=preprocessing,
        allow_unverified=allow_unverified,
        device=device,
    )
