"""Read Caffe's weight files: the layers of a ``.caffemodel``, with their blobs as arrays over the file.

A ``.caffemodel`` is one protocol buffer message, a ``NetParameter``. Few of its fields matter here, so that it is read
without Caffe and without a protocol buffer library. Both generations of the format are read: layers of type
``LayerParameter`` (field 100, since 2014) and ``V1LayerParameter`` (field 2, the classifiers of VGG and BVLC).

The file comes from anywhere. Every length is checked against what is there before it is believed, the number of fields,
layers and blobs is bounded, and nothing is allocated but what the bytes of the file account for: blobs are views of the
mapped file, and only values that are not one run of 32-bit floats are copied.
"""

from __future__ import annotations

import math
import mmap
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fullyconv.errors import WeightsError
from fullyconv.weights import wire
from fullyconv.weights.signatures import refuse_stray

MAX_BYTES = 2**31 - 1  # no protocol buffer message is longer
MAX_FIELDS = 200_000  # the released networks have some thousands
MAX_LAYERS = 4096
MAX_BLOBS = 64  # of one layer
MAX_AXES = 32  # Caffe's own bound
MAX_TEXT = 65536  # bytes of one name

Values = npt.NDArray[np.floating[Any]]


class _Numbers(NamedTuple):
    """The numbers of the fields of a layer; 0 where a generation does not have one."""

    name: int
    bottom: int
    blobs: int
    convolution: int
    crop: int = 0


_LAYER = _Numbers(1, 3, 7, 106, 144)
_V1_LAYER = _Numbers(4, 2, 6, 10)


@dataclass(frozen=True)
class Convolution:
    """What a file says of a convolution besides its weights; pairs are (vertical, horizontal), in cells.

    Args:
        kernel: kernel size; (0, 0) where it is not stated.
        stride: stride.
        pad: padding.
        group: number of groups.
        dilation: dilation.
    """

    kernel: tuple[int, int] = (0, 0)
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    group: int = 1
    dilation: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class CaffeLayer:
    """One layer of a file.

    Args:
        name: name of the layer.
        bottoms: names of the inputs.
        blobs: the weights, 32-bit floats; weight and bias of a convolution. They are read-only, and maybe not aligned.
        convolution: settings of a convolution, where the file states them.
        offset: offsets of a Crop layer in cells, where the file states them.
    """

    name: str
    bottoms: tuple[str, ...] = ()
    blobs: tuple[Values, ...] = ()
    convolution: Convolution | None = None
    offset: tuple[int, ...] = ()


def read_caffemodel(path: str | Path) -> tuple[CaffeLayer, ...]:
    """Read a ``.caffemodel``.

    Args:
        path: the file. It is mapped into memory, and the blobs are views of it: it must stay as it is while they are
            used.

    Returns:
        Its layers.

    Raises:
        FileNotFoundError: if there is no such file.
        WeightsError: if it is not a ``.caffemodel``, damaged, or larger than one may be; the message names the file.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: not found; pass the path of a .caffemodel")
    try:
        refuse_stray(file, ".caffemodel")
        with file.open("rb") as stream:
            size = stream.seek(0, 2)
            if not 0 < size <= MAX_BYTES:
                raise WeightsError(f"{file}: {size} bytes; a .caffemodel has 1 to {MAX_BYTES}; fetch it again")
            # the map outlives its file object, and is closed with the last array over it
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read ({error}); check it, or fetch it again") from error
    try:
        return _Reader().layers(memoryview(mapped))
    except ValueError as error:
        raise WeightsError(
            f"{file}: is no .caffemodel that can be read: {error}; fetch it again, or pass another file"
        ) from error


def plain_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Drop the axes of one that Caffe before 2014 put in front of vectors and matrices: every blob had four axes.

    Example:
        >>> plain_shape((1, 1, 1, 64)), plain_shape((1, 1, 10, 64)), plain_shape((10, 64, 1, 1))
        ((64,), (10, 64), (10, 64, 1, 1))
    """
    if len(shape) == 4 and tuple(shape[:2]) == (1, 1):
        shape = shape[3:] if shape[2] == 1 else shape[2:]
    return tuple(shape)


class _Reader:
    """Reads the messages of one file; depth is that of the format, four messages."""

    def __init__(self) -> None:
        self.fields = 0

    def layers(self, data: memoryview) -> tuple[CaffeLayer, ...]:
        net = self._message(data)
        old, new = _parts(net[2]), _parts(net[100])
        if not 1 <= len(old) + len(new) <= MAX_LAYERS:
            raise ValueError(f"{len(old) + len(new)} layers, not 1 to {MAX_LAYERS}")
        return (*(self._layer(part, _V1_LAYER) for part in old), *(self._layer(part, _LAYER) for part in new))

    def _message(self, data: memoryview) -> dict[int, list[wire.Value]]:
        """Collect the values of each field by its number."""
        found = defaultdict(list)
        for number, value in wire.fields(data):
            self.fields += 1
            if self.fields > MAX_FIELDS:
                raise ValueError(f"more than {MAX_FIELDS} fields")
            found[number].append(value)
        return found

    def _layer(self, data: memoryview, numbers: _Numbers) -> CaffeLayer:
        fields = self._message(data)
        if numbers is _V1_LAYER and fields[1]:
            raise ValueError("its layers are of the first generation; Caffe's upgrade_net_proto_binary mends that")
        blobs = _parts(fields[numbers.blobs])
        if len(blobs) > MAX_BLOBS:
            raise ValueError(f"more than {MAX_BLOBS} blobs in one layer")
        convolutions = [self._convolution(part) for part in _parts(fields[numbers.convolution])]
        crops = [self._message(part) for part in _parts(fields[numbers.crop])]
        return CaffeLayer(
            "".join(_texts(fields[numbers.name])[-1:]),
            tuple(_texts(fields[numbers.bottom])),
            tuple(self._blob(part) for part in blobs),
            convolutions[-1] if convolutions else None,
            tuple(offset for crop in crops for offset in _integers(crop[2])),
        )

    def _blob(self, data: memoryview) -> Values:
        """BlobProto: values, and their shape in the old form (four fields) or the new (a message)."""
        fields = self._message(data)
        with np.errstate(over="ignore"):  # Caffe prefers doubles, too
            values = _floats(fields[8], "<f8").astype(np.float32) if fields[8] else _floats(fields[5], "<f4")
        legacy = [_integers(fields[number]) for number in (1, 2, 3, 4)]
        if any(legacy):
            shape = [(sizes or [0])[-1] for sizes in legacy]
        else:
            shape = [size for part in _parts(fields[7]) for size in _integers(self._message(part)[1])]
        bounded = len(shape) <= MAX_AXES and all(1 <= size <= MAX_BYTES for size in shape)
        if not bounded or math.prod(shape) != len(values):
            raise ValueError(f"a blob of shape {tuple(shape)[:MAX_AXES]} holds {len(values)} values")
        return values.reshape(shape)

    def _convolution(self, data: memoryview) -> Convolution:
        """ConvolutionParameter: sizes for both axes at once, one for each axis, or two fields."""
        fields = self._message(data)

        def pair(both: int, default: int, *axes: int) -> tuple[int, int]:
            apart = [_integers(fields[axis]) for axis in axes]
            if any(apart):
                vertical, horizontal = ((numbers or [default])[-1] for numbers in apart)
                return vertical, horizontal
            numbers = _integers(fields[both]) or [default]
            return numbers[0], numbers[-1]

        return Convolution(pair(4, 0, 11, 12), pair(6, 1, 13, 14), pair(3, 0, 9, 10), pair(5, 1)[1], pair(18, 1))


def _parts(values: Sequence[wire.Value]) -> list[memoryview]:
    parts = [value for value in values if isinstance(value, memoryview)]
    if len(parts) < len(values):
        raise ValueError("a number where a text, a message or values belong")
    return parts


def _texts(values: Sequence[wire.Value]) -> list[str]:
    parts = _parts(values)
    if any(len(part) > MAX_TEXT for part in parts):
        raise ValueError(f"a text of more than {MAX_TEXT} bytes")
    return [bytes(part).decode("utf-8", errors="replace") for part in parts]


def _integers(values: Sequence[wire.Value]) -> list[int]:
    """Give the numbers of a repeated field, packed or not."""
    numbers: list[int] = []
    for value in values:
        if isinstance(value, int):
            numbers.append(value)
            continue
        place = 0
        while place < len(value) and len(numbers) <= MAX_AXES:
            number, place = wire.varint(value, place)
            numbers.append(number)
    if len(numbers) > MAX_AXES:
        raise ValueError(f"more than {MAX_AXES} numbers where one for each axis belongs")
    return numbers


def _floats(values: Sequence[wire.Value], dtype: str) -> Values:
    """Give the values of a repeated field: packed, one by one, or any mixture of these."""
    parts: list[Values] = [np.frombuffer(part, dtype) for part in _parts(values) if len(part)]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, dtype)
