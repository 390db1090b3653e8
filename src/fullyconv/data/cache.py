"""Decoded images and masks, kept so that only the first epoch pays for PNG and JPEG."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fullyconv.data.pairs import Pair
from fullyconv.data.readers import FileReader
from fullyconv.errors import DatasetError, tell
from fullyconv.files import remove_unfinished, replacing
from fullyconv.labels import Labels

Array = npt.NDArray[Any]
Decoded = tuple[Array, Array]

_FORM = 1  # of what is stored; another number makes all that is there unknown
_RESERVE = 2 * 2**30  # bytes of a disk that stay free


class DecodedCache:
    """Keep decoded images and encoded masks in memory or in a folder.

    In a folder, image and mask are two `.npy` files, written under another name and moved into place, so that any
    number of processes may read and write; they are mapped into memory, and only the pages that a crop needs are
    read. In memory, every process keeps its own.

    An entry is found by the path, size and time of change of the files, by the label map, and by how the files are
    read: whatever changes leads to another entry, and what is out of date is never found again. Nothing is removed to
    make room: pairs that come after the bound is reached are decoded each time. Deleting the folder is safe.

    Args:
        place: "memory", or a folder; it is made if there is none.
        labels: what the values in the masks mean.
        reader: how the files are read.
        gigabytes: how much is kept at most, in 10^9 bytes; all that lies in the folder counts. Several processes that
            fill it at once can exceed it by what they write in a second. A folder never takes the last 2 GiB
            of a disk.

    Raises:
        ValueError: if `gigabytes` is not above 0.
        TypeError: if `reader` holds more than plain values.
        DatasetError: if the folder cannot be made.

    Example:
        >>> from fullyconv.data.readers import FileReader
        >>> cache = DecodedCache("memory", Labels.of(["road", "sky"]), FileReader(), gigabytes=0.5)
    """

    def __init__(self, place: str | Path, labels: Labels, reader: FileReader, gigabytes: float = 8.0) -> None:
        if not gigabytes > 0:
            raise ValueError(f"cache_gigabytes={gigabytes!r}: a number above 0; cache=None keeps nothing")
        self.folder = None if str(place) == "memory" else Path(place).expanduser().absolute() / "fullyconv-decoded"
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                remedy = 'give a folder that can be written, or "memory"'
                raise DatasetError(f"cache={str(place)!r}: {error}; {remedy}") from error
        self.bound = int(gigabytes * 10**9)
        words = labels.to_dict()
        del words["palette"]  # how a class is drawn changes no mask
        self._how = json.dumps([words, reader], default=_plain).encode()
        self._kept: dict[str, Decoded] = {}
        self._used = 0
        self._counts_at = 0.0  # when the folder is looked through again
        self._full = False

    def __getstate__(self) -> dict[str, Any]:
        # A process that is started, not forked, begins with an empty memory instead of being sent all of it.
        return {**self.__dict__, "_kept": {}, "_used": 0, "_counts_at": 0.0, "_full": False}

    def read(self, pair: Pair, decode: Callable[[], Decoded]) -> Decoded:
        """Give what is kept of a pair; else decode it, and keep it if there is room.

        Args:
            pair: image and mask.
            decode: reads and checks the files.

        Returns:
            (H, W, C) and (H, W). They belong to the cache: whoever changes them makes a copy.
        """
        try:
            key = self._key(pair)
        except OSError:
            return decode()  # which says what is wrong with the file
        found = self._kept.get(key) if self.folder is None else self._load(key)
        if found is not None:
            return found
        decoded = decode()
        if not self._full and key == self._key(pair):  # else it was changed meanwhile: which of the two was read?
            self._keep(key, decoded)
        return decoded

    def _keep(self, key: str, decoded: Decoded) -> None:
        """Keep what was decoded, if there is room."""
        size, now = sum(array.nbytes for array in decoded), time.monotonic()
        try:
            if self.folder is not None and now >= self._counts_at:  # for what other processes wrote
                self._used = self._size_of_folder()
                took = time.monotonic() - now
                self._counts_at = now + max(1.0, 20.0 * took)  # so that it costs a twentieth of the time at most
            if self._used + size > self.bound:
                where = "memory" if self.folder is None else self.folder
                self._stop(f"{where} holds {self._used / 1e9:.3g} of {self.bound / 1e9:g} GB")
            elif self.folder is None:
                self._kept[key] = decoded
            elif (free := shutil.disk_usage(self.folder).free) - size < _RESERVE:
                self._stop(f"the disk of {self.folder} has {free / 1e9:.3g} GB free")
            else:
                for path, array in zip(self._files(key), decoded, strict=True):
                    with replacing(path, lasting=True) as part, part.open("xb") as file:
                        np.save(file, array, allow_pickle=False)
            self._used += size
        except OSError as error:
            self._stop(str(error))

    def _key(self, pair: Pair) -> str:
        digest = hashlib.blake2b(f"{_FORM}\n".encode(), digest_size=20)
        for entry in dataclasses.fields(pair):
            value = getattr(pair, entry.name)
            if isinstance(value, Path):
                state = (value.parent if value.parent.is_file() else value).stat()  # FILE/NAME lies inside FILE
                value = (str(value.absolute()), state.st_size, state.st_mtime_ns)
            digest.update(f"{entry.name}={value!r}\n".encode())
        digest.update(self._how)
        return digest.hexdigest()

    def _files(self, key: str) -> tuple[Path, Path]:
        assert self.folder is not None
        return self.folder / f"{key}.image.npy", self.folder / f"{key}.mask.npy"

    def _load(self, key: str) -> Decoded | None:
        image, mask = (_mapped(path) for path in self._files(key))
        return None if image is None or mask is None or image.shape[:2] != mask.shape else (image, mask)

    def _size_of_folder(self) -> int:
        assert self.folder is not None
        remove_unfinished(self.folder)
        total = 0
        for entry in self.folder.iterdir():
            with suppress(OSError):  # another process may remove what nobody finished
                total += entry.stat().st_size
        return total

    def _stop(self, why: str) -> None:
        self._full = True
        tell(f"the cache of decoded images takes no more: {why}; further pairs are decoded in every epoch")


def _plain(value: object) -> Any:
    """Write a reader the same in every process: one that reads otherwise is another."""
    if isinstance(value, Labels):
        return value.to_dict()
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if not dataclasses.is_dataclass(value):
        raise TypeError(
            f"the cache cannot tell how {kind} reads: a reader is a data class of plain values (numbers, text, tuples, "
            "mappings, data classes); or give cache=None"
        )
    return [kind, vars(value)]


def _mapped(path: Path) -> Array | None:
    # privately ("c"): nobody who writes into the array changes the file
    try:
        return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
    except (OSError, ValueError, EOFError):  # missing, empty, cut short: decoded and written anew
        return None
    except SystemError:  # a header read in several threads at once: https://github.com/python/cpython/issues/106905
        return None
