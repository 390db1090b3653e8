"""Read Caffe's weight files: the layers of a ``.caffemodel``, with their blobs as arrays over the file.

A ``.caffemodel`` is one protocol buffer message, a ``NetParameter``. Few of its fields matter here, so that its wire
format is read directly, without Caffe and without a protocol buffer library. Both generations of the format are read:
layers of type ``LayerParameter`` (field 100, since 2014) and ``V1LayerParameter`` (field 2, the classifiers of VGG and
BVLC).

The file comes from anywhere. Every length is checked against what is there before it is believed, the number of fields,
layers and blobs is bounded, and nothing is allocated but what the bytes of the file account for: blobs are views of the
mapped file, and only values that are not one run of 32-bit floats are copied.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fullyconv.errors import WeightsError
from fullyconv.weights.signatures import refuse_stray

MAX_BYTES = 2**31 - 1  # no protocol buffer message is longer
MAX_FIELDS = 200_000  # the released networks have some thousands
MAX_LAYERS = 4096
MAX_BLOBS = 64  # of one layer
MAX_AXES = 32  # Caffe's own bound
MAX_TEXT = 65536  # bytes of one name or of the parameters of a Python layer

Values = npt.NDArray[np.floating[Any]]

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5

# What V1LayerParameter numbers, by the names that LayerParameter uses (caffe.proto).
_V1_TYPES = {
    3: "Concat",
    4: "Convolution",
    5: "Data",
    6: "Dropout",
    14: "InnerProduct",
    15: "LRN",
    17: "Pooling",
    18: "ReLU",
    20: "Softmax",
    21: "SoftmaxWithLoss",
    22: "Split",
    25: "Eltwise",
    39: "Deconvolution",
}


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
        type: "Convolution", "Deconvolution", "InnerProduct", ...; "V1 type 99" for a number that has no name here.
        bottoms: names of the inputs.
        tops: names of the outputs.
        blobs: the weights, 32-bit floats; weight and bias of a convolution. They are read-only, and maybe not aligned.
        convolution: settings of a convolution, where the file states them.
        offset: offsets of a Crop layer in cells, where the file states them.
        coefficients: factors of an Eltwise layer, where the file states them.
        text: parameters of a Python layer, such as a data layer of the reference networks.
    """

    name: str
    type: str
    bottoms: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()
    blobs: tuple[Values, ...] = ()
    convolution: Convolution | None = None
    offset: tuple[int, ...] = ()
    coefficients: tuple[float, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class CaffeNet:
    """The layers of a file, in its order.

    Args:
        name: name of the network.
        layers: the layers.
    """

    name: str
    layers: tuple[CaffeLayer, ...] = field(default=())


def read_caffemodel(path: str | Path) -> CaffeNet:
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
            if size == 0:
                raise WeightsError(f"{file}: is empty; fetch the .caffemodel again")
            if size > MAX_BYTES:
                raise WeightsError(f"{file}: {size} bytes; a .caffemodel has at most {MAX_BYTES}")
            # the map outlives its file object, and is closed with the last array over it
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read ({error}); check it, or fetch it again") from error
    return _Reader(file, memoryview(mapped)).net()


@dataclass
class _Span:
    """A stretch of the file, from start up to but without stop."""

    start: int
    stop: int


class _Reader:
    """Reads one file. Every message is walked once, front to back; depth is that of the format, four messages."""

    def __init__(self, path: Path, data: memoryview) -> None:
        self.path = path
        self.data = data
        self.bytes = np.frombuffer(data, dtype=np.uint8)
        self.fields = 0

    def net(self) -> CaffeNet:
        name = ""
        layers: list[CaffeLayer] = []
        for number, wire, value in self._message(_Span(0, len(self.data))):
            if number == 1:
                name = self._text(self._span(number, wire, value))
            elif number in (2, 100):
                if len(layers) == MAX_LAYERS:
                    raise self._fault(f"more than {MAX_LAYERS} layers")
                span = self._span(number, wire, value)
                layers.append(self._layer(span) if number == 100 else self._v1_layer(span))
        if not layers:
            raise self._fault("holds no layers")
        return CaffeNet(name, tuple(layers))

    def _layer(self, span: _Span) -> CaffeLayer:
        """LayerParameter."""
        return self._any_layer(
            span, name=1, kind=2, bottom=3, top=4, blobs=7, convolution=106, eltwise=110, crop=144, python=130
        )

    def _v1_layer(self, span: _Span) -> CaffeLayer:
        # its field 1 holds a layer of the generation before, which nothing here was released in
        return self._any_layer(span, name=4, kind=5, bottom=2, top=3, blobs=6, convolution=10, eltwise=24, v0=1)

    def _any_layer(
        self,
        span: _Span,
        *,
        name: int,
        kind: int,
        bottom: int,
        top: int,
        blobs: int,
        convolution: int,
        eltwise: int,
        crop: int | None = None,
        python: int | None = None,
        v0: int | None = None,
    ) -> CaffeLayer:
        called, type_ = "", ""
        bottoms: list[str] = []
        tops: list[str] = []
        values: list[Values] = []
        settings: Convolution | None = None
        offset: tuple[int, ...] = ()
        coefficients: tuple[float, ...] = ()
        text = ""
        for number, wire, value in self._message(span):
            if number == name:
                called = self._text(self._span(number, wire, value))
            elif number == kind and wire == _VARINT:
                type_ = _V1_TYPES.get(self._number(number, wire, value), f"V1 type {value}")
            elif number == kind:
                type_ = self._text(self._span(number, wire, value))
            elif number == bottom:
                bottoms.append(self._text(self._span(number, wire, value)))
            elif number == top:
                tops.append(self._text(self._span(number, wire, value)))
            elif number == blobs:
                if len(values) == MAX_BLOBS:
                    raise self._fault(f"more than {MAX_BLOBS} blobs in one layer")
                values.append(self._blob(self._span(number, wire, value)))
            elif number == convolution:
                settings = self._convolution(self._span(number, wire, value))
            elif number == eltwise:
                coefficients = self._eltwise(self._span(number, wire, value))
            elif number == crop:
                offset = self._crop(self._span(number, wire, value))
            elif number == python:
                text = self._python(self._span(number, wire, value))
            elif number == v0:
                raise self._fault(
                    "its layers are of the first generation of the format, which is not read",
                    "upgrade the file with Caffe's upgrade_net_proto_binary",
                )
        return CaffeLayer(
            called, type_, tuple(bottoms), tuple(tops), tuple(values), settings, offset, coefficients, text
        )

    def _blob(self, span: _Span) -> Values:
        """BlobProto: values, and their shape in the old form (four fields) or the new (a message)."""
        legacy: dict[int, int] = {}
        shape: list[int] = []
        singles: list[Values] = []
        doubles: list[Values] = []
        for number, wire, value in self._message(span, runs=(5, 8)):
            if number in (1, 2, 3, 4):
                legacy[number] = self._number(number, wire, value)
            elif number == 5:
                singles.append(self._floats(number, wire, value, "<f4", 4, _FOUR_BYTES))
            elif number == 8:
                doubles.append(self._floats(number, wire, value, "<f8", 8, _EIGHT_BYTES))
            elif number == 7:
                shape += self._integers_of(self._span(number, wire, value), 1)
        if doubles:  # Caffe prefers them, too
            with np.errstate(over="ignore"):
                values = np.concatenate(doubles).astype(np.float32)
        elif len(singles) == 1:
            values = singles[0]
        else:
            values = np.concatenate(singles) if singles else np.empty(0, np.float32)
        dims = [legacy.get(number, 0) for number in (1, 2, 3, 4)] if legacy else shape
        if len(dims) > MAX_AXES:
            raise self._fault(f"a blob of {len(dims)} axes; Caffe has at most {MAX_AXES}")
        if any(not 1 <= dim <= MAX_BYTES for dim in dims) or math.prod(dims) != len(values):
            raise self._fault(f"a blob of shape {tuple(dims)} holds {len(values)} values")
        return values.reshape(dims)

    def _floats(self, number: int, wire: int, value: int | _Span, dtype: str, size: int, single: int) -> Values:
        """Values of a repeated field: packed, a run of them one by one (see `_message`), or any mixture of these."""
        if wire == single:
            assert isinstance(value, _Span)
            rows = self.bytes[value.start : value.stop].reshape(-1, size + 1)
            unpacked: Values = np.ascontiguousarray(rows[:, 1:]).view(dtype)[:, 0]
            return unpacked
        span = self._span(number, wire, value)
        if (span.stop - span.start) % size:
            raise self._fault(
                f"{span.stop - span.start} bytes at {span.start} are no whole number of {size}-byte values"
            )
        if span.start == span.stop:
            return np.empty(0, dtype)
        packed: Values = np.frombuffer(self.data, dtype, (span.stop - span.start) // size, span.start)
        return packed

    def _integers_of(self, span: _Span, wanted: int) -> list[int]:
        """All values of one repeated integer field of a message, packed or not."""
        result: list[int] = []
        for number, wire, value in self._message(span):
            if number == wanted:
                result += self._integers(number, wire, value)
        return result

    def _integers(self, number: int, wire: int, value: int | _Span) -> list[int]:
        if wire == _VARINT:
            return [self._number(number, wire, value)]
        span, result = self._span(number, wire, value), []
        position = span.start
        while position < span.stop:
            integer, position = self._varint(position, span.stop)
            result.append(integer)
            if len(result) > MAX_AXES:
                raise self._fault(f"more than {MAX_AXES} numbers where one for each axis belongs")
        return result

    def _convolution(self, span: _Span) -> Convolution:
        """ConvolutionParameter: sizes for both axes at once, one for each axis, or two fields."""
        lists: dict[int, list[int]] = {}
        for number, wire, value in self._message(span):
            if number in (3, 4, 5, 6, 9, 10, 11, 12, 13, 14, 18):
                known = lists.setdefault(number, [])
                known += self._integers(number, wire, value)
                if len(known) > MAX_AXES:
                    raise self._fault(f"more than {MAX_AXES} numbers where one for each axis belongs")

        def pair(both: int, vertical: int, horizontal: int, default: int) -> tuple[int, int]:
            if vertical in lists or horizontal in lists:
                return lists.get(vertical, [default])[-1], lists.get(horizontal, [default])[-1]
            numbers = lists.get(both) or [default]
            return numbers[0], numbers[-1]

        return Convolution(
            kernel=pair(4, 11, 12, 0),
            stride=pair(6, 13, 14, 1),
            pad=pair(3, 9, 10, 0),
            group=(lists.get(5) or [1])[-1],
            dilation=pair(18, -1, -1, 1),
        )

    def _crop(self, span: _Span) -> tuple[int, ...]:
        return tuple(self._integers_of(span, 2))

    def _eltwise(self, span: _Span) -> tuple[float, ...]:
        """EltwiseParameter: one factor for each input."""
        found = [
            self._floats(n, wire, value, "<f4", 4, _FOUR_BYTES)
            for n, wire, value in self._message(span, runs=(2,))
            if n == 2
        ]
        if sum(map(len, found)) > MAX_AXES:
            raise self._fault(f"more than {MAX_AXES} factors of one sum")
        return tuple(float(factor) for part in found for factor in part)

    def _python(self, span: _Span) -> str:
        """PythonParameter: layer and param_str."""
        parts = [self._text(self._span(n, wire, value)) for n, wire, value in self._message(span) if n in (2, 3)]
        return " ".join(parts)

    # ---- the wire format ---------------------------------------------------------------------------------------------

    def _message(self, span: _Span, runs: tuple[int, ...] = ()) -> Iterator[tuple[int, int, int | _Span]]:
        """Walk the fields of a message: number, wire type, and the value or where it is.

        A repeated field of fixed size that is not packed repeats its tag in front of every value. For the fields in
        `runs` (numbers below 16, whose tag is one byte) all values in a row are given as one, tags included: a file may
        hold millions of them.
        """
        position = span.start
        while position < span.stop:
            self.fields += 1
            if self.fields > MAX_FIELDS:
                raise self._fault(f"more than {MAX_FIELDS} fields")
            start = position
            tag, position = self._varint(position, span.stop)
            number, wire = tag >> 3, tag & 7
            if not 1 <= number < 2**29:
                raise self._fault(f"field {number} at byte {start}, which does not exist")
            if wire == _VARINT:
                value, position = self._varint(position, span.stop)
                yield number, wire, value
            elif wire == _LENGTH:
                length, position = self._varint(position, span.stop)
                if length > span.stop - position:
                    raise self._fault(
                        f"field {number} at byte {start} says {length} bytes, {span.stop - position} are left"
                    )
                yield number, wire, _Span(position, position + length)
                position += length
            elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
                size = 8 if wire == _EIGHT_BYTES else 4
                if size > span.stop - position:
                    raise self._fault(
                        f"field {number} at byte {start} has {size} bytes, {span.stop - position} are left"
                    )
                if number in runs:
                    # a tag may be written in more bytes than it needs; then its last one stands in for it
                    first = position - 1
                    count = self._repeats(start, span.stop, size + 1) if first == start else 1
                    position = first + count * (size + 1)
                    yield number, wire, _Span(first, position)
                else:
                    yield number, wire, _Span(position, position + size)
                    position += size
            else:
                raise self._fault(
                    f"field {number} at byte {start} has the wire type {wire}, which Caffe does not write"
                )

    def _repeats(self, start: int, stop: int, size: int) -> int:
        """Count how often in a row a value of `size` bytes, its one-byte tag included, begins with the tag at start."""
        most, count, step = (stop - start) // size, 0, 64
        while count < most:
            # in steps that grow, so that what lies behind a short run is not looked at again and again
            end = min(most, count + step)
            tags = self.bytes[start + count * size : start + end * size : size]
            different = np.flatnonzero(tags != self.bytes[start])
            if len(different):
                return count + int(different[0])
            count, step = end, 2 * step
        return most

    def _varint(self, position: int, stop: int) -> tuple[int, int]:
        result = 0
        for index in range(10):
            if position + index >= stop:
                raise self._fault(f"breaks off at byte {stop}, in the middle of a number")
            byte = self.data[position + index]
            result |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return result, position + index + 1
        raise self._fault(f"a number at byte {position} is longer than ten bytes")

    def _number(self, number: int, wire: int, value: int | _Span) -> int:
        if wire != _VARINT or not isinstance(value, int):
            raise self._fault(f"field {number} has the wire type {wire}, a number has {_VARINT}")
        return value

    def _span(self, number: int, wire: int, value: int | _Span) -> _Span:
        if wire != _LENGTH or not isinstance(value, _Span):
            raise self._fault(f"field {number} has the wire type {wire}, a message or text has {_LENGTH}")
        return value

    def _text(self, span: _Span) -> str:
        if span.stop - span.start > MAX_TEXT:
            raise self._fault(f"a text of {span.stop - span.start} bytes at {span.start}; at most {MAX_TEXT} are read")
        return bytes(self.data[span.start : span.stop]).decode("utf-8", errors="replace")

    def _fault(self, rule: str, remedy: str = "fetch it again, or pass another file") -> WeightsError:
        return WeightsError(f"{self.path}: is no .caffemodel that can be read: {rule}; {remedy}")
