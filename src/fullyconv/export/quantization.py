"""Convolutions in int8, with ranges measured on images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from fullyconv.export.graph import quiet
from fullyconv.export.parity import feeds_of
from fullyconv.images import find_images
from fullyconv.training.module import SegmentationModule


def quantized(proto: Any, model: SegmentationModule, images: Sequence[Path]) -> Any:
    """Compute convolutions, sums and poolings in int8, with ranges measured on images."""

    class Images(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self.rest: Iterator[Path] = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            path = next(self.rest, None)
            return None if path is None else feeds_of(model, path)

    # The quantizer wants to know the types of all values.
    inferred = onnx.shape_inference.infer_shapes(proto)
    with tempfile.TemporaryDirectory() as folder, quiet():
        quantize_static(
            inferred,
            str(Path(folder) / "int8.onnx"),
            Images(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Add", "MaxPool"],
            per_channel=True,
            # Sums of products of full bytes overflow 16 bits on processors without VNNI, and nobody says so.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(str(Path(folder) / "int8.onnx"))


def images_of(calibrate: str | Path | Sequence[str | Path]) -> list[Path]:
    """Find the images to calibrate on."""
    given = [calibrate] if isinstance(calibrate, str | Path) else list(calibrate)
    found = [path for each in given for path in find_images(each, recursive=True)]
    if not found:
        raise ValueError(f"calibrate={calibrate!r}: holds no image; give a folder of images as they will be met")
    return found
