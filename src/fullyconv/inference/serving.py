"""A model that is ready to predict: folded, with its labels and preprocessing. Nothing of Lightning is needed."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from fullyconv.geometry import Geometry
from fullyconv.geometry.measuring import evaluating
from fullyconv.images.raster import Raster
from fullyconv.images.tiff import TiffImage
from fullyconv.inference import processor
from fullyconv.inference.folding import fingerprint, fold
from fullyconv.inference.network import Head, Network, Size
from fullyconv.inference.options import Halo, Options, Probabilities
from fullyconv.inference.predict import ImageSource, segment, segment_to
from fullyconv.inference.processor import Precision
from fullyconv.inference.segmentation import Segmentation, Written
from fullyconv.labels import AnyLabels, Labels, at_edge, by_head
from fullyconv.preprocessing import Preprocessing

_EMULATED = "this processor only emulates {}, many times slower than float32"

Scores = Callable[[Tensor], Any]
Heads = Callable[[Tensor], Mapping[str, Tensor]]


class Predicts:
    """What segments images: a predictor, and a module that has one."""

    def predictor(self) -> Predicts:
        """Give what predicts: itself, or what it has for that."""
        return self

    def ready(self) -> AbstractContextManager[Network]:
        """Give what is run, for as long as it is in evaluation mode."""
        raise NotImplementedError

    def predict(
        self,
        source: ImageSource,
        *,
        memory: int | str | None = None,
        halo: Halo = "exact",
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        probabilities: Probabilities | None = None,
    ) -> Segmentation:
        """Segment one image of any size.

        Args:
            source: a path, the bytes of a file, also opened ("rb"), a PIL image, an array (H, W[, C]) uint8, or a
                tensor (C, H, W), uint8 or float in 0..1.
            memory: bytes, or a word such as "2GB", that the prediction may take beside the network, the image and the
                mask; an image whose one pass takes more is segmented in tiles. None is half of what is free.
            halo: "exact" reads around each tile all that its scores depend on, so that there are no seams; a number of
                pixels is faster, and seams are possible.
            flip: average the probabilities with those of the mirrored image.
            scales: average the probabilities over the image at these sizes, relative to that at which it is seen.
            probabilities: "top" gives that of the winning class too, "all" those of every class.

        Returns:
            The mask at the image's own size, with names, shares and an overlay; of several heads a dict by head.

        Raises:
            FileNotFoundError: if the file is not there.
            DatasetError: if it is not an image.
            ValueError: if the memory does not hold the smallest tile, or an option has an invalid value.
        """
        (found,) = self._segment([source], Options(memory, halo, flip, tuple(scales), probabilities))
        return cast(Segmentation, found)

    def predict_to(
        self,
        source: ImageSource | TiffImage,
        target: str | Path,
        *,
        memory: int | str | None = None,
        halo: Halo = "exact",
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        probabilities: Probabilities | None = None,
        preview: bool = False,
    ) -> Written:
        """Segment one image of any size into a file; neither has to fit in memory.

        A TIFF file of plain bands is read window by window (with the extra ``tiff``), and the mask is written band by
        band. See `predict` for the other arguments.

        Args:
            source: a path, the bytes of a file, also opened ("rb"), a PIL image, an array (H, W[, C]) uint8, or a
                tensor (C, H, W), uint8 or float in 0..1.
            target: file of the mask, ``.png`` or ``.tif``; with several heads ``mask.png`` becomes ``mask.HEAD.png``.
            memory: as `predict` takes it.
            halo: as `predict` takes it.
            flip: as `predict` takes it.
            scales: as `predict` takes it.
            probabilities: "top" or "all" writes them beside the mask, to ``mask.npz``.
            preview: give image and mask thinned to at most 4096 pixels a side too, for an overlay.

        Returns:
            Where the mask is, and the share of each class; of several heads a dict by head.

        Raises:
            FileNotFoundError: if the file is not there.
            DatasetError: if it is not an image.
            ValueError: if the memory does not hold the smallest tile, or an option has an invalid value.
        """
        options = Options(memory, halo, flip, tuple(scales), probabilities)
        with self.predictor().ready() as network:
            return cast(Written, at_edge(segment_to(network, source, target, options, preview)))

    def predict_batch(self, rasters: Sequence[Raster], *, memory: int | str | None = None) -> list[Any]:
        """Segment images of one size, as many in one pass as memory holds.

        Args:
            rasters: the images, as `fullyconv.images.raster.read_raster` reads them.
            memory: as `predict` takes it.

        Returns:
            What `predict` gives for each, up to rounding where two classes are all but equal.
        """
        if type(self).predict is not Predicts.predict:  # which has the last word
            return [self.predict(raster, memory=memory) for raster in rasters]
        return self._segment(rasters, Options(memory))

    def _segment(self, sources: Sequence[ImageSource], options: Options) -> list[Any]:
        with self.predictor().ready() as network:
            return [at_edge(found) for found in segment(network, sources, options)]


class Predictor(Predicts):
    """Segment images with a model, its labels and its preprocessing.

    `SegmentationModule.predict` is this one's; ``fullyconv.hub.predictor.open_predictor`` opens a model folder as
    one, without Lightning.

    Args:
        model: an `FCN`, or a `MultiHeadFCN`.
        labels: of its classes; of a model with several heads a dict by head.
        preprocessing: what its images need.
        owner: the module that is put into evaluation mode meanwhile; None is the model.
        scores: gives the scores of (N, C, H, W) images in 0..1, of a subclass that overrides them; None
            takes those of the model.
        precision: what convolutions are computed in; "bfloat16" and "float16" are for processors that have them.

    Raises:
        ValueError: if precision is none.

    Example:
        >>> from fullyconv.fcn import build_model
        >>> from fullyconv.preprocessing import IMAGENET
        >>> predictor = Predictor(build_model("fcn32s_resnet18_quarter", 2), Labels.of(["road", "sky"]), IMAGENET)
        >>> predictor.predict(torch.zeros(3, 40, 60)).mask.shape
        (40, 60)
    """

    def __init__(
        self,
        model: nn.Module,
        labels: AnyLabels,
        preprocessing: Preprocessing,
        *,
        owner: nn.Module | None = None,
        scores: Scores | None = None,
        precision: Precision = "float32",
    ) -> None:
        self.model: Any = model
        self.labels = labels
        self.preprocessing = preprocessing
        self._owner = model if owner is None else owner
        self._own_scores = scores
        self._folded: tuple[object, Any] | None = None
        self._told = False
        self.precision = precision

    @property
    def precision(self) -> Precision:
        """What convolutions are computed in: float32, bfloat16 or float16."""
        return self._precision

    @precision.setter
    def precision(self, precision: Precision) -> None:
        if precision not in get_args(Precision):
            raise ValueError(f"precision={precision!r}: choose {', '.join(get_args(Precision))}")
        self._precision: Precision = precision

    @property
    def classes(self) -> Any:
        """The K class names; of a model with several heads a dict by head."""
        return at_edge({head: list(labels.names) for head, labels in by_head(self.labels).items()})

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return cast(torch.device, next(self.model.parameters()).device)

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of the model's weights."""
        return cast(torch.dtype, next(self.model.parameters()).dtype)

    def to(self, device: torch.device | str) -> Predictor:
        """Move the model to a device."""
        self.model.to(device)
        return self

    @contextmanager
    def ready(self) -> Iterator[Network]:
        """Give the model with its heads, for as long as it is in evaluation mode."""
        with evaluating(self._owner), torch.inference_mode():
            yield self.network()

    def network(self) -> Network:
        """Give what has to be known to run the model; it has to be in evaluation mode."""
        scores, kind = self._ready()
        model, backbone = self.model, self.model.backbone
        alone = isinstance(self.labels, Labels)
        grids = by_head(model.geometry)
        heads = {
            name: Head(labels, grids[name], model.geometry_for if alone else partial(_anywhere, grids[name]))
            for name, labels in by_head(self.labels).items()
        }
        return Network(
            module=self._owner,
            scores=scores,
            heads=heads,
            align=math.lcm(*backbone.channels, backbone.size_divisor),
            least=backbone.min_size,
            in_channels=self.preprocessing.in_channels,
            device=self.device,
            dtype=kind,
            value_range=self.preprocessing.value_range,
            short_side=self.preprocessing.short_side,
        )

    def _ready(self) -> tuple[Heads, torch.dtype]:
        """Give what computes the scores of each head, and the floating type that it takes."""
        scores, kind = self._own_scores, self.dtype
        if scores is None:
            served = self._serving()
            kind = next(served.parameters()).dtype

            def scores(image: Tensor) -> Any:
                with self.native_precision(image):
                    return served.scores(self.preprocessing(image))

        lowered = self._lowered(scores)
        return lambda image: by_head(lowered(image)), kind

    def _lowered(self, scores: Scores) -> Scores:
        """Compute in the precision that is set; tensors without data, by which memory is measured, have none."""
        if self.precision == "float32":
            return scores
        kind = getattr(torch, self.precision)

        def run(image: Tensor) -> Any:
            with nullcontext() if image.is_meta else torch.autocast(image.device.type, kind):
                return scores(image)

        return run

    def _serving(self) -> Any:
        """Give the model with its batch norms folded into its convolutions, made anew when a weight was changed.

        The model itself where that could be seen: with hooks, which would not fire; in half precision, which would
        round the products; with unpooling, whose maxima may change places by rounding; with several heads. In half
        precision that the processor only emulates it is a copy in single precision.
        """
        model, kind = self.model, self.dtype
        if any(part._forward_hooks or part._forward_pre_hooks for part in model.modules()):
            return model
        widened = self.device.type == "cpu" and processor.emulates(kind)
        foldable = isinstance(self.labels, Labels) and getattr(getattr(model, "head", None), "foldable", True)
        if (kind != torch.float32 or not foldable) and not widened:
            return model
        now = fingerprint(model)
        if self._folded is None or self._folded[0] != now:
            if widened:
                warnings.warn(
                    f"{_EMULATED.format(kind)}: the prediction is computed in float32; module.float() spares the copy",
                    stacklevel=4,
                )
                found = copy.deepcopy(model).float().requires_grad_(False)
            else:
                generator = torch.Generator().manual_seed(0)
                example = torch.randn(1, self.preprocessing.in_channels, 64, 64, generator=generator).to(self.device)
                found = fold(model, lambda one: cast(Tensor, one.scores(example)))
            self._folded = (now, found)
        return self._folded[1] or model

    @contextmanager
    def native_precision(self, image: Tensor) -> Iterator[None]:
        """Compute in float32 where an autocast asks for a type that the processor only emulates, 150 times slower."""
        kind = (
            torch.get_autocast_dtype("cpu") if image.device.type == "cpu" and torch.is_autocast_enabled("cpu") else None
        )
        if kind is None or not processor.emulates(kind):
            yield
            return
        if not self._told:
            self._told = True
            warnings.warn(f"{_EMULATED.format(kind)}: the network is computed in float32", stacklevel=4)
        with torch.autocast("cpu", enabled=False):
            yield


def _anywhere(grid: Geometry, size: Size) -> Geometry:
    return grid
