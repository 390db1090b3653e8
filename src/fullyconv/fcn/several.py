"""Several heads on one backbone, one for each task (Long et al. 2015, table 5)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from fullyconv.backbones import Backbone
from fullyconv.fcn.model import FCN, grown_head, head_like, padded, scored, upsampled
from fullyconv.geometry import Geometry
from fullyconv.heads import SkipHead


class MultiHeadFCN(nn.Module):
    """A fully convolutional network with several heads on one backbone, one for each task (Long et al. 2015, table 5).

    It is an `FCN` that answers with a dict: scores and logits by the name of the head, in the order of `heads`.

    Args:
        backbone: gives features by stride.
        heads: a head for each task, made for the backbone's channels. Their names are Python identifiers, because they
            become part of the state dict's keys: ``head.semantic.score.32.weight``.

    Raises:
        ValueError: if there is no head, or its name cannot be part of a key.

    Example:
        >>> import torch
        >>> from fullyconv import build_model
        >>> model = build_model("fcn16s_resnet18_half", num_classes={"semantic": 33, "geometric": 3})
        >>> {name: tuple(logits.shape) for name, logits in model(torch.zeros(1, 3, 37, 50)).items()}
        {'semantic': (1, 33, 37, 50), 'geometric': (1, 3, 37, 50)}
    """

    def __init__(self, backbone: Backbone, heads: Mapping[str, SkipHead]) -> None:
        super().__init__()
        check_heads(heads)
        self.backbone = backbone
        self.head = nn.ModuleDict(dict(heads))

    @property
    def heads(self) -> dict[str, SkipHead]:
        """The heads by name."""
        return {name: cast(SkipHead, head) for name, head in self.head.items()}

    @property
    def num_classes(self) -> dict[str, int]:
        """Number of classes K of each head."""
        return {name: head.num_classes for name, head in self.heads.items()}

    @property
    def geometry(self) -> dict[str, Geometry]:
        """Where the scores of each head lie on the image."""
        return {name: head.geometry for name, head in self.heads.items()}

    def scores(self, x: Tensor) -> dict[str, Tensor]:
        """Compute class scores before upsampling.

        Args:
            x: (N, C, H, W) normalized images.

        Returns:
            For each head (N, K, h, w) scores on its grid of `geometry`; with a stride of 1 they are the logits.

        Raises:
            ValueError: if x has the wrong dimensions or channels.
        """
        features = self.backbone(padded(self.backbone, x))
        return {name: scored(head, features, (x.shape[2], x.shape[3])) for name, head in self.heads.items()}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the logits.

        Args:
            x: (N, C, H, W) normalized images.

        Returns:
            For each head (N, K, H, W) logits.

        Raises:
            ValueError: if x has the wrong dimensions or channels.
        """
        scores, grids = self.scores(x), self.geometry
        return {name: upsampled(scores[name], grids[name], (x.shape[2], x.shape[3])) for name in scores}

    def grow(self, stride: int) -> MultiHeadFCN:
        """Make the next stage of staged training: one more skip for every head; see `FCN.grow`.

        Args:
            stride: stride of the features to score as well; finer than those scored now.

        Returns:
            The grown model, on the same device, in the same mode. This one is left as it is.

        Raises:
            ValueError: if stride is not a finer stride of the backbone.
        """
        heads = {name: grown_head(head, self.backbone, stride) for name, head in self.heads.items()}
        grown = MultiHeadFCN(copy.deepcopy(self.backbone), heads)
        grown.training = self.training
        grown.head.training = self.head.training
        return grown


def with_heads(model: FCN, num_classes: Mapping[str, int]) -> MultiHeadFCN:
    """Put heads like that of a model on its backbone, one for each task.

    Args:
        model: its backbone is taken over, not copied; its head is left out.
        num_classes: number of classes K by the name of the head.

    Returns:
        The model, the score layers of all heads at zero.

    Raises:
        ValueError: if the model has no `SkipHead`, or a name cannot be part of a key.

    Example:
        >>> from fullyconv import build_model
        >>> with_heads(build_model("fcn16s_resnet18_half", 2), {"semantic": 33, "geometric": 3}).num_classes
        {'semantic': 33, 'geometric': 3}
    """
    like = model.head
    if not isinstance(like, SkipHead):
        raise ValueError(
            f"num_classes={dict(num_classes)}: a model with {type(like).__name__} has one head only. Several heads go "
            "with models with skips, such as fcn16s_vgg16; pass one number of classes here."
        )
    heads = {task: head_like(like, model.backbone, classes, like.strides) for task, classes in num_classes.items()}
    return MultiHeadFCN(model.backbone, heads)


def check_heads(names: Mapping[str, object]) -> None:
    """Refuse names that cannot stand in the keys of a state dict."""
    if not names:
        raise ValueError("a model has at least one head; give its name and number of classes, {'semantic': 33}.")
    for name in names:
        if not isinstance(name, str) or not name.isidentifier() or hasattr(nn.ModuleDict(), name):
            raise ValueError(
                f"{name!r} cannot name a head: it becomes part of the keys of the state dict. "
                "Give a Python identifier that is no attribute of a module, such as 'semantic'."
            )
