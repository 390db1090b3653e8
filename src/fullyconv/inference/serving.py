"""A model that is ready to predict: folded, with its labels and preprocessing. Nothing of Lightning is needed."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from fullyconv.errors import first_line
from fullyconv.geometry.measuring import evaluating
from fullyconv.images.raster import Raster
from fullyconv.images.tiff import TiffImage
from fullyconv.inference import processor
from fullyconv.inference.folding import fingerprint, fold
from fullyconv.inference.predict import ImageSource, segment_heads, segment_heads_to, segment_many
from fullyconv.inference.processor import Precision, check_precision
from fullyconv.inference.tiles import Halo, Network, Options, Probabilities
from fullyconv.labels import Labels
from fullyconv.preprocessing import Preprocessing

_EMULATED = "this processor only emulates {}, many times slower than float32"

Scores = Callable[[Tensor], Any]


class Predictor:
    """Segment images with a model, its labels and its preprocessing.

    `SegmentationModule.predict` is this one's; ``fullyconv.hub.predictor.open_predictor`` opens a model folder as
    one, without Lightning.

    Args:
        model: an `FCN`, or a `MultiHeadFCN`.
        labels: of its classes; of a model with several heads a dict by head.
        preprocessing: what its images need.
        owner: the module that is put into evaluation mode meanwhile; None is the model.
        scores: gives the scores of (N, C, H, W) images in 0..1 where another class has the last word on them; None
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
        labels: Labels | Mapping[str, Labels],
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
        self._compiled: tuple[Any, Scores] | None = None
        self._told = False
        self.precision = precision

    @property
    def precision(self) -> Precision:
        """What convolutions are computed in: float32, bfloat16 or float16."""
        return self._precision

    @precision.setter
    def precision(self, precision: Precision) -> None:
        check_precision(precision)
        self._precision: Precision = precision

    @property
    def classes(self) -> Any:
        """The K class names; of a model with several heads a dict by head."""
        if isinstance(self.labels, Labels):
            return list(self.labels.names)
        return {head: list(labels.names) for head, labels in self.labels.items()}

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of the model's weights."""
        kind: torch.dtype = next(self.model.parameters()).dtype
        return kind

    def to(self, device: torch.device | str) -> Predictor:
        """Move the model to a device."""
        self.model.to(device)
        return self

    def predict(
        self,
        source: ImageSource,
        *,
        memory: int | str | None = None,
        halo: Halo = "exact",
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        probabilities: Probabilities | None = None,
        compile: bool = False,
    ) -> Any:
        """Segment one image of any size; the arguments are those of `SegmentationModule.predict`.

        Returns:
            A `Segmentation`; of a model with several heads a dict by head, from one look.
        """
        return self._by_head(segment_heads, source, Options(memory, halo, flip, tuple(scales), probabilities), compile)

    def predict_batch(
        self, rasters: Sequence[Raster], *, memory: int | str | None = None, compile: bool = False
    ) -> list[Any]:
        """Segment images of one size, as many in one look as memory holds.

        Args:
            rasters: the images, as `read_raster` reads them.
            memory: as `predict` takes it.
            compile: as `predict` takes it.

        Returns:
            What `predict` gives for each, up to rounding where two classes are all but equal.
        """
        found: list[Any] = self._by_head(segment_many, rasters, Options(memory), compile)
        return found

    def predict_to(
        self,
        source: ImageSource | TiffImage,
        target: str | Path,
        *,
        memory: int | str | None = None,
        halo: Halo = "exact",
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        probabilities: tuple[Probabilities, str | Path] | None = None,
        preview: bool = False,
        compile: bool = False,
    ) -> Any:
        """Segment one image of any size into a file; the arguments are those of `SegmentationModule.predict_to`.

        Returns:
            A `Written`; of a model with several heads a dict by head.
        """
        wanted, beside = probabilities or (None, None)
        options = Options(memory, halo, flip, tuple(scales), wanted)

        def run(networks: Any, scores: Any, image: Any, labels: Any, how: Options, short_side: int | None) -> Any:
            return segment_heads_to(networks, scores, image, target, labels, how, short_side, beside, preview)

        return self._by_head(run, source, options, compile)

    def _by_head(self, run: Callable[..., Any], source: Any, options: Options, compile: bool) -> Any:
        """Run what knows all models as ones of several heads; give what the one head says where there is one."""
        one = isinstance(self.labels, Labels)
        with evaluating(self._owner), torch.inference_mode():
            scores, kind = self._ready(compile)
            networks, labels = self._networks(scores, kind), {"": self.labels} if one else self.labels
            every = (lambda image: {"": scores(image)}) if one else scores
            found = run(networks, every, source, labels, options, short_side=self.preprocessing.short_side)
        if not one:
            return found
        return [each[""] for each in found] if isinstance(found, list) else found[""]

    def networks(self) -> dict[str, Network]:
        """Give what has to be known to run the model on tiles, for each head; one that stands alone is called ""."""
        return self._networks(*self._ready(False))

    def _networks(self, scores: Scores, kind: torch.dtype) -> dict[str, Network]:
        model, backbone = self.model, self.model.backbone

        def network(grid: Any, grid_for: Any, classes: int, scores: Scores) -> Network:
            return Network(
                module=self._owner,
                scores=scores,
                geometry=grid,
                geometry_for=grid_for,
                classes=classes,
                align=math.lcm(*backbone.channels, backbone.size_divisor),
                least=backbone.min_size,
                in_channels=self.preprocessing.in_channels,
                device=self.device,
                dtype=kind,
                value_range=self.preprocessing.value_range,
            )

        if isinstance(self.labels, Labels):
            return {"": network(model.geometry, model.geometry_for, model.num_classes, scores)}

        def of_head(head: str) -> Network:
            grid = model.geometry[head]
            return network(grid, lambda _: grid, model.num_classes[head], lambda image: scores(image)[head])

        return {head: of_head(head) for head in self.labels}

    def _ready(self, compiled: bool) -> tuple[Scores, torch.dtype]:
        """Give what computes the scores, and the floating type that it takes."""
        if self._own_scores is not None:
            if compiled:
                raise ValueError(f"compile=True: {type(self._owner).__name__} has its own scores; leave compile out")
            return self._lowered(self._own_scores), self.dtype
        served = self._serving()
        run = self._compile(served) if compiled else served.scores

        def scores(image: Tensor) -> Any:
            with self.native_precision(image):
                return run(self.preprocessing(image))

        return self._lowered(scores), next(served.parameters()).dtype

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
            self._folded, self._compiled = (now, found), None
        return self._folded[1] or model

    def _compile(self, model: Any) -> Scores:
        """Give the model's scores through torch.compile, compiled once for as long as its weights are the same."""
        if self._compiled is None or self._compiled[0] is not model:
            # weights as constants: compiled in a third of the time, and laid out for the convolutions
            made: Scores = torch.compile(model.scores, options={"freezing": True})

            def run(image: Tensor) -> Any:
                try:
                    return made(image)
                except (RuntimeError, ImportError) as error:
                    if type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
                        raise ValueError(
                            f"compile=True: torch cannot compile here ({first_line(error)}); install a C++ compiler, "
                            "or leave compile out"
                        ) from error
                    raise

            self._compiled = (model, run)
        return self._compiled[1]

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
