"""The graph of a segmenter: bytes in, labels and scores out, all sizes free."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from fullyconv.export.operators import translations
from fullyconv.preprocessing import Preprocessing
from fullyconv.runtime import port
from fullyconv.training.module import SegmentationModule

OPSET = 18
STRETCH = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}


class Network(nn.Module):
    """Bytes to logits: a copy of the segmenter in single precision on the CPU, in evaluation mode."""

    def __init__(self, module: SegmentationModule) -> None:
        super().__init__()
        self.model = copy.deepcopy(module.model).cpu().float().eval().requires_grad_(False)
        self.model.to(memory_format=torch.contiguous_format)
        self.preprocessing: Preprocessing = module.preprocessing

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Give the logits of (N, H, W, C) bytes."""
        logits = self.model(self.preprocessing(image.permute(0, 3, 1, 2).float() / 255))
        return tuple(logits.values()) if isinstance(logits, dict) else (logits,)


def graph_of(network: Network, channels: int, heads: Sequence[str]) -> Any:
    """Let PyTorch export the network; sizes stay open, and our own operators are translated."""
    free = torch.export.Dim.DYNAMIC
    example = torch.arange(2 * 96 * 128 * channels).to(torch.uint8).reshape(2, 96, 128, channels)
    try:
        with quiet(), torch.inference_mode(False):
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
                custom_translation_table=translations(),
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


def finish(proto: Any, model: SegmentationModule, labels: bool, scores: bool) -> None:
    """Name the free sides, and add what comes after the logits: scaling to the image's size, argmax."""
    graph, info, types = proto.graph, onnx.helper.make_tensor_value_info, onnx.TensorProto
    add = _adder(graph)
    heads = model.heads
    scaled_again = model.preprocessing.short_side is not None
    if scaled_again:
        # A slash stands in no name of a head, so that no two values get one name.
        logits = {port("scores", head): f"{port('scores', head)}/logits" for head in heads}
        for node in graph.node:
            node.output[:] = [logits.get(name, name) for name in node.output]
            node.input[:] = [logits.get(name, name) for name in node.input]
        graph.input.append(info("size", types.INT64, [2]))
        makers = {name: node for node in graph.node for name in node.output}
        for result, seen in logits.items():
            if _stretches(makers[seen]):
                graph.node.remove(makers[seen])
                _stretch_twice(add, makers[seen], result)
                continue
            add("Shape", [seen], f"{seen}/head", start=0, end=2)
            add("Concat", [f"{seen}/head", "size"], f"{seen}/size", axis=0)
            add("Resize", [seen, "", "", f"{seen}/size"], result, **STRETCH)
    kinds = {head: types.UINT8 if entry.dtype is np.uint8 else types.UINT16 for head, entry in heads.items()}
    for head in heads if labels else ():
        name = port("labels", head)
        add("ArgMax", [port("scores", head)], f"{name}/int64", axis=1, keepdims=0)
        add("Cast", [f"{name}/int64"], name, to=kinds[head])
    channels = int(model.hparams["in_channels"])
    inputs = [info("image", types.UINT8, ["N", "H", "W", channels]), *list(graph.input)[1:]]
    sides = ["height", "width"] if scaled_again else ["H", "W"]
    del graph.input[:]
    graph.input.extend(inputs)
    del graph.output[:]
    del graph.value_info[:]  # named by the exporter's own symbols, which nobody can read
    for head, entry in heads.items():
        if labels:
            graph.output.append(info(port("labels", head), kinds[head], ["N", *sides]))
        if scores:
            shape: list[str | int] = ["N", entry.num_classes, *sides]
            graph.output.append(info(port("scores", head), types.FLOAT, shape))
    graph.name = str(model.hparams["model"])
    proto.ir_version = min(proto.ir_version, 10)  # as far as an onnxruntime of two years ago goes
    onnx.checker.check_model(proto)


def _stretches(node: Any) -> bool:
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


def _adder(graph: Any) -> Callable[..., None]:
    """Give what appends a node of one output to a graph."""

    def add(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        graph.node.append(onnx.helper.make_node(kind, inputs, [output], **attributes))

    return add


def _stretch_twice(add: Callable[..., None], node: Any, output: str) -> None:
    """Stretch scores over the image and the image to the image in one step.

    Both are linear in the rows and in the columns, so that their product is a matrix for either: what they make of the
    identity. No logits of the size that the network looked at are made, which takes most of the time of both.

    Args:
        add: takes the nodes in the place of both, as `_adder` gives it.
        node: the first of the two, a "Resize" of scores (N, K, h, w) to sizes.
        output: name of the result (N, K, H, W); "size" holds H and W.
    """
    make, types = onnx.helper.make_tensor, onnx.TensorProto
    scores, sizes = node.input[0], node.input[3]
    zero = make("zero", types.FLOAT, [1], [0.0])

    def number(name: str, *values: int) -> str:
        add("Constant", [], name, value=make(name, types.INT64, [len(values)], values))
        return name

    one = number(f"{output}/one", 1)
    for axis, name in enumerate(("rows", "columns")):
        at = f"{output}/{name}"
        add("Shape", [scores], f"{at}/n", start=2 + axis, end=3 + axis)
        add("Gather", [sizes, number(f"{at}/place", 2 + axis)], f"{at}/seen")
        add("Gather", ["size", number(f"{at}/axis", axis)], f"{at}/own")
        add("Concat", [f"{at}/n", f"{at}/n"], f"{at}/square", axis=0)
        add("ConstantOfShape", [f"{at}/square"], f"{at}/zeros", value=zero)
        add("EyeLike", [f"{at}/zeros"], f"{at}/flat")
        add("Unsqueeze", [f"{at}/flat", number(f"{at}/leading", 0, 1)], f"{at}/0")
        for step, side in enumerate((f"{at}/seen", f"{at}/own")):
            add("Concat", [one, one, side, f"{at}/n"], f"{at}/shape{step}", axis=0)
            add("Resize", [f"{at}/{step}", "", "", f"{at}/shape{step}"], f"{at}/{step + 1}", **STRETCH)
    add("Transpose", [f"{output}/columns/2"], f"{output}/across", perm=[0, 1, 3, 2])
    add("MatMul", [scores, f"{output}/across"], f"{output}/wide")
    add("MatMul", [f"{output}/rows/2", f"{output}/wide"], output)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what the libraries say of themselves from standing between the user and the answer."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
