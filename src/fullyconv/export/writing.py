"""Write a segmenter as one ONNX file, after it was compared with the segmenter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from fullyconv.confusion import SegmentationScores
from fullyconv.export.graph import OPSET, Network, finish, graph_of
from fullyconv.export.parity import check_parity, differing, evaluate, parity_of
from fullyconv.export.quantization import images_of, quantized
from fullyconv.files import remove_unfinished, write
from fullyconv.runtime import KEY, MAX_BYTES, Description, ExportedSegmenter, read_description
from fullyconv.training.module import SegmentationModule

if TYPE_CHECKING:
    from fullyconv.data.datamodule import SegmentationDataModule

MUCH = 0.02
"""Share of pixels beyond which a report says that int8 changes much."""


@dataclass(frozen=True)
class Export:
    """What `export` wrote.

    Args:
        path: the file.
        description: what its metadata says, parity among it.
        bytes: size of the file.
        scores: with ``data``, what the file reached on it; else None.
        model_scores: with ``data``, what the segmenter itself reached on it; else None.
    """

    path: Path
    description: Description
    bytes: int
    scores: SegmentationScores | None = None
    model_scores: SegmentationScores | None = None

    def report(self) -> str:
        """Say in a few lines what was written, and how far it is from the segmenter."""
        parity = self.description.parity
        sizes = ", ".join(f"{n} x {h} x {w}" for n, h, w in parity["sizes"])
        lines = [
            f"{self.path}: {self.bytes / 2**20:.1f} MiB, {self.description.precision}, opset {OPSET}, gives "
            f"{' and '.join(self.description.ports)}",
            f"against the segmenter, images of {sizes}: {parity['pixels']:.3%} of the pixels differ, scores by at most "
            f"{parity['scores']:.1e} of the largest",
        ]
        if "quantized_pixels" in parity:
            lines.append(
                f"int8 against the segmenter, on the images of the calibration: {parity['quantized_pixels']:.2%} of "
                "the pixels differ"
            )
            if parity["quantized_pixels"] > MUCH and self.scores is None:
                lines[-1] += "; that is much: measure what it costs on masks (--score DATA), or leave int8 out"
        if self.scores is not None and self.model_scores is not None:
            mine, theirs = 100 * self.scores.mean_iou, 100 * self.model_scores.mean_iou
            lines.append(f"mIoU {mine:.2f}, of the segmenter {theirs:.2f}: {mine - theirs:+.2f} points")
        return "\n".join(lines)


def export(
    model: SegmentationModule,
    path: str | Path,
    *,
    labels: bool = True,
    scores: bool = False,
    calibrate: str | Path | Sequence[str | Path] | None = None,
    data: SegmentationDataModule | None = None,
    split: str = "test",
) -> Export:
    """Write a segmenter as one ONNX file that takes images of any size.

    The file is compared with the segmenter at several sizes before it is written; one that differs is not written at
    all. `fullyconv.runtime.load` predicts from it without torch.

    Args:
        model: the segmenter; it is left as it is. One with several heads gives an output for each.
        path: an ``.onnx`` file; what is there is replaced, in one step.
        labels: whether the graph gives the class of every pixel, uint8 (uint16 with more than 255 classes).
        scores: whether it gives the scores of every class, float32.
        calibrate: images to measure the range of activations on: a folder, a pattern or a list of files. With them
            convolutions are computed in int8 (static quantization, one scale for each channel of a kernel); some
            hundred images as they will be met are plenty.
        data: a set to score both file and segmenter on; of segmenters with one head.
        split: of data.

    Returns:
        What was written; print its ``report()``.

    Raises:
        ValueError: if the segmenter cannot be exported, or the file does not do what the segmenter does.

    Example:
        >>> import tempfile
        >>> module = SegmentationModule("fcn32s_resnet18_quarter", classes=["road", "sky"]).eval()
        >>> made = export(module, f"{tempfile.mkdtemp()}/small.onnx")       # doctest: +SKIP
        >>> print(made.report())                                            # doctest: +SKIP
    """
    target = Path(path)
    _check(model, target, labels, scores)
    images = None if calibrate is None else images_of(calibrate)
    if data is not None:
        if "" not in model.heads:
            raise ValueError(
                f"data: the model has the heads {', '.join(model.classes)}, and a file is scored that has "
                "one; leave it out"
            )
        model.check_data(data)
        data.check(split)
    network = Network(model)
    proto = graph_of(network, int(model.hparams["in_channels"]), list(model.heads))
    finish(proto, model, labels, scores)
    parity = parity_of(proto, network, model)
    check_parity(parity, model, target)
    description = _describe(model, labels, scores, parity, "float32" if images is None else "int8")
    if images is not None:
        proto = quantized(proto, model, images)
        apart = differing(ExportedSegmenter(target, proto.SerializeToString(), description), model, images)
        description = replace(description, parity=parity | {"quantized_pixels": apart})
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, {KEY: description.to_json()})
    proto.producer_name, proto.producer_version = "fullyconv", description.version
    if (size := proto.ByteSize()) > MAX_BYTES:
        raise ValueError(
            f"{target}: the model takes {size} bytes, and one ONNX file holds {MAX_BYTES}; use a smaller one"
        )
    content: bytes = proto.SerializeToString()
    read_description(content, target)  # what was written can be read, or nothing is written
    made = Export(target, description, len(content))
    if data is not None:
        exported = ExportedSegmenter(target, content, description)
        made = replace(made, scores=evaluate(exported, data, split), model_scores=model.evaluate(data, split))
    remove_unfinished(target.parent)
    write(target, content, lasting=True)
    return made


def _describe(
    model: SegmentationModule, labels: bool, scores: bool, parity: dict[str, Any], precision: str
) -> Description:
    return Description(
        labels=model.labels,
        preprocessing=model.preprocessing,
        in_channels=int(model.hparams["in_channels"]),
        outputs=tuple(name for name, wanted in (("labels", labels), ("scores", scores)) if wanted),
        model=str(model.hparams["model"]),
        license=model.license or "unstated",
        score=model.score,
        parity=parity,
        precision=precision,
        version=metadata.version("fullyconv"),
    )


def _check(model: object, target: Path, labels: bool, scores: bool) -> None:
    if not isinstance(model, SegmentationModule):
        raise ValueError(
            f"model is a {type(model).__name__}: only segmenters are exported; fullyconv.load gives one by name"
        )
    if not labels and not scores:
        raise ValueError("labels=False and scores=False: the file would give nothing; ask for one of them")
    if target.suffix.lower() != ".onnx" or target.is_dir() or not target.resolve().parent.is_dir():
        raise ValueError(f"{target}: give an .onnx file in a folder that exists")
