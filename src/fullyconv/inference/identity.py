"""What tells a model from others, and a file from others that stood in its place: plain values that are compared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def identity(predictor: Any) -> Any:
    """Say what tells a predictor from others: its file, or a digest of its weights.

    Args:
        predictor: what `predict_folder` takes.
    """
    path = getattr(predictor, "path", None)
    if path is not None:
        return file_identity(path)
    weights = predictor if hasattr(predictor, "state_dict") else getattr(predictor, "model", None)
    if weights is None:
        return type(predictor).__name__
    import hashlib

    import torch

    known = repr((predictor.labels, getattr(predictor, "preprocessing", None)))
    digest = hashlib.blake2b(known.encode(), digest_size=16)
    for name, tensor in weights.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def file_identity(path: str | Path) -> list[Any]:
    """Say what tells a file from others that stood there: where it is, its size and its time.

    Args:
        path: the file.
    """
    found = Path(path).stat()
    return [os.fspath(Path(path).resolve()), found.st_size, found.st_mtime_ns]
