"""Label matrices in MATLAB files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fullyconv.errors import DatasetError


def read_matrix(path: Path, variable: str, field: str | None = None) -> npt.NDArray[Any]:
    """Read one matrix of integers.

    Args:
        path: a `.mat` file of version 7 or older.
        variable: name of the variable.
        field: name of a field, where the variable is a structure.

    Returns:
        (H, W) integers, as they stand in the file; negative ones are possible.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if the file is damaged, or lacks such a matrix.
        ImportError: if SciPy is not installed.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError(f"{path}: MATLAB files need SciPy: pip install 'fullyconv[mat]'") from error
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the name")
    name = variable if field is None else f"{variable}.{field}"
    try:
        content: Any = loadmat(str(path), variable_names=[variable])[variable]
        if field is not None:
            content = content[field]
            while content.dtype == object:
                content = content.ravel()[0]
    except (KeyError, ValueError, IndexError) as error:
        raise DatasetError(f"{path}: holds no {name}; replace the file by the published one ({error})") from error
    except Exception as error:  # struct.error, zlib.error, NotImplementedError for v7.3, ... of damaged files
        raise DatasetError(f"{path}: cannot be read as a MATLAB file of version 7 or older ({error})") from error
    matrix: npt.NDArray[Any] = np.asarray(content)
    if matrix.ndim != 2 or not np.issubdtype(matrix.dtype, np.number) or not matrix.size:
        raise DatasetError(f"{path}: {name} has shape {matrix.shape} and type {matrix.dtype}; it should be a matrix")
    whole = matrix.astype(np.int64)
    if not (whole == matrix).all():
        raise DatasetError(f"{path}: {name} holds fractions; labels are whole numbers")
    return whole


def as_mask(matrix: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    """Narrow a matrix of labels to 8 or 16 bits.

    Args:
        matrix: (H, W) integers.
        path: the file, for the message.

    Returns:
        (H, W) uint8, or uint16 where there are values above 255.

    Raises:
        DatasetError: if a value is negative or above 65535.
    """
    low, high = int(matrix.min()), int(matrix.max())
    if low < 0 or high > 65535:
        raise DatasetError(f"{path}: holds the values {low}..{high}; labels are 0..65535. Replace the file")
    return matrix.astype(np.uint8 if high <= 255 else np.uint16)
