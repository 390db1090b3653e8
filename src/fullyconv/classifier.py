"""A pretrained classifier with its class names and preprocessing, and the dense network that it becomes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullyconv.backbones import LoadReport
from fullyconv.conversion import convolutionalize
from fullyconv.conversion.activation import class_activation
from fullyconv.conversion.network import DenseClassifier
from fullyconv.errors import MALFORMED, ConversionError, WeightsError, refusing
from fullyconv.geometry import Geometry
from fullyconv.geometry.measuring import evaluating
from fullyconv.images import visible
from fullyconv.inference.heatmap import Heatmap
from fullyconv.inference.locating import shares_of_class
from fullyconv.inference.network import Head, Network, Size
from fullyconv.inference.options import Options
from fullyconv.inference.predict import ImageSource, read
from fullyconv.inference.processor import Device, device_of
from fullyconv.inference.scaling import scaled_size
from fullyconv.inference.serving import Predicts
from fullyconv.labels import Labels, unique_names
from fullyconv.preprocessing import Preprocessing
from fullyconv.upsampling import resample
from fullyconv.weights import classifiers, pretrained
from fullyconv.weights.architectures import build_classifier, input_size
from fullyconv.weights.described import DenseFolder, fill
from fullyconv.weights.lock import accepting
from fullyconv.weights.pretrained import Dtype
from fullyconv.weights.repositories import Uploads
from fullyconv.weights.segmenters import fetch_segmenter

Method = Literal["cam", "window"]

HEATMAP_SCALES: dict[Method, tuple[float, ...]] = {"cam": (0.5, 0.75, 1.0), "window": (1.0, 1.5)}
"""Sizes that an image is looked at for a heat map, unless told otherwise. Cells tell places apart even where the image
is no larger than what the classifier was trained on; windows do not."""


class _Stored(nn.Module, Uploads):
    """A network with what has to be known to store it: its classes, its preprocessing and what binds its weights."""

    kind: ClassVar[str]

    def __init__(
        self,
        network: nn.Module,
        labels: Labels,
        preprocessing: Preprocessing,
        architecture: str = "",
        license: str = "unstated",
        training: Mapping[str, Any] | None = None,
        score: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.labels = labels
        self.preprocessing = preprocessing
        self.architecture = architecture
        self.license = license
        self.training_record = dict(training or {})
        self.score = None if score is None else dict(score)

    @property
    def classes(self) -> list[str]:
        """The K class names."""
        return list(self.labels.names)

    def _arguments(self) -> dict[str, Any]:
        """Give what builds the network again, beside its architecture."""
        raise NotImplementedError

    def save_pretrained(self, folder: str | Path, dtype: Dtype = "float32", *, license: str | None = None) -> Path:
        """Write it as a model folder, which `from_pretrained` reads.

        Args:
            folder: where to write.
            dtype: of the stored weights.
            license: of the weights; None keeps the one that is known.

        Returns:
            The folder.

        Raises:
            ValueError: if the network has no name, so that nobody could build it again.
        """
        if not self.architecture:
            raise ValueError(
                "architecture='': a network of your own cannot be built again from a name; keep its state_dict, or "
                "build it by a name that fullyconv.weights.architectures.build_classifier takes"
            )
        model = {"architecture": self.architecture} | self._arguments()
        config = pretrained.Config.of(self, self.kind, model, license)
        return pretrained.save(folder, self.network.state_dict(), config, dtype=dtype)


class Classifier(_Stored):
    """An image classifier that knows its class names, its preprocessing and what binds its weights.

    Args:
        network: (N, 3, H, W) normalized images -> (N, K) scores.
        classes: the K class names; those that repeat get their number behind them.
        preprocessing: what the network was trained on.
        input_size: height and width it classifies at, in pixels.
        architecture: its name, as `build_classifier` takes it; "" for a network of your own, which cannot be saved.
        license: of the weights.
        training: what is known of the training, and where the weights came from.
        score: what was measured or published, in percent, with ``data``, ``split`` and ``top1``.

    Attributes:
        load_report: what became of each tensor of the file it was loaded from, by its own names.

    Example:
        >>> from fullyconv.preprocessing import IMAGENET
        >>> network = build_classifier("cifar_resnet20", 3)
        >>> classifier = Classifier(network, ["cat", "dog", "owl"], IMAGENET, (32, 32), "cifar_resnet20").eval()
        >>> classifier(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 3])
    """

    kind = "classifier"

    def __init__(
        self,
        network: nn.Module,
        classes: Sequence[str],
        preprocessing: Preprocessing,
        input_size: Size,
        architecture: str = "",
        license: str = "unstated",
        training: Mapping[str, Any] | None = None,
        score: Mapping[str, Any] | None = None,
    ) -> None:
        labels = Labels.of(unique_names(classes))
        super().__init__(network, labels, preprocessing, architecture, license, training, score)
        self.input_size = input_size
        self.load_report: LoadReport | None = None

    def forward(self, image: Tensor) -> Tensor:
        """Score images.

        Args:
            image: (N, 3, H, W) float RGB in 0..1, not normalized, at `input_size`.

        Returns:
            (N, K) scores before softmax.
        """
        scores: Tensor = self.network(self.preprocessing(image))
        return scores

    def convolutionalize(self, pool: Literal["window", "cam"] = "window") -> DenseScorer:
        """Turn the classifier into a network that scores every window of an image of any size in one pass.

        Args:
            pool: what a global pooling becomes, as `fullyconv.convolutionalize` takes it.

        Returns:
            The dense network; its weights are copies.

        Raises:
            ConversionError: if the classifier is not convolutional.
        """
        dense = convolutionalize(self.network, input_size=self.input_size, pool=pool)
        return DenseScorer(
            dense, self.labels, self.preprocessing, self.architecture, self.license, self.training_record
        ).train(self.training)

    def _arguments(self) -> dict[str, Any]:
        return {"input_size": list(self.input_size)}

    @classmethod
    @accepting()
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        architecture: str | None = None,
        classes: Sequence[str] | None = None,
        preprocessing: Preprocessing | Mapping[str, Any] | None = None,
        allow_unverified: bool = False,
        device: Device = None,
    ) -> Classifier:
        """Load pretrained weights as this class, in evaluation mode; see ``fullyconv.load_classifier``."""
        place = device_of(device)
        like = classifiers.names_of(architecture) if architecture is not None else None
        weights = classifiers.fetch_classifier(source, allow_unverified=allow_unverified, like=like)
        network, name, named, load_report = classifiers.network_of(weights, architecture, classes)
        own = None if preprocessing is None else Preprocessing.of(preprocessing)
        expected = own or weights.preprocessing or classifiers.preprocessing_of(name, weights.tensors)
        expected = expected or classifiers.imagenet_for(weights.source)
        size = weights.input_size or (input_size(name),) * 2
        score = weights.score if named == weights.classes else None
        module = cls(network, named, expected, size, name, weights.license or "unstated", _record(weights), score)
        module.load_report = load_report
        return module.eval().to(place)


def _record(weights: classifiers.ClassifierWeights) -> dict[str, Any]:
    """Say what is known of the training, and where the weights came from."""
    record = dict(weights.training)
    if "source" not in record:  # a model folder knows where its weights came from
        record["source"] = weights.origin
        if weights.sha256:
            record["sha256"] = weights.sha256
    return record


class DenseScorer(_Stored, Predicts):
    """A converted classifier: scores every window of an image of any size, and says which class wins at each pixel.

    The scores are the classifier's own, `geometry` says where they lie. `predict` gives the same `Segmentation` that a
    segmenter does; how sharp its borders are depends on the stride, for it was never shown a mask.

    Args:
        network: what `fullyconv.convolutionalize` returned.
        labels: the K classes.
        preprocessing: what the network was trained on.
        architecture: name of the classifier; "" for a network of your own, which cannot be saved.
        license: of the weights.
        training: what is known of the training, and where the weights came from.
        score: what was measured, in percent.
    """

    kind = "dense_classifier"
    network: DenseClassifier

    @property
    def geometry(self) -> Geometry:
        """Stride, receptive field and center of the scores, in pixels."""
        return self.network.geometry

    def scores(self, image: Tensor) -> Tensor:
        """Score every window.

        Args:
            image: (N, 3, H, W) float RGB in 0..1, not normalized. What is smaller than a window, or not a whole number
                of strides larger, is continued by its last row and column: padding that depends on the size of the
                image ("same") would move the cells away from where `geometry` says they are.

        Returns:
            (N, K, h, w) scores before softmax, on the grid of `geometry`.
        """
        scores: Tensor = self.network(self._prepared(image, self.network.min_size))
        return scores

    def _prepared(self, image: Tensor, least: Size) -> Tensor:
        """Continue an image to a size on the grid of the classifier's own size, at least `least`, and normalize it."""
        axes = zip(image.shape[2:], least, self.network.input_size, map(math.ceil, self.geometry.stride), strict=True)
        down, right = (own + math.ceil((max(n, smallest) - own) / step) * step - n for n, smallest, own, step in axes)
        if down or right:
            image = F.pad(image, (0, right, 0, down), mode="replicate")
        return self.preprocessing(image)

    def forward(self, image: Tensor) -> Tensor:
        """Score every pixel: the scores interpolated at the pixels, beyond the outermost windows continued.

        Args:
            image: (N, 3, H, W) float RGB in 0..1, not normalized.

        Returns:
            (N, K, H, W) logits.
        """
        size = (int(image.shape[2]), int(image.shape[3]))
        return resample(self.scores(image), self.geometry, Geometry.IDENTITY, size)

    @contextmanager
    def ready(self) -> Iterator[Network]:
        """Give what scores windows, for as long as it is in evaluation mode."""
        with evaluating(self), torch.inference_mode():
            yield self._network()

    def heatmap(
        self,
        source: ImageSource,
        label: str | int,
        *,
        method: Method | None = None,
        scales: Sequence[float] | None = None,
        flip: bool = True,
        short_side: int | None = None,
        memory: int | str | None = None,
    ) -> Heatmap:
        """Show where on an image a class is seen: its softmax probability at every pixel.

        Args:
            source: what `predict` takes.
            label: name or number of the class.
            method: "cam" applies the head to every cell of the last feature map (class activation map; needs a head
                of global average pooling and linear layers), "window" to every window, as the classifier does on an
                image of its own size: coarser, and for every classifier. None is "cam" where there is one.
            scales: sizes that the image is looked at, whose mean is taken; by default 0.5, 0.75 and 1 for "cam", 1
                and 1.5 for "window".
            flip: take the mean with the mirrored image, too.
            short_side: pixels that the shorter side of the image has at scale 1; by default what the preprocessing
                says, else twice the classifier's own size, however large the image is. The image's own shorter side
                looks at it as it is.
            memory: bytes, or a word such as "2GB", that a pass may take; an image that takes more is scored in tiles.
                None is half of what is free.

        Returns:
            The map at the image's own size, with an overlay.

        Raises:
            FileNotFoundError: if the file is not there.
            DatasetError: if it is no image.
            ConversionError: if "cam" is asked for and the classifier has none.
            ValueError: if there is no such class, or an option has an invalid value.
        """
        index = self.labels.index(label)
        if len(self.classes) == 1:
            raise ValueError(f"label={label!r}: is the only class, whose probability is 1 everywhere")
        if method not in (None, "cam", "window"):
            raise ValueError(f'method={method!r}: give "cam", "window", or None for the finer that there is')
        usual = self.preprocessing.short_side or 2 * min(self.network.input_size)
        base = usual if short_side is None else short_side
        if isinstance(base, bool) or not isinstance(base, int) or base < 1:
            raise ValueError(f"short_side={short_side!r}: give pixels from 1 on, or None")
        with evaluating(self), torch.inference_mode():
            if method is None:
                try:
                    method, network = "cam", self._network("cam")
                except ConversionError:
                    method, network = "window", self._network("window")
            else:
                network = self._network(method)
            options = Options(memory, flip=flip, scales=HEATMAP_SCALES[method] if scales is None else tuple(scales))
            pixels = read(source, self.network.in_channels, memory, self.preprocessing.value_range).pixels
            own = (pixels.shape[0], pixels.shape[1])
            sizes = [scaled_size(own, max(1, round(base * scale))) for scale in options.scales]
            values = shares_of_class(network, pixels, index, sizes, flip=flip, memory=memory)
        return Heatmap(values, self.classes[index], visible(pixels))

    def _network(self, method: Method | None = None) -> Network:
        """Give what has to be known to run the network on tiles; None scores what the conversion made of pooling."""
        dense, least = self.network, self.network.min_size
        run: Callable[[Tensor], Tensor] = dense
        geometry = dense.geometry
        if method == "cam":
            cells = class_activation(dense)
            run, geometry = cells, cells.geometry
        elif method == "window" and dense.pool == "cam":
            least, window = dense.input_size, dense.grid(*dense.input_size)
            run, geometry = partial(_mean_of_windows, dense, window), geometry.conv(window)
        parameter = next(self.parameters())
        align = math.lcm(*(math.ceil(stride) for stride in geometry.stride))
        return Network(
            self, lambda image: {"": run(self._prepared(image, least))},
            {"": Head(self.labels, geometry, lambda _: geometry)},
            align, max(least), dense.in_channels, parameter.device, parameter.dtype, self.preprocessing.value_range,
        )  # fmt: skip

    def _arguments(self) -> dict[str, Any]:
        return {"input_size": list(self.network.input_size), "pool": self.network.pool}

    @classmethod
    @accepting()
    def from_pretrained(
        cls, source: str | Path, *, allow_unverified: bool = False, device: Device = None
    ) -> DenseScorer:
        """Load a converted classifier, in evaluation mode.

        Args:
            source: a model folder, a name of the zoo, an id of the hub: whatever ``fullyconv.load`` takes.
            allow_unverified: accept weights without a known digest, as ``fullyconv.load`` does.
            device: where it computes, as ``fullyconv.load`` takes it; None is the processor.

        Raises:
            ValueError: if the source means nothing, or there is no such device.
            FileNotFoundError: if a path does not exist.
            WeightsError: if the weights are damaged, or no converted classifier.
            DownloadError: if the download fails.
        """
        place = device_of(device)
        opened = fetch_segmenter(source, allow_unverified)
        if not isinstance(opened, DenseFolder):
            raise WeightsError(f"{source}: holds a segmenter, no {cls.kind}; fullyconv.load reads it")
        config, tensors = pretrained.load(opened.path)
        path = opened.path / pretrained.CONFIG
        # It comes from anywhere: only names of known libraries are looked up.
        with refusing(f"{path}: describes no classifier that can be built and converted", *MALFORMED):
            labels = Labels.from_dict(config.labels)
            preprocessing = Preprocessing.from_dict(config.preprocessing)
            architecture = config.model["architecture"]
            network = build_classifier(architecture, labels.num_classes)
            height, width = config.model["input_size"]
            dense = convolutionalize(network, input_size=(height, width), pool=config.model["pool"])
        weights = {name: torch.from_numpy(value) for name, value in tensors.items()}
        fill(dense, weights, opened.path / pretrained.WEIGHTS)
        module = cls(dense, labels, preprocessing, architecture, config.license, config.training, config.score)
        return module.eval().to(place)


def _mean_of_windows(dense: DenseClassifier, window: Size, x: Tensor) -> Tensor:
    return F.avg_pool2d(dense(x), window, 1)
