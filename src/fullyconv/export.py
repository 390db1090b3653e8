"""From a segmenter to one ONNX file for images of any size, compared with the segmenter before it is written.

The graph takes bytes as every library for images gives them, ``image`` (N, H, W, C) uint8 RGB, and gives ``labels``
(N, H, W), ``scores`` (N, K, H, W) or both, for each head of several ``labels_HEAD`` and ``scores_HEAD``; N, H and W
are free. Normalizing, upsampling and argmax are inside. A
segmenter that looks at images at a scale of its own (``Preprocessing.short_side``) takes the scaled image and a
second input, ``size`` (2,) int64, height and width of the image, at which labels and scores come out.
`fullyconv.runtime` does all that.
"""

from __future__ import annotations

import copy
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullyconv.confusion import SegmentationScores
from fullyconv.files import write
from fullyconv.images import find_images, read_bands
from fullyconv.inference.scaling import scaled_size
from fullyconv.labels import Labels
from fullyconv.metrics import ConfusionMatrix
from fullyconv.module import MultiHeadModule, SegmentationModule
from fullyconv.preprocessing import Preprocessing
from fullyconv.runtime import KEY, Description, ExportedSegmenter, port, read_description, scaled
from fullyconv.upsampling import MaxUnpooling, open_sizes

if TYPE_CHECKING:
    from fullyconv.data.datamodule import SegmentationDataModule

OPSET = 18
SIZES = ((2, 64, 96), (1, 97, 131), (2, 256, 200), (1, 20, 33))
"""Batches, heights and widths at which file and segmenter are compared: multiples of no stride among them, and one that
is smaller than a stride of 32."""
MAX_DIFFERENCE = 1e-3
"""Largest difference of a score, over the largest score, with which a file is written."""
MAX_PIXELS = 0.005
"""Largest share of pixels with another class with which a file is written; they are ties but for rounding. Where maxima
are unpooled it is also the largest share of pixels with other scores: of two maxima that are equal but for rounding
either may be the one to whose place a value is put back."""
MUCH = 0.02
"""Share of pixels beyond which a report says that int8 changes much."""
MAX_BYTES = 2**31 - 1

Session = Any  # onnxruntime has no types


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
        ImportError: if the libraries of the extra 'onnx' are not installed.

    Example:
        >>> import tempfile
        >>> module = SegmentationModule("fcn32s_resnet18_quarter", classes=["road", "sky"]).eval()
        >>> made = export(module, f"{tempfile.mkdtemp()}/small.onnx")       # doctest: +SKIP
        >>> print(made.report())                                            # doctest: +SKIP
    """
    target = Path(path)
    _check(model, target, labels, scores)
    onnx = _libraries()
    images = None if calibrate is None else _images(calibrate)
    if data is not None:
        if isinstance(model, MultiHeadModule):
            raise ValueError(
                f"data: the model has the heads {', '.join(model.classes)}, and a file is scored that has "
                "one; leave it out"
            )
        model.check_data(data)
        data.check(split)
    network = _Network(model)
    proto = _graph(network, int(model.hparams["in_channels"]), list(_heads(model)))
    _finish(onnx, proto, model, labels, scores)
    description = _describe(model, labels, scores)
    parity = _parity(onnx, proto, network, model)
    _check_parity(parity, model, target)
    if images is not None:
        proto = _quantized(onnx, proto, model, images)
        parity |= {"quantized_pixels": _differing(_session(proto), model, images)}
        description = replace(description, precision="int8")
    description = replace(description, parity=parity)
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
        made = replace(made, scores=_evaluate(exported, data, split), model_scores=model.evaluate(data, split))
    write(target, content, lasting=True)
    return made


class _Network(nn.Module):
    """Bytes to logits: a copy of the segmenter in single precision on the CPU, in evaluation mode."""

    def __init__(self, module: SegmentationModule) -> None:
        super().__init__()
        self.model = copy.deepcopy(module.model).cpu().float().eval().requires_grad_(False)
        self.model.to(memory_format=torch.contiguous_format)
        self.preprocessing: Preprocessing = module.preprocessing

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        logits = self.model(self.preprocessing(image.permute(0, 3, 1, 2).float() / 255))
        return tuple(logits.values()) if isinstance(logits, dict) else (logits,)


def _heads(model: SegmentationModule) -> dict[str, Labels]:
    """Give the classes of each head; one head alone has the name ""."""
    return model.labels if isinstance(model.labels, dict) else {"": model.labels}


def _graph(network: _Network, channels: int, heads: Sequence[str]) -> Any:
    """Let PyTorch export the network; sizes stay open, and our own operators are translated below."""
    operators = torch.ops.fullyconv
    free = torch.export.Dim.DYNAMIC
    example = torch.randint(0, 256, (2, 96, 128, channels), dtype=torch.uint8)
    try:
        with open_sizes(), _quiet(), torch.inference_mode(False):
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                dynamic_shapes=({0: free, 1: free, 2: free},),
                input_names=["image"],
                output_names=[port("scores", head) for head in heads],
                verbose=False,
                custom_translation_table={
                    operators.resample.default: _translate_resample,
                    operators.continued.default: _translate_continued,
                    operators.window.default: _translate_window,
                    operators.unpool.default: _translate_unpool,
                },
            )
    except Exception as error:  # the exporter wraps whatever went wrong in errors of its own
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = " ".join(str(cause).split())[:300] or type(cause).__name__
        raise ValueError(
            f"model={type(network.model.backbone).__name__} with {type(network.model.head).__name__}: PyTorch's "
            f"exporter cannot write it for images of any size ({reason}); nothing was written. Models of the presets "
            "can be exported, other backbones only where every layer serves any size"
        ) from error
    assert program is not None
    return program.model_proto


def _finish(onnx: Any, proto: Any, model: SegmentationModule, labels: bool, scores: bool) -> None:
    """Name the free sides, and add what comes after the logits: scaling to the image's size, argmax."""
    make, graph, types = onnx.helper, proto.graph, onnx.TensorProto
    heads = _heads(model)
    scaled_again = model.preprocessing.short_side is not None
    if scaled_again:
        # A slash stands in no name of a head, so that no two values get one name.
        logits = {port("scores", head): f"{port('scores', head)}/logits" for head in heads}
        for node in graph.node:
            node.output[:] = [logits.get(name, name) for name in node.output]
            node.input[:] = [logits.get(name, name) for name in node.input]
        graph.input.append(make.make_tensor_value_info("size", types.INT64, [2]))
        makers = {name: node for node in graph.node for name in node.output}
        for scores_, seen in logits.items():
            if _stretches(onnx, makers[seen]):
                graph.node.remove(makers[seen])
                graph.node.extend(_stretched_twice(onnx, makers[seen], scores_))
                continue
            graph.node.extend(
                [
                    make.make_node("Shape", [seen], [f"{seen}/head"], start=0, end=2),
                    make.make_node("Concat", [f"{seen}/head", "size"], [f"{seen}/size"], axis=0),
                    make.make_node(
                        "Resize",
                        [seen, "", "", f"{seen}/size"],
                        [scores_],
                        mode="linear",
                        coordinate_transformation_mode="half_pixel",
                    ),
                ]
            )
    kinds = {head: types.UINT8 if entry.dtype is np.uint8 else types.UINT16 for head, entry in heads.items()}
    for head in heads if labels else ():
        name = port("labels", head)
        graph.node.extend(
            [
                make.make_node("ArgMax", [port("scores", head)], [f"{name}/int64"], axis=1, keepdims=0),
                make.make_node("Cast", [f"{name}/int64"], [name], to=kinds[head]),
            ]
        )
    channels = int(model.hparams["in_channels"])
    inputs = [make.make_tensor_value_info("image", types.UINT8, ["N", "H", "W", channels]), *list(graph.input)[1:]]
    sides = ["height", "width"] if scaled_again else ["H", "W"]
    del graph.input[:]
    graph.input.extend(inputs)
    del graph.output[:]
    del graph.value_info[:]  # named by the exporter's own symbols, which nobody can read
    for head, entry in heads.items():
        if labels:
            graph.output.append(make.make_tensor_value_info(port("labels", head), kinds[head], ["N", *sides]))
        if scores:
            shape = ["N", entry.num_classes, *sides]
            graph.output.append(make.make_tensor_value_info(port("scores", head), types.FLOAT, shape))
    graph.name = str(model.hparams["model"])
    proto.ir_version = min(proto.ir_version, 10)  # as far as an onnxruntime of two years ago goes
    onnx.checker.check_model(proto)


def _stretches(onnx: Any, node: Any) -> bool:
    """Tell whether a node stretches scores over the image bilinearly, edge to edge, to sizes that are given."""
    given = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    return (
        node.op_type == "Resize"
        and len(node.input) == 4
        and bool(node.input[3])
        and given.get("mode") == b"linear"
        and given.get("coordinate_transformation_mode") == b"half_pixel"
        and not given.get("antialias")
        and not given.get("exclude_outside")
    )


def _stretched_twice(onnx: Any, node: Any, output: str) -> list[Any]:
    """Stretch scores over the image and the image to the image in one step.

    Both are linear in the rows and in the columns, so that their product is a matrix for either: what they make of the
    identity. No logits of the size that the network looked at are made, which takes most of the time of both.

    Args:
        onnx: the library.
        node: the first of the two, a "Resize" of scores (N, K, h, w) to sizes.
        output: name of the result (N, K, H, W); "size" holds H and W.

    Returns:
        Nodes in the place of both.
    """
    make, types = onnx.helper, onnx.TensorProto
    scores, sizes = node.input[0], node.input[3]
    stretch = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    zero = make.make_tensor("zero", types.FLOAT, [1], [0.0])
    nodes = []

    def number(name: str, *values: int) -> str:
        nodes.append(
            make.make_node("Constant", [], [name], value=make.make_tensor(name, types.INT64, [len(values)], values))
        )
        return name

    one = number(f"{output}/one", 1)
    for axis, name in enumerate(("rows", "columns")):
        at = f"{output}/{name}"
        pick = number(f"{at}/axis", axis), number(f"{at}/place", 2 + axis)
        nodes += [
            make.make_node("Shape", [scores], [f"{at}/n"], start=2 + axis, end=3 + axis),
            make.make_node("Gather", [sizes, pick[1]], [f"{at}/seen"]),
            make.make_node("Gather", ["size", pick[0]], [f"{at}/own"]),
            make.make_node("Concat", [f"{at}/n", f"{at}/n"], [f"{at}/square"], axis=0),
            make.make_node("ConstantOfShape", [f"{at}/square"], [f"{at}/zeros"], value=zero),
            make.make_node("EyeLike", [f"{at}/zeros"], [f"{at}/flat"]),
            make.make_node("Unsqueeze", [f"{at}/flat", number(f"{at}/leading", 0, 1)], [f"{at}/0"]),
        ]
        for step, side in enumerate((f"{at}/seen", f"{at}/own")):
            nodes += [
                make.make_node("Concat", [one, one, side, f"{at}/n"], [f"{at}/shape{step}"], axis=0),
                make.make_node(
                    "Resize", [f"{at}/{step}", "", "", f"{at}/shape{step}"], [f"{at}/{step + 1}"], **stretch
                ),
            ]
    return [
        *nodes,
        make.make_node("Transpose", [f"{output}/columns/2"], [f"{output}/across"], perm=[0, 1, 3, 2]),
        make.make_node("MatMul", [scores, f"{output}/across"], [f"{output}/wide"]),
        make.make_node("MatMul", [f"{output}/rows/2", f"{output}/wide"], [output]),
    ]


def _describe(model: SegmentationModule, labels: bool, scores: bool) -> Description:
    outputs = [name for name, wanted in (("labels", labels), ("scores", scores)) if wanted]
    return Description(
        labels=model.labels,
        preprocessing=model.preprocessing,
        in_channels=int(model.hparams["in_channels"]),
        outputs=tuple(outputs),
        model=str(model.hparams["model"]),
        license=model.license or "unstated",
        score=model.score,
        parity={},
        precision="float32",
        version=metadata.version("fullyconv"),
    )


# ---- comparing ------------------------------------------------------------------------------------------------------


def _parity(onnx: Any, proto: Any, network: _Network, model: SegmentationModule) -> dict[str, Any]:
    """Run both on images of several sizes, and give the share of differing pixels and the largest difference."""
    # The graph that is compared gives its scores, too; the one that is written perhaps not.
    both = copy.deepcopy(proto)
    heads = list(_heads(model))
    for name in [port("scores", head) for head in heads]:
        if name not in [output.name for output in both.graph.output]:
            info = onnx.helper.make_tensor_value_info
            both.graph.output.append(info(name, onnx.TensorProto.FLOAT, [None] * 4))
    session = _session(both)
    generator = torch.Generator().manual_seed(0)
    differing = beyond = pixels = 0
    difference = 0.0
    for number, height, width in SIZES:
        image = _example(generator, number, height, width, int(model.hparams["in_channels"]))
        with torch.inference_mode():
            expected = network(image)
        feeds = {"image": image.numpy()}
        size: tuple[int, int] | None = None
        if model.preprocessing.short_side is not None:
            size = (height * 3 // 2, width * 2 - 1)
            feeds["size"] = np.array(size, np.int64)
        for head, theirs in zip(heads, expected, strict=True):
            if size is not None:
                theirs = F.interpolate(theirs, size=size, mode="bilinear", align_corners=False)
            mine = torch.from_numpy(session.run([port("scores", head)], feeds)[0])
            if mine.shape != theirs.shape or not bool(torch.isfinite(mine).all()):
                raise ValueError(
                    f"model={model.hparams['model']!r}: the exported graph gives scores of {tuple(mine.shape)} where "
                    f"the segmenter gives {tuple(theirs.shape)}, or none that are finite; nothing was written"
                )
            classes = mine.argmax(1)
            if _gives_labels(session):
                classes = torch.from_numpy(session.run([port("labels", head)], feeds)[0])
            differing += int((classes.long() != theirs.argmax(1)).sum())
            pixels += theirs[:, 0].numel()
            apart = (mine - theirs).abs().amax(1) / (float(theirs.abs().max()) or 1.0)
            beyond += int((apart > MAX_DIFFERENCE).sum())
            difference = max(difference, float(apart.max()))
    sizes = [list(size) for size in SIZES]
    return {"sizes": sizes, "pixels": differing / pixels, "scores": difference, "scores_beyond": beyond / pixels}


def _check_parity(parity: dict[str, Any], model: SegmentationModule, target: Path) -> None:
    unpools = any(isinstance(module, MaxUnpooling) for module in model.modules())
    if parity["scores_beyond"] > (MAX_PIXELS if unpools else 0) or parity["pixels"] > MAX_PIXELS:
        raise ValueError(
            f"{target}: nothing was written, because the exported {model.hparams['model']!r} does not do what the "
            f"segmenter does: {parity['pixels']:.3%} of the pixels differ (at most {MAX_PIXELS:.1%}), scores by "
            f"{parity['scores']:.1e} of the largest (at most {MAX_DIFFERENCE:.0e}). Try other versions of torch, "
            "onnxscript and onnxruntime, and report the model"
        )


def _example(generator: torch.Generator, number: int, height: int, width: int, channels: int) -> Tensor:
    """Draw images that are smooth in the large and noisy in the small, as photographs are.

    None of it is saturated: in an area of one color all maxima are equal, and rounding alone says which is unpooled.
    """
    coarse = 50 + torch.rand(number, channels, 4, 5, generator=generator) * 120
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
    noisy = smooth + 35 * torch.rand(smooth.shape, generator=generator)
    return noisy.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _gives_labels(session: Session) -> bool:
    return any(output.name.startswith("labels") for output in session.get_outputs())


def _session(proto: Any) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _differing(session: Session, model: SegmentationModule, images: Sequence[Path]) -> float:
    """Give the share of pixels that a quantized graph labels otherwise than the segmenter, over some images."""
    differing = pixels = 0
    for image in images[:16]:
        feeds = _feeds(model, read_bands(image, int(model.hparams["in_channels"])))
        kind = "labels" if _gives_labels(session) else "scores"
        answer = model.predict(image)
        expected = answer if isinstance(answer, dict) else {"": answer}
        for head, theirs in expected.items():
            given = session.run([port(kind, head)], feeds)[0]
            mine = given[0] if kind == "labels" else given[0].argmax(0)
            differing += int((mine != theirs.mask).sum())
            pixels += theirs.mask.size
    return differing / pixels


def _evaluate(exported: ExportedSegmenter, data: SegmentationDataModule, split: str) -> SegmentationScores:
    labels = exported.labels  # of one head
    confusion = ConfusionMatrix(labels.num_classes, labels.ignore_index)
    for batch in data.eval_dataloader(split):
        for image, mask, (height, width) in zip(batch["image"], batch["mask"], batch["size"].tolist(), strict=True):
            pixels = (image[:, :height, :width] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            # Like the segmenter's own evaluation it looks at images as they are: no short_side.
            predicted = _as_they_are(exported, pixels)
            confusion.update(torch.from_numpy(predicted.astype(np.int64))[None], mask[None, :height, :width])
    return confusion.scores()


def _as_they_are(exported: ExportedSegmenter, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    feeds: dict[str, Any] = {"image": np.ascontiguousarray(pixels[None])}
    if exported.description.preprocessing.short_side is not None:
        feeds["size"] = np.array(pixels.shape[:2], np.int64)
    name = exported.description.outputs[0]
    answer = exported.run(feeds, name)
    mask: npt.NDArray[Any] = answer[0] if name == "labels" else answer[0].argmax(0)
    return mask


# ---- quantizing -----------------------------------------------------------------------------------------------------


def _quantized(onnx: Any, proto: Any, model: SegmentationModule, images: Sequence[Path]) -> Any:
    """Compute convolutions, sums and poolings in int8, with ranges measured on images."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self.rest: Iterator[Path] = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            path = next(self.rest, None)
            return None if path is None else _feeds(model, read_bands(path, int(model.hparams["in_channels"])))

    # The quantizer wants to know the types of all values.
    inferred = onnx.shape_inference.infer_shapes(proto)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        quantize_static(
            inferred,
            str(Path(folder) / "int8.onnx"),
            Images(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Add", "MaxPool"],
            per_channel=True,
            # Sums of products of full bytes overflow 16 bits on processors without VNNI, and nobody says so.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(str(Path(folder) / "int8.onnx"))


def _feeds(model: SegmentationModule, pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
    short_side = model.preprocessing.short_side
    own = (pixels.shape[0], pixels.shape[1])
    if short_side is None:
        return {"image": np.ascontiguousarray(pixels[None])}
    return {"image": scaled(pixels, scaled_size(own, short_side))[None], "size": np.array(own, np.int64)}


def _images(calibrate: str | Path | Sequence[str | Path]) -> list[Path]:
    given = [calibrate] if isinstance(calibrate, str | Path) else list(calibrate)
    found = [path for each in given for path in find_images(each, recursive=True)]
    if not found:
        raise ValueError(f"calibrate={calibrate!r}: holds no image; give a folder of images as they will be met")
    return found


# ---- our operators in ONNX ------------------------------------------------------------------------------------------


def _translate_continued(x: Any, start: Sequence[int], size: Sequence[Any]) -> Any:
    return _gathered(x, start, [_number(side) for side in size])


def _translate_resample(
    x: Any, size: Sequence[Any], ratios: Sequence[float], phases: Sequence[float], clamp: bool
) -> Any:
    op = _operators()

    from fullyconv.upsampling import resampling_plan

    sides = [_number(side) for side in size]
    plan = resampling_plan(ratios, phases) if clamp else None
    if plan is None:
        rows, columns = (
            _hat_matrix(op.Shape(x, start=2 + axis, end=3 + axis), sides[axis], ratios[axis], phases[axis], clamp)
            for axis in (0, 1)
        )
        return op.MatMul(op.MatMul(rows, x), op.Transpose(columns, perm=[1, 0]))
    counts, lengths = [], []
    for index, (side, axis) in enumerate(zip(sides, plan.axes, strict=True)):
        # what lies beyond the map is needed only where interpolation does not continue the border by itself
        length = op.Shape(x, start=2 + index, end=3 + index)
        stop = op.Min(_stop(side, axis.ratio, axis.lead), op.Max(length, _stop(side, axis.ratio, axis.tail)))
        counts.append(op.Sub(stop, _constant(axis.start)))
    if plan.shift:
        return _gathered(x, [axis.start for axis in plan.axes], sides)
    taken = _gathered(x, [axis.start for axis in plan.axes], counts)
    for count, axis in zip(counts, plan.axes, strict=True):
        if plan.align_corners:
            lengths.append(op.Add(op.Mul(op.Sub(count, _constant(1)), _constant(axis.ratio)), _constant(1)))
        else:
            lengths.append(op.Mul(count, _constant(axis.ratio)))
    enlarged = op.Resize(
        taken,
        None,
        None,
        op.Concat(op.Shape(x, start=0, end=2), *lengths, axis=0),
        mode="linear",
        coordinate_transformation_mode="align_corners" if plan.align_corners else "half_pixel",
    )
    return _cropped(enlarged, [axis.drop for axis in plan.axes], sides)


def _stop(side: Any, ratio: int, lead: int) -> Any:
    """ceil((m - 1 + lead) / ratio) + 1 for m = side."""
    op = _operators()
    # ONNX rounds towards zero, so whole ratios are lent to stay above it
    lent = max(0, -(lead // ratio))
    above = op.Add(side, _constant(lead + ratio - 2 + lent * ratio))
    return op.Add(op.Div(above, _constant(ratio)), _constant(1 - lent))


def _translate_window(x: Any, start: Sequence[int], size: Sequence[Any]) -> Any:
    op = _operators()

    sides = [_number(side) for side in size]
    before = [max(0, -first) for first in start]
    first = [cells + lead for cells, lead in zip(start, before, strict=True)]
    pads: list[Any] = [_constant(lead) for lead in before]
    for axis, (side, lead) in enumerate(zip(sides, before, strict=True)):
        length = op.Shape(x, start=2 + axis, end=3 + axis)
        lacking = op.Sub(op.Add(side, _constant(first[axis])), op.Add(length, _constant(lead)))
        pads.append(op.Max(lacking, _constant(0)))
    padded = op.Pad(x, op.Concat(*pads, axis=0), None, op.Constant(value_ints=[2, 3]), mode="constant")
    return _cropped(padded, first, sides)


def _translate_unpool(x: Any, positions: Any, size: Sequence[Any], fill: float, overlapping: bool) -> Any:
    op = _operators()

    head = op.Shape(x, start=0, end=2)
    flat = op.Concat(head, _constant(-1), axis=0)
    sides = [_number(side) for side in size]
    empty = op.ConstantOfShape(op.Concat(head, op.Mul(sides[0], sides[1]), axis=0), value=_filled(fill))
    # Pooling gives every cell a maximum; where windows overlap, the largest value of a position is kept. What is not
    # reached is `fill`, which would take part in the maximum, so that it has to lie below all values there.
    values, index = op.Reshape(x, flat), op.Reshape(positions, flat)
    if not overlapping:
        scattered = op.ScatterElements(empty, index, values, axis=2)
    else:
        lowest = op.Expand(op.Constant(value_floats=[-3.0e38]), op.Shape(values))
        cleared = op.ScatterElements(empty, index, lowest, axis=2)
        scattered = op.ScatterElements(cleared, index, values, axis=2, reduction="max")
    return op.Reshape(scattered, op.Concat(head, *sides, axis=0))


def _gathered(x: Any, start: Sequence[int], counts: Sequence[Any]) -> Any:
    """Take cells from `start` on; those outside are the border's."""
    op = _operators()

    zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
    for axis, (first, count) in enumerate(zip(start, counts, strict=True)):
        cells = op.Add(op.Range(zero, op.Squeeze(count), one), _constant(first))
        last = op.Sub(op.Shape(x, start=2 + axis, end=3 + axis), _constant(1))
        x = op.Gather(x, op.Min(op.Max(cells, _constant(0)), last), axis=2 + axis)
    return x


def _cropped(x: Any, start: Sequence[int], sides: Sequence[Any]) -> Any:
    op = _operators()

    ends = [op.Add(side, _constant(first)) for side, first in zip(sides, start, strict=True)]
    return op.Slice(x, op.Constant(value_ints=list(start)), op.Concat(*ends, axis=0), op.Constant(value_ints=[2, 3]))


def _hat_matrix(n: Any, m: Any, ratio: float, phase: float, clamp: bool) -> Any:
    """Weights (m, n) of every source cell in every target cell."""
    op = _operators()

    def cells(count: Any) -> Any:
        whole = op.Range(op.Constant(value_int=0), op.Squeeze(count), op.Constant(value_int=1))
        return op.Cast(whole, to=1)

    position = op.Add(op.Mul(cells(m), _float(1 / ratio)), _float(phase))
    if clamp:
        last = op.Cast(op.Sub(n, _constant(1)), to=1)
        position = op.Min(op.Max(position, _float(0.0)), last)
    apart = op.Abs(op.Sub(op.Unsqueeze(position, _constant(1)), cells(n)))
    return op.Relu(op.Sub(_float(1.0), apart))


def _operators() -> Any:
    """ONNX's operators, of which onnxscript makes a graph; untyped, because a type of theirs cannot be named."""
    from onnxscript import opset18

    return opset18


def _number(value: Any) -> Any:
    """Give a side as an int64 tensor of one number, whether it is known or not."""
    op = _operators()

    return _constant(value) if isinstance(value, int) else op.Reshape(value, op.Constant(value_ints=[1]))


def _constant(value: int) -> Any:
    op = _operators()

    return op.Constant(value_ints=[value])


def _float(value: float) -> Any:
    op = _operators()

    return op.Constant(value_floats=[value])


def _filled(value: float) -> Any:
    import onnx

    return onnx.helper.make_tensor("value", onnx.TensorProto.FLOAT, [1], [value])


# ---- files and libraries --------------------------------------------------------------------------------------------


def _check(model: object, target: Path, labels: bool, scores: bool) -> None:
    if not isinstance(model, SegmentationModule):
        raise ValueError(
            f"model is a {type(model).__name__}: only segmenters are exported; fullyconv.load gives one by name"
        )
    if not labels and not scores:
        raise ValueError("labels=False and scores=False: the file would give nothing; ask for one of them")
    if target.suffix.lower() != ".onnx" or target.is_dir() or not target.resolve().parent.is_dir():
        raise ValueError(f"{target}: give an .onnx file in a folder that exists")


def _libraries() -> Any:
    try:
        import onnx
        import onnxruntime
        import onnxscript
    except ImportError as error:
        raise ImportError(f"export needs the extra 'onnx' ({error}): pip install 'fullyconv[onnx]'") from error
    del onnxruntime, onnxscript
    return onnx


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the libraries say of themselves from standing between the user and the answer."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root", "")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
