"""The wire format of protocol buffers, which ONNX and Caffe write: a message field by field, no length believed."""

from __future__ import annotations

from collections.abc import Iterator

Value = int | memoryview

_VARINT, _LENGTH = 0, 2
_SIZES = {1: 8, 5: 4}  # bytes of the wire types of fixed size


def fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """Go through the fields of a message: number, and value or bytes.

    Raises:
        ValueError: if it is damaged.
    """
    place = 0
    while place < len(message):
        key, place = varint(message, place)
        number, wire = key >> 3, key & 7
        if not 1 <= number < 2**29:
            raise ValueError(f"a field of the number {number}, which does not exist")
        if wire == _VARINT:
            value, place = varint(message, place)
            yield number, value
            continue
        if wire == _LENGTH:
            length, place = varint(message, place)
        elif wire in _SIZES:
            length = _SIZES[wire]
        else:
            raise ValueError(f"a field of the wire type {wire}, which nobody writes")
        if length > len(message) - place:
            raise ValueError("it is cut off, or damaged")
        yield number, message[place : place + length]
        place += length


def varint(message: memoryview, place: int) -> tuple[int, int]:
    """Read a whole number, and say where the next one begins.

    Raises:
        ValueError: if it is cut off, or has more than 64 bits.
    """
    value = 0
    for index, byte in enumerate(message[place : place + 10]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, place + index + 1
    raise ValueError("it is cut off, or damaged")
