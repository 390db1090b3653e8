"""The reader of .caffemodel files, against files that the protobuf library wrote, and against damaged files."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_nets import FC, WIDTHS, Net, blob, message
from fullyconv.errors import WeightsError
from fullyconv.weights import caffemodel
from fullyconv.weights.caffemodel import Convolution, read_caffemodel

VALUES = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2) / 8 - 1


def write(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return path


def one_layer(**fields: Any) -> Any:
    net = message("NetParameter", name="net")
    net.layer.add(name="conv", type="Convolution", **fields)
    return net


def test_layers_are_read_as_they_were_written(tmp_path: Path) -> None:
    net = Net()
    data = net.input("data", 3, (40, 50))
    net.head(net.vgg(data, WIDTHS, FC), 5, 8, data, atonce=True)
    read = read_caffemodel(write(tmp_path, net.proto))
    assert len(read) == len(net.proto.layer)
    for ours, theirs in zip(read, net.proto.layer, strict=True):
        assert ours.name == theirs.name
        assert ours.bottoms == tuple(theirs.bottom)
        assert ours.offset == tuple(theirs.crop_param.offset)
        assert (ours.convolution is not None) == theirs.HasField("convolution_param")
        assert len(ours.blobs) == len(theirs.blobs)
        for values, written in zip(ours.blobs, theirs.blobs, strict=True):
            assert values.dtype == np.float32
            assert values.shape == tuple(written.shape.dim)
            assert np.array_equal(values.ravel(), np.array(written.data, np.float32))
    conv1_1 = next(layer for layer in read if layer.name == "conv1_1")
    assert conv1_1.convolution == Convolution((3, 3), (1, 1), (100, 100), 1, (1, 1))


def test_layers_of_the_generation_before_are_read(tmp_path: Path) -> None:
    net = message("NetParameter", name="old")
    net.layers.add(name="conv", type=4, bottom=["data"], top=["conv"], blobs=[blob(VALUES, legacy=True)])
    net.layers[0].convolution_param.pad.append(2)
    net.layers.add(name="fc", type=14, blobs=[blob(VALUES.reshape(4, 6), legacy=True)])
    net.layers.add(name="strange", type=99)
    conv, matrix, strange = read_caffemodel(write(tmp_path, net))
    assert (conv.name, conv.bottoms) == ("conv", ("data",))
    assert conv.convolution is not None
    assert conv.convolution.pad == (2, 2)
    assert np.array_equal(conv.blobs[0], VALUES)
    assert (matrix.name, matrix.blobs[0].shape) == ("fc", (1, 1, 4, 6))
    assert (strange.name, strange.blobs) == ("strange", ())


def test_values_may_be_packed_single_in_pieces_or_double(tmp_path: Path) -> None:
    loose = message("LooseNet")
    layer = loose.layer.add(name="conv", type="Convolution")
    layer.blobs.add(data=VALUES.ravel().tolist(), shape=message("LooseShape", dim=VALUES.shape))
    layer.blobs.add(double_data=VALUES.ravel().tolist(), shape=message("LooseShape", dim=[24]))
    packed = message("BlobProto", double_data=VALUES.ravel().tolist())
    packed.shape.dim.extend([24])
    # values in two pieces, one packed and one not: the concatenation of encodings is the concatenation of lists
    shape = message("BlobProto")
    shape.shape.dim.extend(VALUES.shape)
    pieces = (
        message("BlobProto", data=VALUES.ravel()[:10].tolist()).SerializeToString()
        + message("LooseBlob", data=VALUES.ravel()[10:].tolist()).SerializeToString()
        + shape.SerializeToString()
    )
    layer.blobs.append(message("LooseBlob"))
    layer.blobs[2].ParseFromString(pieces)
    raw = loose.SerializeToString()
    net = one_layer(blobs=[packed])
    net.layer[0].blobs.add().ParseFromString(pieces)
    # what the library has read it writes in its own order; the bytes as they are come in by hand
    by_hand = b"\x3a" + bytes([len(pieces)]) + pieces
    by_hand = b"\xa2\x06" + varint(len(by_hand)) + by_hand
    first, second, third = read_caffemodel(write(tmp_path, raw + net.SerializeToString() + by_hand))
    for values in (*first.blobs, *second.blobs, *third.blobs):
        assert values.dtype == np.float32
        assert np.array_equal(values.ravel(), VALUES.ravel())
    assert first.blobs[0].shape == VALUES.shape == third.blobs[0].shape
    assert first.blobs[1].shape == (24,) == second.blobs[0].shape


def test_settings_of_a_convolution_may_be_one_number_two_or_two_fields(tmp_path: Path) -> None:
    net = message("NetParameter")
    for fields in (
        {"kernel_size": [3, 5], "pad": [1, 2], "stride": [2], "dilation": [2, 3], "group": 4},
        {"kernel_h": 3, "kernel_w": 5, "pad_h": 1, "pad_w": 2, "stride_h": 2, "stride_w": 2, "dilation": [2, 3]},
        {},
    ):
        net.layer.add(name="conv", convolution_param=message("ConvolutionParameter", **fields))
    first, second, nothing = (layer.convolution for layer in read_caffemodel(write(tmp_path, net)))
    assert first == Convolution((3, 5), (2, 2), (1, 2), 4, (2, 3))
    assert second == Convolution((3, 5), (2, 2), (1, 2), 1, (2, 3))
    assert nothing == Convolution()


def test_scalar_blob_has_a_shape_without_axes(tmp_path: Path) -> None:
    scalar = message("BlobProto", data=[0.5])
    (layer,) = read_caffemodel(write(tmp_path, one_layer(blobs=[scalar])))
    assert layer.blobs[0].shape == ()
    assert layer.blobs[0] == 0.5


def test_blobs_are_views_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, one_layer(blobs=[blob(np.ones((4, 250_000)))]))
    tracemalloc.start()
    try:
        (layer,) = read_caffemodel(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000
    assert not layer.blobs[0].flags.owndata
    assert layer.blobs[0].sum() == 1_000_000


# ---- hostile and damaged files ---------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def nested(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def layer_of(content: bytes) -> bytes:
    return nested(100, content)


BLOB = blob(VALUES).SerializeToString()
SINGLE = b"\x2d\x00\x00\x80\x3f"


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", r"0 bytes; a \.caffemodel has 1 to"),
        (b"\x0a\x03abc", r"0 layers, not 1 to 4096"),
        (b"PK\x03\x04 a zip file, say", r"a field of the number 0"),
        (b"\xff" * 12, r"cut off, or damaged"),
        (b"\x80", r"cut off, or damaged"),
        (b"\x00\x00", r"a field of the number 0, which does not exist"),
        (b"\xa3\x06", r"a field of the wire type 3, which nobody writes"),
        (b"\xa4\x06", r"a field of the wire type 4, which nobody writes"),
        (b"\xa7\x06", r"a field of the wire type 7, which nobody writes"),
        (b"\xa2\x06\x7fabc", r"cut off, or damaged"),
        (b"\xa2\x06" + b"\xff" * 9 + b"\x01" + b"abc", r"cut off, or damaged"),
        (b"\xa0\x06\x01", r"a number where a text, a message or values belong"),
        (b"\xa5\x06\x01\x02", r"cut off, or damaged"),
        (b"\xa1\x06\x01\x02", r"cut off, or damaged"),
        (layer_of(nested(7, BLOB[:-3])), r"cut off, or damaged"),
        (layer_of(nested(7, nested(5, b"\0" * 7))), r"buffer size must be a multiple"),
        (layer_of(nested(7, nested(8, b"\0" * 12))), r"buffer size must be a multiple"),
        (layer_of(nested(7, nested(5, b"\0" * 8))), r"a blob of shape \(\) holds 2 values"),
        (layer_of(nested(7, SINGLE + b"\x08\x02")), r"a blob of shape \(2, 0, 0, 0\) holds 1 values"),
        (layer_of(nested(7, SINGLE + nested(7, nested(1, b"\0")))), r"a blob of shape \(0,\) holds 1 values"),
        (layer_of(nested(7, SINGLE + nested(7, b"\x08" + b"\xff" * 9 + b"\x01"))), r"shape \(1844\d+,\) holds"),
        (layer_of(nested(7, SINGLE + nested(7, nested(1, b"\x01" * 33)))), r"more than 32 numbers where one"),
        (layer_of(nested(7, SINGLE + nested(7, nested(1, b"\x01" * 20)) * 2)), r"a blob of shape .* holds 1 values"),
        (layer_of(nested(7, b"\x29" + b"\0" * 8)), r"a blob of shape \(\) holds 2 values"),
        (layer_of(nested(7, SINGLE) * 65), r"more than 64 blobs in one layer"),
        (layer_of(b"") * 4097, r"4097 layers, not 1 to 4096"),
        (layer_of(nested(1, b"a" * 65537)), r"a text of more than 65536 bytes"),
        (layer_of(nested(106, b"\x18\x01" * 33)), r"more than 32 numbers where one for each axis"),
        (nested(2, nested(1, b"")), r"first generation; Caffe's upgrade_net_proto_binary mends that"),
        (layer_of(b"\x48\x00" * 200_001), r"more than 200000 fields"),
    ],
)  # fmt: skip
def test_damage_is_named_with_file_and_remedy(content: bytes, rule: str, tmp_path: Path) -> None:
    path = write(tmp_path, content)
    with pytest.raises(WeightsError, match=rf"net\.caffemodel: .*({rule})") as caught:
        read_caffemodel(path)
    assert re.search(r"; (fetch|pass|upgrade)", str(caught.value))


def test_file_larger_than_a_message_can_be_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    with path.open("wb") as file:
        file.truncate(2**31)  # sparse: it takes no room
    with pytest.raises(WeightsError, match=r"2147483648 bytes; a \.caffemodel has 1 to 2147483647"):
        read_caffemodel(path)
    with pytest.raises(FileNotFoundError, match="not found; pass the path"):
        read_caffemodel(tmp_path)


def test_shape_beyond_the_values_allocates_nothing(tmp_path: Path) -> None:
    huge = nested(7, nested(1, varint(2**31 - 1) * 4))
    path = write(tmp_path, layer_of(nested(7, SINGLE + huge)))
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=r"a blob of shape .* holds 1 values"):
            read_caffemodel(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip, cut, insert, repeat or exchange some bytes."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(len(data)))
        kind = rng.integers(6)
        if kind == 0:
            data[at] = int(rng.integers(256))
        elif kind == 1:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            del data[at : at + int(rng.integers(1, 9))]
        elif kind == 3:
            data[at:at] = rng.bytes(int(rng.integers(1, 9)))
        elif kind == 4:
            data[at : at + 10] = rng.choice([b"\xff" * 10, b"\x80" * 9 + b"\x01", b"\xff\xff\xff\x7f", b"\x00"])
        else:
            other = int(rng.integers(len(data)))
            data[at:at] = data[other : other + int(rng.integers(1, 200))]
        if not data:
            break
    return bytes(data[: int(rng.integers(len(data) + 1))]) if rng.integers(4) == 0 else bytes(data)


def seeds() -> Iterator[bytes]:
    net = Net()
    data = net.input("data", 3, (4, 5))
    net.channels["fc7"] = 2
    net.head(net.conv("fc7", data, 2, 3, pad=1), 2, 32, data, suffix="_sem")
    yield net.proto.SerializeToString()
    old = message("NetParameter", name="old")
    old.layers.add(name="conv", type=4, blobs=[blob(VALUES, legacy=True)] * 2)
    old.layers[0].convolution_param.pad.append(2)
    yield old.SerializeToString()
    loose = message("LooseNet")
    layer = loose.layer.add(name="conv")
    layer.blobs.add(data=VALUES.ravel().tolist(), shape=message("LooseShape", dim=VALUES.shape))
    layer.blobs.add(double_data=VALUES.ravel().tolist(), shape=message("LooseShape", dim=[24]))
    yield loose.SerializeToString()


@pytest.mark.parametrize("seed", range(3))
def test_damaged_file_is_read_or_refused_and_nothing_else(seed: int, tmp_path: Path) -> None:
    content = list(seeds())[seed]
    rng = np.random.default_rng(seed)
    path = tmp_path / "net.caffemodel"
    outcomes = {"read": 0, "refused": 0}
    for index in range(1500):
        # the short prefix keeps most damage in the structure, where it matters
        where = content if index % 2 else content[:2000]
        path.write_bytes(damaged(where, rng))
        try:
            net = read_caffemodel(path)
        except WeightsError:
            outcomes["refused"] += 1
        else:
            assert sum(values.nbytes for layer in net for values in layer.blobs) <= 2 * path.stat().st_size
            outcomes["read"] += 1
    assert min(outcomes.values()) > 30, outcomes


def test_every_truncation_is_read_or_refused(tmp_path: Path) -> None:
    content = one_layer(blobs=[blob(VALUES)], bottom=["data"]).SerializeToString()
    path = tmp_path / "net.caffemodel"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(WeightsError):
            read_caffemodel(path)


def test_limits_leave_room_for_what_was_released() -> None:
    net = Net()
    data = net.input("data", 3, (40, 50))
    net.head(net.vgg(data, WIDTHS, FC), 5, 8, data)
    assert len(net.proto.layer) * 20 < caffemodel.MAX_LAYERS
    assert len(net.proto.layer) * 50 * 20 < caffemodel.MAX_FIELDS
