"""Caffe networks for the tests: described once, written as prototxt and as .caffemodel by the protobuf library.

The schema is our own, built at run time from the field numbers of caffe.proto: an encoder that shares nothing with the
reader under test. The reference networks are typed in from Long et al.'s released definitions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from torch import nn

from fullyconv.backbones.alexnet import CaffeNet, caffenet_classifier
from fullyconv.backbones.vgg import VGG

SCHEMA: dict[str, dict[str, tuple[int, str]]] = {
    "BlobShape": {"dim": (1, "*int64 packed")},
    "BlobProto": {
        "num": (1, "int32"),
        "channels": (2, "int32"),
        "height": (3, "int32"),
        "width": (4, "int32"),
        "data": (5, "*float packed"),
        "shape": (7, "BlobShape"),
        "double_data": (8, "*double packed"),
    },
    # as BlobProto, with values written one by one
    "LooseShape": {"dim": (1, "*int64")},
    "LooseBlob": {"data": (5, "*float"), "shape": (7, "LooseShape"), "double_data": (8, "*double")},
    "LooseLayer": {"name": (1, "string"), "type": (2, "string"), "blobs": (7, "*LooseBlob")},
    "LooseNet": {"layer": (100, "*LooseLayer")},
    "ConvolutionParameter": {
        "num_output": (1, "uint32"),
        "bias_term": (2, "bool"),
        "pad": (3, "*uint32"),
        "kernel_size": (4, "*uint32"),
        "group": (5, "uint32"),
        "stride": (6, "*uint32"),
        "pad_h": (9, "uint32"),
        "pad_w": (10, "uint32"),
        "kernel_h": (11, "uint32"),
        "kernel_w": (12, "uint32"),
        "stride_h": (13, "uint32"),
        "stride_w": (14, "uint32"),
        "dilation": (18, "*uint32"),
    },
    "CropParameter": {"axis": (1, "int32"), "offset": (2, "*uint32")},
    "EltwiseParameter": {"coeff": (2, "*float")},
    "LRNParameter": {"local_size": (1, "uint32"), "alpha": (2, "float"), "beta": (3, "float")},
    "PoolingParameter": {"kernel_size": (2, "uint32"), "stride": (3, "uint32")},
    "InputParameter": {"shape": (1, "*BlobShape")},
    "InnerProductParameter": {"num_output": (1, "uint32")},
    "PythonParameter": {"module": (1, "string"), "layer": (2, "string"), "param_str": (3, "string")},
    "LayerParameter": {
        "name": (1, "string"),
        "type": (2, "string"),
        "bottom": (3, "*string"),
        "top": (4, "*string"),
        "blobs": (7, "*BlobProto"),
        "convolution_param": (106, "ConvolutionParameter"),
        "eltwise_param": (110, "EltwiseParameter"),
        "inner_product_param": (117, "InnerProductParameter"),
        "lrn_param": (118, "LRNParameter"),
        "pooling_param": (121, "PoolingParameter"),
        "python_param": (130, "PythonParameter"),
        "input_param": (143, "InputParameter"),
        "crop_param": (144, "CropParameter"),
    },
    "V1LayerParameter": {
        "bottom": (2, "*string"),
        "top": (3, "*string"),
        "name": (4, "string"),
        "type": (5, "int32"),
        "blobs": (6, "*BlobProto"),
        "convolution_param": (10, "ConvolutionParameter"),
        "eltwise_param": (24, "EltwiseParameter"),
        "layer": (1, "LayerParameter"),
    },
    "NetParameter": {"name": (1, "string"), "layers": (2, "*V1LayerParameter"), "layer": (100, "*LayerParameter")},
}


@cache
def schema() -> dict[str, Any]:
    """The message classes by name."""
    file = descriptor_pb2.FileDescriptorProto(name="test_caffe.proto", package="test_caffe", syntax="proto2")
    field = descriptor_pb2.FieldDescriptorProto
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for called, (number, kind) in fields.items():
            words = kind.removeprefix("*").split()
            label = field.LABEL_REPEATED if kind.startswith("*") else field.LABEL_OPTIONAL
            entry = message.field.add(name=called, number=number, label=label)
            if words[0] in SCHEMA:
                entry.type, entry.type_name = field.TYPE_MESSAGE, f".test_caffe.{words[0]}"
            else:
                entry.type = getattr(field, f"TYPE_{words[0].upper()}")
            entry.options.packed = "packed" in words
            if "packed" not in words:
                entry.ClearField("options")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"test_caffe.{name}")) for name in SCHEMA}


def message(kind: str, **fields: Any) -> Any:
    return schema()[kind](**fields)


def blob(values: np.ndarray[Any, Any], legacy: bool = False) -> Any:
    """A BlobProto; the old form has four dimensions, ones in front."""
    result = message("BlobProto")
    result.data.extend(np.asarray(values, np.float32).ravel().tolist())
    if legacy:
        result.num, result.channels, result.height, result.width = (1,) * (4 - values.ndim) + values.shape
    else:
        result.shape.dim.extend(values.shape)
    return result


class Net:
    """A network in the making: layers with the names and settings of the reference, weights drawn at random.

    Args:
        seed: of the weights.
        legacy: write shapes in the old form.
    """

    def __init__(self, seed: int = 0, legacy: bool = False) -> None:
        self.proto = message("NetParameter", name="test")
        self.rng = np.random.default_rng(seed)
        self.legacy = legacy
        self.channels: dict[str, int] = {}

    def layer(self, name: str, kind: str, bottoms: Sequence[str], blobs: Sequence[Any] = (), **params: Any) -> str:
        layer = self.proto.layer.add(name=name, type=kind, bottom=bottoms, top=[name])
        for values in blobs:
            layer.blobs.append(blob(values, self.legacy))
        for key, value in params.items():
            getattr(layer, key).CopyFrom(value)
        self.channels.setdefault(name, self.channels[bottoms[0]] if bottoms else 0)
        return name

    def input(self, name: str, channels: int, size: tuple[int, int]) -> str:
        self.channels[name] = channels
        shape = message("BlobShape", dim=[1, channels, *size])
        return self.layer(name, "Input", [], input_param=message("InputParameter", shape=[shape]))

    def conv(self, name: str, bottom: str, out: int, kernel: int, relu: bool = True, **options: int) -> str:
        into = self.channels[bottom] // options.get("group", 1)
        # a gain that keeps the activations alive down to the scores
        weight = self.rng.normal(0, (2.0 / (into * kernel * kernel)) ** 0.5, (out, into, kernel, kernel))
        bias = self.rng.normal(0, 0.1, out)
        self.channels[name] = out
        listed = {key: [value] if key in ("pad", "stride") else value for key, value in options.items()}
        settings = message("ConvolutionParameter", num_output=out, kernel_size=[kernel], **listed)
        self.layer(name, "Convolution", [bottom], [weight, bias], convolution_param=settings)
        # in place, as the reference has it
        if relu:
            self.proto.layer.add(name=f"relu_{name}", type="ReLU", bottom=[name], top=[name])
        return name

    def pool(self, name: str, bottom: str, kernel: int = 2, stride: int = 2) -> str:
        params = message("PoolingParameter", kernel_size=kernel, stride=stride)
        return self.layer(name, "Pooling", [bottom], pooling_param=params)

    def upscore(self, name: str, bottom: str, kernel: int, stride: int) -> str:
        classes = self.channels[bottom]
        factor = (kernel + 1) // 2
        middle = factor - 1 if kernel % 2 == 1 else factor - 0.5
        line = 1 - np.abs(np.arange(kernel) - middle) / factor
        weight = np.zeros((classes, classes, kernel, kernel))
        weight[range(classes), range(classes)] = np.outer(line, line)
        settings = message(
            "ConvolutionParameter", num_output=classes, kernel_size=[kernel], stride=[stride], bias_term=False
        )
        return self.layer(name, "Deconvolution", [bottom], [weight], convolution_param=settings)

    def crop(self, name: str, bottom: str, like: str, offset: int) -> str:
        return self.layer(name, "Crop", [bottom, like], crop_param=message("CropParameter", axis=2, offset=[offset]))

    def sum(self, name: str, bottoms: Sequence[str], coeff: Sequence[float] = ()) -> str:
        return self.layer(name, "Eltwise", bottoms, eltwise_param=message("EltwiseParameter", coeff=coeff))

    def vgg(self, bottom: str, widths: Sequence[int], fc: int, suffix: str = "", first: str = "conv1_1") -> str:
        """The backbone of VGG-16 down to fc7."""
        x = bottom
        for stage, (width, depth) in enumerate(zip(widths, (2, 2, 3, 3, 3), strict=True), 1):
            for index in range(1, depth + 1):
                name = first if stage == index == 1 else f"conv{stage}_{index}"
                x = self.conv(name + suffix, x, width, 3, pad=100 if stage == index == 1 else 1)
            x = self.pool(f"pool{stage}{suffix}", x)
        return self.conv("fc7" + suffix, self.conv("fc6" + suffix, x, fc, 7), fc, 1)

    def head(self, fc7: str, classes: int, finest: int, data: str, suffix: str = "", atonce: bool = False) -> str:
        """FCN-32s, 16s or 8s on VGG, down to the cropped score."""
        x = self.conv("score_fr" + suffix, fc7, classes, 1, relu=False)
        if finest == 32:
            return self.crop("score" + suffix, self.upscore("upscore" + suffix, x, 64, 32), data, 19)
        x = self.upscore("upscore2" + suffix, x, 4, 2)
        x = self.skip("pool4", x, classes, suffix, 5, 0.01 if atonce else None)
        if finest == 16:
            return self.crop("score" + suffix, self.upscore("upscore16" + suffix, x, 32, 16), data, 27)
        x = self.upscore("upscore_pool4" + suffix, x, 4, 2)
        x = self.skip("pool3", x, classes, suffix, 9, 0.0001 if atonce else None)
        return self.crop("score" + suffix, self.upscore("upscore8" + suffix, x, 16, 8), data, 31)

    def skip(self, pool: str, up: str, classes: int, suffix: str, offset: int, scale: float | None) -> str:
        source = pool
        if scale is not None:
            source = self.layer(f"scale_{pool}", "Scale", [pool], [np.full(self.channels[pool], scale)])
        score = self.conv(f"score_{pool}{suffix}", source, classes, 1, relu=False)
        if scale is not None:  # weights that make up for the factor, as training does
            weight = self.proto.layer[-1].blobs[0]
            values = np.array(weight.data) / scale
            del weight.data[:]
            weight.data.extend(values)
        return self.sum(f"fuse_{pool}{suffix}", [up, self.crop(f"score_{pool}{suffix}c", score, up, offset)])

    def prototxt(self) -> str:
        """The definition without weights."""
        plain = schema()["NetParameter"]()
        plain.CopyFrom(self.proto)
        for layer in plain.layer:
            layer.ClearField("blobs")
        return str(text_format.MessageToString(plain))

    def save(self, path: Path) -> Path:
        path.write_bytes(self.proto.SerializeToString())
        return path

    def named(self, name: str) -> Any:
        (layer,) = [layer for layer in self.proto.layer if layer.name == name]
        return layer

    def infer(self, folder: Path, inputs: dict[str, np.ndarray[Any, Any]], outputs: Sequence[str]) -> list[Any]:
        """Run the network in OpenCV: an implementation of Caffe's layers that has nothing of ours."""
        import cv2

        text = folder / "net.prototxt"
        text.write_text(self.prototxt())
        network = cv2.dnn.readNetFromCaffe(str(text), str(self.save(folder / "net.caffemodel")))
        network.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
        for name, values in inputs.items():
            network.setInput(np.ascontiguousarray(values, np.float32), name)
        return [np.array(value) for value in network.forward(list(outputs))]


# ---- thin networks of ours, for the registry --------------------------------------------------------------------

WIDTHS, FC = (4, 5, 6, 7, 8), 16


def thin_vgg16(*, in_channels: int = 3, padding: str = "same") -> VGG:
    """Our VGG-16 with few channels: its wiring at a hundredth of the cost."""
    depths = (2, 2, 3, 3, 3)
    layout: list[Any] = []
    for width, depth in zip(WIDTHS, depths, strict=True):
        layout += [width] * depth + ["M"]
    with torch.device("meta"):  # its fully connected layers are put aside
        classifier = torchvision.models.VGG(nn.Sequential(), num_classes=1, init_weights=False)
    classifier.features = torchvision.models.vgg.make_layers(layout)
    classifier.classifier[0] = nn.Linear(WIDTHS[-1] * 7 * 7, FC)
    classifier.classifier[3] = nn.Linear(FC, FC)
    backbone = VGG("vgg16", classifier, in_channels=in_channels, padding=padding)  # type: ignore[arg-type]
    backbone.channels = {4: WIDTHS[1], 8: WIDTHS[2], 16: WIDTHS[3], 32: FC}
    return backbone


CAFFENET = (8, 12, 10, 14, 6)


def thin_caffenet(*, in_channels: int = 3, padding: str = "same") -> CaffeNet:
    """Our CaffeNet with few channels."""
    a, b, c, d, e = CAFFENET
    with torch.device("meta"):
        classifier = caffenet_classifier(num_classes=1)
    classifier.conv1 = nn.Conv2d(3, a, 11, stride=4)
    classifier.conv2 = nn.Conv2d(a, b, 5, padding=2, groups=2)
    classifier.conv3 = nn.Conv2d(b, c, 3, padding=1)
    classifier.conv4 = nn.Conv2d(c, d, 3, padding=1, groups=2)
    classifier.conv5 = nn.Conv2d(d, e, 3, padding=1, groups=2)
    classifier.fc6, classifier.fc7 = nn.Linear(e * 36, FC), nn.Linear(FC, FC)
    backbone = CaffeNet("caffenet", classifier, in_channels=in_channels, padding=padding)  # type: ignore[arg-type]
    backbone.channels = {8: a, 16: b, 32: FC}
    return backbone


def caffenet(net: Net, bottom: str, widths: Sequence[int], fc: int) -> str:
    """The backbone of the reference FCN-AlexNet down to fc7."""
    lrn: Callable[[], Any] = lambda: message("LRNParameter", local_size=5, alpha=1e-4, beta=0.75)  # noqa: E731
    a, b, c, d, e = widths
    x = net.pool("pool1", net.conv("conv1", bottom, a, 11, stride=4, pad=100), 3)
    x = net.layer("norm1", "LRN", [x], lrn_param=lrn())
    x = net.pool("pool2", net.conv("conv2", x, b, 5, pad=2, group=2), 3)
    x = net.layer("norm2", "LRN", [x], lrn_param=lrn())
    x = net.conv("conv4", net.conv("conv3", x, c, 3, pad=1), d, 3, pad=1, group=2)
    x = net.pool("pool5", net.conv("conv5", x, e, 3, pad=1, group=2), 3)
    return net.conv("fc7", net.conv("fc6", x, fc, 6), fc, 1)


def as_tensor(values: Any) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
