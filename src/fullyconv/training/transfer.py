"""Segmenters made from others: for other classes, for more of them, with one more skip."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count
from typing import Self

import torch

from fullyconv.backbones import LoadReport
from fullyconv.fcn import MODELS
from fullyconv.labels import AnyLabels, Labels, as_text, by_head, packed_color
from fullyconv.palettes import default_palette
from fullyconv.training.heads import plain
from fullyconv.training.storing import StoredModule


class Transfers(StoredModule):
    """A module that others are made from."""

    def with_classes(self, labels: AnyLabels) -> Self:
        """Give a segmenter for other classes: everything is kept but the score layers, which start at zero.

        With the same class names in the same order nothing is lost, only palette and label values are exchanged.

        Args:
            labels: the new classes; for several heads a dict by head, in which heads may be left out or new.

        Returns:
            A new module in evaluation mode; ``reinitialized`` names the tensors that were not kept.

        Raises:
            ValueError: if labels are given by head and the model has one that stands alone, or the other way round.
        """
        old, new = by_head(self.labels), by_head(labels)
        if isinstance(self.labels, Labels) != isinstance(labels, Labels):
            wanted = "Labels" if isinstance(self.labels, Labels) else f"a dict of Labels by head: {', '.join(old)}"
            raise ValueError(f"labels={labels!r}: the model wants {wanted}")
        other = self.like(**plain(labels), class_weights=None)
        own, fresh = self.model.state_dict(), other.model.state_dict()
        lost = {key for key, value in fresh.items() if key not in own or own[key].shape != value.shape}
        for head, entry in new.items():
            # With as many classes as before the shapes agree, and yet the rows would belong to other classes.
            if head not in old or entry.names != old[head].names:
                lost |= {key for key in fresh if key.startswith((_key(head, "score."), _key(head, "upscore.")))}
        other.model.load_state_dict({key: value if key in lost else own[key] for key, value in fresh.items()})
        kept = tuple(key for key in fresh if key not in lost)
        other.load_report = LoadReport(copied=kept, reinitialized=tuple(sorted(lost)))
        other.start_classes = tuple(old[""].names) if "" in old else ()
        other.descend(self)
        return other.eval()

    def expand_classes(self, classes: Sequence[str] | Labels) -> Self:
        """Give a segmenter that knows further classes: all rows of the old ones are kept, those of the new are zero.

        Args:
            classes: names of the further classes, or the labels of all, beginning with those that are known already.
                With names alone, the value of a further class in mask files is its index, or the next that is free.

        Returns:
            A new module in evaluation mode; ``load_report`` says which tensors were copied and which were extended.

        Raises:
            ValueError: if a name is known already, the labels do not begin with the known ones, or the model has
                several heads.

        Example:
            >>> from fullyconv import SegmentationModule
            >>> module = SegmentationModule("fcn32s_resnet18_half", classes=["sky", "road"])
            >>> module.expand_classes(["crack"]).classes
            ['sky', 'road', 'crack']
        """
        if not isinstance(self.labels, Labels):
            raise ValueError(
                f"classes={classes!r}: the model has the heads {', '.join(self.labels)}; use with_classes with a "
                "dict of Labels by head"
            )
        known = list(self.labels.names)
        labels = classes if isinstance(classes, Labels) else _further(self.labels, classes)
        if list(labels.names[: len(known)]) != known or len(labels.names) == len(known):
            raise ValueError(
                f"classes={list(labels.names)}: must begin with the known ones, {known}, and go on; to exchange them "
                "use with_classes"
            )
        other = self.with_classes(labels)
        own, fresh = self.model.state_dict(), other.model.state_dict()
        grown = [key for key in other.reinitialized if key in own and own[key].shape[1:] == fresh[key].shape[1:]]
        with torch.no_grad():
            for key in grown:
                fresh[key][: len(known)] = own[key]
        anew = tuple(key for key in other.reinitialized if key not in grown)
        copied = tuple(key for key in fresh if key not in grown and key not in anew)
        other.load_report = LoadReport(copied=copied, adapted=tuple(grown), reinitialized=anew)
        return other

    def grow(self, stride: int) -> Self:
        """Give the next stage of staged training, FCN-32s to 16s to 8s to 4s (Long et al. 2015, section 4.2).

        All weights are kept, the new score layer is zero, so that the next stage starts at the outputs of this one.

        Args:
            stride: of the skip to add; half of the finest stride so far.

        Raises:
            ValueError: if the model has no such next stage.
        """
        heads, name = by_head(self.labels), self.hparams["model"]
        finest = {getattr(self.model.head[head] if head else self.model.head, "strides", (0,))[-1] for head in heads}
        stage = re.sub(r"^fcn\d+s(?!_atonce)", f"fcn{stride}s", name)
        if finest != {2 * stride} or stage == name or not ("timm/" in stage or stage in MODELS):
            raise ValueError(
                f"stride={stride}: {name} has no such next stage; staged training goes from 32 to 16 to 8 to 4, as far "
                "as the backbone has features of that stride"
            )
        other = self.like(model=stage)
        other.model.load_state_dict(self.model.grow(stride).state_dict())
        anew = tuple(_key(head, f"score.{stride}.{kind}") for head in heads for kind in ("bias", "weight"))
        copied = tuple(key for key in other.model.state_dict() if key not in anew)
        other.load_report = LoadReport(copied=copied, reinitialized=anew)
        other.descend(self)
        return other.train(self.training)


def _key(head: str, name: str) -> str:
    return f"head.{head}.{name}" if head else f"head.{name}"


def _further(labels: Labels, names: Sequence[str]) -> Labels:
    """Add classes to labels; their value in mask files is their index, or the next one that is free."""
    if isinstance(names, str):
        raise ValueError(f'classes={names!r} is one string; give a list of names, ["{names}"]')
    every = [*labels.names, *names]
    palette = [list(color) for color in labels.palette]
    values = dict(labels.values)
    many = default_palette(1 + len(every) + len(palette) + len(values))[1:]
    spare = [color for color in many if color not in labels.palette and as_text(packed_color(color)) not in values]
    palette += [list(color) for color in spare[: len(names)]]
    for index, name in enumerate(names, labels.num_classes):
        if labels.by_color:
            values[as_text(packed_color(palette[index]))] = name
        else:
            values[next(value for value in count(index) if value not in values)] = name
    return Labels.of(every, palette, values, labels.ignore_index)
