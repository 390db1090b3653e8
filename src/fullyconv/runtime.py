"""Predict from a file that `fullyconv export` wrote, with onnxruntime, numpy and Pillow: there is no torch here.

Everything that prediction needs stands in the file: names and colors of the classes, the scale that the network was
trained at, the license. The file comes from anywhere, so it is looked through before onnxruntime sees it: its size is
bounded, it may not name other files, and its metadata is checked like a model folder's ``config.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fullyconv.errors import MALFORMED, WeightsError, first_line, refusing, tell
from fullyconv.images import ImageInput
from fullyconv.images.raster import Raster, read_raster
from fullyconv.inference.scaling import scaled, scaled_size
from fullyconv.inference.segmentation import Segmentation
from fullyconv.labels import Labels, at_edge, by_head, from_plain, to_plain
from fullyconv.preprocessing import MAX_CHANNELS, Preprocessing
from fullyconv.weights import wire
from fullyconv.weights.pretrained import check_kinds, parsed, respelled
from fullyconv.weights.signatures import refuse_stray

FORMAT = 1
KEY = "fullyconv"
"""The entry of the file's metadata that describes it, as JSON."""
MAX_BYTES = 2**31 - 1  # a protocol buffer holds no more
MAX_METADATA_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Description:
    """What the metadata of an exported file says.

    Args:
        labels: classes of the network; of several heads those of each by its name.
        preprocessing: what the graph does with an image before the network, and the scale it wants to see.
        in_channels: channels C of the image.
        outputs: ``labels``, ``scores`` or both; of several heads each gives them, as ``labels_HEAD``.
        model: name of the preset.
        license: license of the weights, "unstated" where nobody said.
        score: what was measured, in percent, or None.
        parity: how much the file differed from the model that it was made of: ``sizes``, ``pixels`` (share of the
            pixels with another class), ``scores`` (largest difference over the largest score) and ``scores_beyond``
            (share of the pixels where it is more than a thousandth).
        precision: ``float32`` or ``int8``.
        version: version of fullyconv that wrote the file.
    """

    labels: Labels | dict[str, Labels]
    preprocessing: Preprocessing
    in_channels: int
    outputs: tuple[str, ...]
    model: str
    license: str
    score: dict[str, Any] | None
    parity: dict[str, Any]
    precision: str
    version: str

    @property
    def heads(self) -> dict[str, Labels]:
        """The classes of each head; one head alone has the name ""."""
        return by_head(self.labels)

    @property
    def ports(self) -> list[str]:
        """What the outputs of the graph are called."""
        return [port(kind, head) for head in self.heads for kind in self.outputs]

    def to_json(self) -> str:
        """Write as the JSON that stands in the file; `read_description` reads it back."""
        plain = {"labels": to_plain(self.labels), "preprocessing": self.preprocessing.to_dict()}
        return json.dumps({"format": FORMAT} | vars(self) | plain, ensure_ascii=False, allow_nan=False)


def port(kind: str, head: str) -> str:
    """Name an output of the graph.

    Args:
        kind: ``labels`` or ``scores``.
        head: its name; "" where there is one head.
    """
    return f"{kind}_{head}" if head else kind


class ExportedSegmenter:
    """A segmenter that is an ONNX file; `load` makes it.

    Args:
        path: the file.
        content: its bytes, looked through already.
        description: what its metadata says.
        threads: threads of onnxruntime; None leaves the number to it.

    Attributes:
        labels: names, colors and ignore index of the classes; of several heads a dict by head.
        preprocessing: what the network was trained on.
        license: of the weights, as stated by whoever trained them.
    """

    def __init__(self, path: Path, content: bytes, description: Description, threads: int | None = None) -> None:
        try:
            self._session = session_of(content, threads)
        except ImportError as error:
            raise ImportError(f"{path}: exported files need onnxruntime: pip install onnxruntime") from error
        except Exception as error:  # onnxruntime has a dozen exceptions without a common base
            raise WeightsError(
                f"{path}: onnxruntime does not load it ({first_line(error)}); export it again, or install a newer "
                "onnxruntime"
            ) from error
        self.path, self.description = path, description
        self.labels: Any = description.labels
        self.preprocessing = description.preprocessing
        self.license = description.license
        scaled = description.preprocessing.short_side is not None
        _check_ports(self._session, description, ["image", "size"] if scaled else ["image"], path)

    @property
    def classes(self) -> Any:
        """The K class names; of several heads a dict by head."""
        return at_edge({head: list(labels.names) for head, labels in self.description.heads.items()})

    def predict(self, source: ImageInput) -> Any:
        """Segment one image.

        Args:
            source: a path, a PIL image, or an array (H, W[, C]) uint8.

        Returns:
            A `Segmentation`: the mask at the image's own size, with names, shares and an overlay; of several heads a
            dict of them by head.

        Raises:
            FileNotFoundError: if the file is not there.
            DatasetError: if it is not an image.
            WeightsError: if the network fails on it, or answers with what is no class.
        """
        raster = self._read(source)
        size, results = raster.size, {}
        kind = "labels" if "labels" in self.description.outputs else "scores"
        for head, answer in self._answers(raster, kind).items():
            labels = self.description.heads[head]
            mask = answer.argmax(0) if kind == "scores" else answer
            if mask.shape != size or int(mask.max()) >= labels.num_classes:
                raise WeightsError(
                    f"{self.path}: answers an image of {size} pixels with a mask of {mask.shape} and classes up to "
                    f"{int(mask.max())}, and has {labels.num_classes} classes; export it again"
                )
            results[head] = Segmentation.of(raster, mask, labels)
        return at_edge(results)

    def _answers(self, raster: Raster, kind: str) -> dict[str, npt.NDArray[Any]]:
        """Give for each head what the graph says of one image."""
        heads = self.description.heads
        answers = self.run(feeds(raster.pixels, self.preprocessing.short_side), [port(kind, head) for head in heads])
        return {head: answer[0] for head, answer in zip(heads, answers, strict=True)}

    def _read(self, source: ImageInput | Raster) -> Raster:
        if isinstance(source, Raster):
            return source
        read = read_raster(source, self.description.in_channels, value_range=self.preprocessing.value_range)
        if read.note is not None:
            tell(read.note)
        return read

    def scores(self, source: ImageInput) -> Any:
        """Give the scores of every class, before softmax, at every pixel of an image.

        Args:
            source: as `predict` takes it.

        Returns:
            (K, H, W) float32; of several heads a dict by head.

        Raises:
            ValueError: if the file was exported without scores.
        """
        if "scores" not in self.description.outputs:
            raise ValueError(f"{self.path}: gives labels alone; export it with scores=True (--scores)")
        return at_edge(self._answers(self._read(source), "scores"))

    def run(self, feeds: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str]) -> list[npt.NDArray[Any]]:
        """Run the graph itself.

        Args:
            feeds: ``image`` (N, H, W, C) uint8, for a network with a scale of its own also ``size`` (2,) int64.
            outputs: ``labels`` or ``scores``, of several heads ``labels_HEAD`` or ``scores_HEAD``.

        Returns:
            For each (N, H, W) labels or (N, K, H, W) scores.

        Raises:
            WeightsError: if the network fails on it.
        """
        try:
            answers: list[npt.NDArray[Any]] = self._session.run(list(outputs), dict(feeds))
        except Exception as error:
            shape = feeds["image"].shape
            raise WeightsError(
                f"{self.path}: fails on an image of {shape[2]} x {shape[1]} pixels ({first_line(error)})"
            ) from error
        return answers


def session_of(content: bytes, threads: int | None = None) -> Any:
    """Open a graph with onnxruntime, which says nothing of its own.

    Args:
        content: of the file.
        threads: of onnxruntime; None leaves the number to it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def load(path: str | Path, *, threads: int | None = None) -> ExportedSegmenter:
    """Load a file that `fullyconv.export` wrote.

    Args:
        path: an ``.onnx`` file.
        threads: threads of onnxruntime; None leaves the number to it, one a core.

    Returns:
        The segmenter; its ``predict`` gives what that of a `SegmentationModule` gives, of several heads a dict by head.

    Raises:
        FileNotFoundError: if it is not there.
        WeightsError: if it is too large, damaged, not of this package, or names other files.
        ImportError: if onnxruntime is not installed.
        ValueError: if threads is below 1.

    Example:
        >>> import fullyconv.runtime
        >>> fullyconv.runtime.load("nowhere.onnx")  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
            ...
        FileNotFoundError: nowhere.onnx: not found; pass an .onnx file that 'fullyconv export' wrote
    """
    place = Path(path)
    if threads is not None and (type(threads) is not int or threads < 1):
        raise ValueError(f"threads={threads!r}: give a whole number of at least 1, or None")
    if not place.is_file():
        raise FileNotFoundError(f"{place}: not found; pass an .onnx file that 'fullyconv export' wrote")
    size = place.stat().st_size
    if size > MAX_BYTES:
        raise WeightsError(f"{place}: {size} bytes; an ONNX file has at most {MAX_BYTES}")
    refuse_stray(place, "ONNX file")
    content = place.read_bytes()
    description = read_description(content, place)
    return ExportedSegmenter(place, content, description, threads)


def read_description(content: bytes, path: str | Path) -> Description:
    """Look an ONNX file through, without running anything, and read its metadata.

    Args:
        content: the bytes of the file.
        path: where they come from, for the message.

    Raises:
        WeightsError: if it is no ONNX file, names other files for its tensors, or has no valid metadata.
    """
    try:
        metadata = _look_through(content)
    except (IndexError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: is no ONNX file that can be read alone ({error}); export it again") from error
    if metadata is None:
        raise WeightsError(
            f"{path}: has no entry {KEY!r} in its metadata, so nobody knows its classes; only files that 'fullyconv "
            "export' wrote are loaded here"
        )
    if len(metadata) > MAX_METADATA_BYTES:
        raise WeightsError(f"{path}: {len(metadata)} bytes of metadata; at most {MAX_METADATA_BYTES} are read")
    document = parsed(metadata, path)
    if document.get("format") != FORMAT:
        found = str(document.get("format"))[:40]
        raise WeightsError(f"{path}: format={found!r}, this version reads format {FORMAT}; export it again")
    return _description(document, path)


def feeds(
    pixels: npt.NDArray[np.uint8], short_side: int | None, *, as_it_is: bool = False
) -> dict[str, npt.NDArray[Any]]:
    """Give what a graph takes for an image.

    Args:
        pixels: (H, W, C) uint8.
        short_side: of its preprocessing.
        as_it_is: let the network look at the image as it is, whatever its own scale.
    """
    if short_side is None:
        return {"image": np.ascontiguousarray(pixels[None])}
    own = (pixels.shape[0], pixels.shape[1])
    seen = scaled(pixels, own if as_it_is else scaled_size(own, short_side))
    return {"image": seen[None], "size": np.array(own, np.int64)}


def _description(document: Mapping[str, Any], path: str | Path) -> Description:
    document = respelled(document)
    kinds = {"labels": dict, "preprocessing": dict, "in_channels": int, "outputs": list, "model": str, "license": str,
             "parity": dict, "precision": str, "version": str}  # fmt: skip
    check_kinds(document, kinds, path)
    outputs, channels, score = document["outputs"], document["in_channels"], document.get("score")
    if outputs not in (["labels"], ["scores"], ["labels", "scores"]):
        raise WeightsError(f"{path}: outputs={str(outputs)[:60]}: must be labels, scores or both; export it again")
    if not 1 <= channels <= MAX_CHANNELS:
        raise WeightsError(f"{path}: in_channels={channels}: must be in 1..{MAX_CHANNELS}; export it again")
    if score is not None and not isinstance(score, dict):
        raise WeightsError(f"{path}: 'score' of its metadata must be an object or null; export it again")
    with refusing(f"{path}: its metadata does not describe a segmenter", *MALFORMED):
        labels = from_plain(document["labels"])
        preprocessing = Preprocessing.from_dict(document["preprocessing"])
    if preprocessing.in_channels != channels:
        raise WeightsError(
            f"{path}: in_channels={channels}, and its preprocessing has {preprocessing.in_channels}; export it again"
        )
    described: dict[str, Any] = {field.name: document.get(field.name) for field in fields(Description)}
    described |= {"labels": labels, "preprocessing": preprocessing, "outputs": tuple(outputs)}
    return Description(**described)


def _check_ports(session: Any, description: Description, inputs: list[str], path: Path) -> None:
    """Compare what the graph takes and gives with what its metadata says."""
    taken = {port.name: port for port in session.get_inputs()}
    given = [port.name for port in session.get_outputs()]
    if sorted(taken) != sorted(inputs) or given != description.ports:
        raise WeightsError(
            f"{path}: its graph takes {', '.join(taken)} and gives {', '.join(given)}, its metadata says "
            f"{', '.join(inputs)} and {', '.join(description.ports)}; export it again"
        )
    image = taken["image"]
    if image.type != "tensor(uint8)" or len(image.shape) != 4 or image.shape[3] != description.in_channels:
        raise WeightsError(
            f"{path}: its image is {image.type} of shape {image.shape}, not uint8 (N, H, W, {description.in_channels});"
            " export it again"
        )


# Where the messages lie that may hold tensors: name -> {field: name of the message in it}.
_MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 14: "Entry", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # fields of a tensor
_DEEPEST = 32


def _look_through(content: bytes) -> bytes | None:
    """Refuse tensors whose values lie in other files, and give our entry of the metadata."""
    found: bytes | None = None
    graphs = 0
    todo: list[tuple[str, memoryview, int]] = [("Model", memoryview(content), 0)]
    while todo:
        kind, message, depth = todo.pop()
        if depth > _DEEPEST:
            raise ValueError("graphs within graphs, deeper than any network")
        for number, value in wire.fields(message):
            if kind == "Tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)):
                raise ValueError("a tensor has its values in another file, which is never read; export into one file")
            inner = _MESSAGES.get(kind, {}).get(number)
            if inner is None or not isinstance(value, memoryview):
                continue
            graphs += inner == "Graph"
            if inner != "Entry":
                todo.append((inner, value, depth + 1))
                continue
            entry = {field: part for field, part in wire.fields(value) if isinstance(part, memoryview)}
            if bytes(entry.get(1, b"")) == KEY.encode():
                found = bytes(entry.get(2, b""))
    if not graphs:
        raise ValueError("it holds no graph")
    return found
