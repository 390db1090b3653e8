"""Read the tensors of a weight file. Nothing in a file is ever executed, and nothing of it is believed unseen.

The first bytes say what a file is, never its name alone: a page of a server that wanted a login, the pointer
of git-lfs in place of the file, or an archive under another suffix are the common accidents.
"""

from __future__ import annotations

import math
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fullyconv.errors import WeightsError, first_line, printable, refusing, some
from fullyconv.weights import within
from fullyconv.weights.signatures import REMEDIES, Kind, kind_of

TORCH_SUFFIXES = (".pth", ".pt", ".th", ".bin", ".ckpt", ".tar")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES, ".caffemodel")

MAX_BYTES = 16 * 2**30
MAX_PICKLE_BYTES = 64 * 2**20  # the names and shapes in a file of torch.save; a large network has less than one
MAX_TENSORS = 100_000
MAX_DEPTH = 4

# Where training programs put the weights within their checkpoints. Averaged weights first: they are the ones that the
# published figures belong to.
ENTRIES = (
    "state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict",
    "state_dict", "model_state_dict", "model", "net", "module", "weights", "params",
)  # fmt: skip

NUMBERS = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}


class StateFile(NamedTuple):
    """What a weight file holds.

    Args:
        tensors: of the network by name, without its prefix; on the CPU, finite, half precision widened to float32. They
            may share memory with the file: copy them, do not write to them.
        beside: names of tensors that are none of the network's: of a loss, a metric, another network.
    """

    tensors: dict[str, Tensor]
    beside: tuple[str, ...] = ()


def read_state_dict(
    path: str | Path, *, without: Sequence[str] = (), like: Mapping[str, Tensor] | None = None, whole: bool = False
) -> StateFile:
    """Read the tensors of a weight file of any common kind.

    Files of `torch.save` are read without their Python objects (``weights_only``), so that nothing in them runs. From
    the checkpoint of a training program the weights alone are taken, averaged ones where there are any, and the prefix
    of the network (that of DataParallel, a compiler, a Lightning module) is taken off.

    Args:
        path: a file with one of the suffixes .safetensors, .pth, .pt, .th, .bin, .ckpt, .tar or .caffemodel.
        without: prefixes of names whose tensors are left out unseen, because they are known to hold nothing.
        like: tensors of a network of the same architecture, where it is known: what stands beside it is kept apart.
        whole: take all tensors under their full names, for someone who looks for the network himself.

    Returns:
        The tensors, and the names of those beside them.

    Raises:
        FileNotFoundError: if there is no such file.
        WeightsError: if it is damaged, too large, of another kind than its suffix says, holds Python objects, or
            tensors that are not plain finite numbers. The message names the file, the rule and the remedy.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     place = Path(folder) / "weights.pth"
        ...     torch.save({"epoch": 3, "state_dict": {"module.fc.bias": torch.zeros(2)}}, place)
        ...     file = read_state_dict(place)
        >>> file.tensors
        {'fc.bias': tensor([0., 0.])}
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: not found; pass a weight file ({', '.join(SUFFIXES)})")
    if not path.is_file():
        raise WeightsError(f"{path}: is a folder; pass the weight file in it ({', '.join(SUFFIXES)})")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise WeightsError(f"{path}: suffix {suffix!r} is of no weight file; known are {', '.join(SUFFIXES)}")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise WeightsError(f"{path}: {size} bytes; a weight file has at most {MAX_BYTES}")
    kind, what = kind_of(path)
    if kind not in ("archive", "legacy") if suffix in TORCH_SUFFIXES else what:
        wanted = {".safetensors": "safetensors file", ".caffemodel": ".caffemodel"}.get(suffix, "file of torch.save")
        raise WeightsError(f"{path}: is {what or 'nothing that is known'}, no {wanted}; {REMEDIES[kind]}")
    if suffix == ".caffemodel":
        from fullyconv.weights.caffe import caffe_classifier

        tensors = caffe_classifier(path)
    elif suffix == ".safetensors":
        tensors = _from_safetensors(path)
    else:
        tensors = _from_torch(path, kind, size)
    _bound(len(tensors), path)
    tensors = {key: value for key, value in tensors.items() if not key.startswith(tuple(without))}
    if not tensors:
        raise WeightsError(f"{path}: holds no tensors; pass the file with the weights")
    with refusing(path, WeightsError):
        names = {key: key for key in tensors} if whole else within.find(tensors, like)
    used = set(names.values())
    network = {name: tensors[key] for name, key in names.items()}
    return StateFile(_checked(network, path, size), tuple(key for key in tensors if key not in used))


def _from_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise WeightsError(f"{path}: is no sound safetensors file ({first_line(error)}); fetch it again") from error


def _from_torch(path: Path, kind: Kind, size: int) -> dict[str, Tensor]:
    if kind == "archive":
        _check_archive(path, size)
    try:
        # Of storages and layouts that are old or rare: what matters of them is refused later, by name.
        with warnings.catch_warnings(action="ignore"):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=kind == "archive")
    except Exception as error:  # whatever a damaged or hostile pickle brings about
        raise WeightsError(f"{path}: {_reason(error)}") from error
    return _unnested(loaded, path)


def _check_archive(path: Path, size: int) -> None:
    """Refuse archives that torch.save did not write, before anything of them is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, EOFError) as error:
        raise WeightsError(
            f"{path}: its archive is damaged or cut off ({first_line(error)}); fetch it again"
        ) from error
    _bound(len(entries), path)
    names = [entry.filename for entry in entries]
    if any(name.endswith("constants.pkl") for name in names):
        raise WeightsError(
            f"{path}: is a TorchScript program, not weights alone; save those: torch.save(model.state_dict(), ...)"
        )
    pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise WeightsError(
            f"{path}: is a zip archive that torch.save did not write ({some(names)}); unpack it, and pass the weight "
            "file in it"
        )
    if pickles[0].file_size > MAX_PICKLE_BYTES:
        raise WeightsError(
            f"{path}: its list of tensors has {pickles[0].file_size} bytes, a weight file's at most {MAX_PICKLE_BYTES}"
        )
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > size:
            raise WeightsError(
                f"{path}: {printable(entry.filename)} within it is compressed, which torch.save never does; fetch it "
                "again"
            )


def _reason(error: Exception) -> str:
    """Say why torch refuses a file. Its own words would recommend to load it with all that it may run."""
    text = str(error)
    blocked = re.search(r"GLOBAL ([\w.]+)", text)
    if blocked:
        return (
            f"holds Python objects ({blocked[1]}) beside its tensors; loading those could run anything. Save the "
            "tensors alone, where you trust the file: torch.save(model.state_dict(), ...)"
        )
    if "Weights only load failed" in text:
        return (
            "holds more than plain tensors, or is damaged; save the tensors alone: torch.save(model.state_dict(), ...)"
        )
    if isinstance(error, MemoryError):
        return "asks for more memory than there is; fetch it again"
    return f"is damaged or cut off ({first_line(error)}); fetch it again"


def _unnested(loaded: object, path: Path) -> dict[str, Tensor]:
    """Find the weights within the checkpoint of a training program."""
    state = loaded
    for _ in range(MAX_DEPTH):
        inner = _inner(state)
        if inner is None:
            break
        state = inner
    if not isinstance(state, Mapping):
        raise WeightsError(
            f"{path}: holds a {type(state).__name__}, not tensors by name; save them so: "
            "torch.save(model.state_dict(), ...)"
        )
    _bound(len(state), path)
    tensors = {key: value.detach() for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path}: holds no tensors, only {some(state) or 'nothing'}; pass the file with the weights")
    if not all(isinstance(key, str) for key in tensors):
        raise WeightsError(f"{path}: holds tensors under what is no name ({some(tensors)})")
    return tensors


def _inner(state: object) -> Mapping[Any, Any] | None:
    """Give the entry that holds the weights: one of a usual name, or one with more tensors than stand beside it."""
    if not isinstance(state, Mapping):
        return None
    entries = {key: entry for key, entry in state.items() if isinstance(key, str) and isinstance(entry, Mapping)}
    if (usual := next((name for name in ENTRIES if entries.get(name)), None)) is not None:
        return entries[usual]
    counts = {key: sum(isinstance(value, Tensor) for value in entry.values()) for key, entry in entries.items()}
    most = max(counts, key=lambda key: counts[key], default="")
    beside = sum(isinstance(value, Tensor) for value in state.values())
    return entries[most] if counts.get(most, 0) > beside else None


def _checked(tensors: Mapping[str, Tensor], path: Path, size: int) -> dict[str, Tensor]:
    """Refuse tensors that are no weights, and widen half precision."""
    checked: dict[str, Tensor] = {}
    total = 0
    for key, value in tensors.items():
        what = f"{path}: tensor {printable(key)!r}"
        if value.layout != torch.strided or value.is_quantized or value.is_meta or value.dtype not in NUMBERS:
            kind = f"{value.layout}, {value.dtype}, {value.device}".replace("torch.", "")
            raise WeightsError(f"{what} holds no plain numbers ({kind}); save it as floating point numbers")
        # a view that repeats few numbers would fill the memory; tied weights count twice, but each has two bytes
        total += value.numel()
        stored = value.untyped_storage().nbytes()
        if value.numel() * value.element_size() > stored or total > max(size, 2**20):
            raise WeightsError(f"{what}: it and those before have more numbers than the file has bytes; fetch it again")
        if value.dtype in (torch.float16, torch.bfloat16):
            value = value.float()
        # Not isfinite, which would take a quarter of the file's size again. Minimum and maximum show NaN and infinity.
        extremes = value.aminmax() if value.is_floating_point() and value.numel() else ()
        if not all(math.isfinite(float(extreme)) for extreme in extremes):
            raise WeightsError(
                f"{what} holds values that are not finite; the training went wrong, or the file is damaged: use another"
            )
        checked[key] = value
    return checked


def _bound(count: int, path: Path) -> None:
    if count > MAX_TENSORS:
        raise WeightsError(f"{path}: has {count} entries; a weight file has at most {MAX_TENSORS}")
