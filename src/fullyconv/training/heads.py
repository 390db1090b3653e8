"""What there is one of for each head: class names, colors, weights of the loss, the loss itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fullyconv.labels import AnyLabels, Labels
from fullyconv.training.losses import PixelLoss, build_loss, check_weights


def labels_of(classes: Any, palette: Any, label_values: Any, ignore_index: int) -> AnyLabels:
    """Make labels of the arguments of a module.

    Args:
        classes: K class names, or `Labels`, which have the rest; of several heads a dict by head.
        palette: K colors, or None; of several heads a dict by head, in which heads may be left out.
        label_values: what values of mask files mean, or None; of several heads as palette.
        ignore_index: label of the pixels that count for nothing.

    Returns:
        The labels; of several heads a dict by head.

    Raises:
        ValueError: if there are fewer than two classes, or an argument names an unknown head.
    """
    if isinstance(classes, Mapping) and classes:
        colors, values = of_heads("palette", palette, classes), of_heads("label_values", label_values, classes)
        return {
            head: _of_one(names, colors.get(head), values.get(head), ignore_index, f"classes[{head!r}]")
            for head, names in classes.items()
        }
    return _of_one(classes, palette, label_values, ignore_index, "classes")


def of_heads(argument: str, given: Any, heads: Mapping[str, object]) -> Mapping[str, Any]:
    """Check an argument that is a dict by head.

    Args:
        argument: its name.
        given: its value, or None.
        heads: by their names.

    Returns:
        The value; an empty dict for None.

    Raises:
        ValueError: if it is no dict, or names an unknown head.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not given.keys() <= heads.keys():
        raise ValueError(f"{argument}={given!r}: give a dict by the names of the heads, {', '.join(heads)}")
    return given


def _of_one(classes: Any, palette: Any, label_values: Any, ignore_index: int, argument: str) -> Labels:
    if isinstance(classes, Labels):
        if palette is not None or label_values is not None:
            raise ValueError(f"{argument} is Labels, which have palette and label_values: leave these out")
        return classes
    if not classes or isinstance(classes, str | Mapping) or len(classes) < 2:
        raise ValueError(
            f"{argument}={classes!r}: name at least two classes (two-class problems are background and foreground), "
            "for example classes=data.classes"
        )
    return Labels.of(classes, palette=palette, values=label_values, ignore_index=ignore_index)


def split_heads(found: Any) -> Mapping[str, Any]:
    """Give logits or masks by head; those that stand alone are called ""."""
    return found if isinstance(found, Mapping) else {"": found}


def plain(labels: AnyLabels) -> dict[str, Any]:
    """Give labels as plain arguments of a module: `classes`, `palette`, `label_values`, `ignore_index`.

    Raises:
        ValueError: if several heads ignore different labels.
    """
    if isinstance(labels, Labels):
        return {
            "classes": list(labels.names),
            "palette": [list(color) for color in labels.palette],
            "ignore_index": labels.ignore_index,
            "label_values": dict(labels.values),
        }
    heads = {head: plain(entry) for head, entry in labels.items()}
    ignored = {entry["ignore_index"] for entry in heads.values()}
    if len(ignored) != 1:
        raise ValueError(f"labels ignore {sorted(ignored)}: heads share their ignore_index; give each the same")
    split = {key: {head: entry[key] for head, entry in heads.items()} for key in ("classes", "palette", "label_values")}
    return {**split, "ignore_index": ignored.pop()}


def loss_of(loss: str | nn.Module | PixelLoss, labels: AnyLabels, class_weights: Any, ignore_index: int) -> nn.Module:
    """Build the loss; that of several heads is the sum of theirs.

    Args:
        loss: as `SegmentationModule` takes it.
        labels: the classes.
        class_weights: K weights, or None; of several heads a dict by head.
        ignore_index: label of the pixels that count for nothing.

    Returns:
        A module of logits and masks, or of dicts of them by head, that gives one number.

    Raises:
        ValueError: if the loss or the weights are invalid.
    """
    if isinstance(labels, Labels):
        check_weights(class_weights, labels.num_classes)
        return build_loss(loss, ignore_index, class_weights)
    weights = of_heads("class_weights", class_weights, labels)
    return SummedLoss({head: loss_of(loss, one, weights.get(head), ignore_index) for head, one in labels.items()})


class SummedLoss(nn.ModuleDict):
    """The sum of the losses of all heads, with weight 1 each, as the reference's networks for SIFT Flow have it."""

    def forward(self, logits: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
        """Give the sum for logits and masks by head."""
        if not isinstance(masks, Mapping) or masks.keys() != self.keys():
            found = f"the keys {', '.join(masks)}" if isinstance(masks, Mapping) else f"a {type(masks).__name__}"
            raise ValueError(f'batch["mask"] has {found}; give a dict with masks for each head: {", ".join(self)}')
        return torch.stack([loss(logits[head], masks[head]) for head, loss in self.items()]).sum()
