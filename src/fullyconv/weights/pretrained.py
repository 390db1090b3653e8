"""A segmenter as a folder: ``model.safetensors``, ``config.json`` and a card. Atomic, no pickle, nothing assumed.

The folder comes from anywhere, so everything in it is checked before it is believed: sizes before reading, the digest
of the weights against ``config.json``, names and shapes of the tensors against the model that the configuration names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fullyconv.confusion import CARD_METRICS, headline
from fullyconv.errors import WeightsError, some
from fullyconv.files import digest, remove_unfinished, unfinished, write, write_all
from fullyconv.labels import from_plain, to_plain
from fullyconv.preprocessing import MAX_CHANNELS
from fullyconv.weights.signatures import refuse_stray

FORMAT = 1
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CARD = "README.md"
NOTES = "NOTES.md"  # written by a person: intended use, where the model fails; becomes part of the card
MAX_CONFIG_BYTES = 4 * 2**20
MAX_WEIGHTS_BYTES = 16 * 2**30
MAX_INPUT = 4096
DTYPES = ("float16", "float32", "float64", "int64")
KINDS: dict[str, tuple[str, ...]] = {
    "segmenter": ("model", "padding", "upsampling", "in_channels"),
    "classifier": ("architecture", "input_size"),
    "dense_classifier": ("architecture", "input_size", "pool"),
}
"""What a model folder can be, and what ``model`` of its configuration holds."""
MODEL_ARGUMENTS = (*KINDS["segmenter"], "head_width")
"""What `build_model` is called with, beside the classes: a checkpoint, a folder and a run have to agree on it."""
NUMBERS = {"in_channels": MAX_CHANNELS, "head_width": MAX_CHANNELS}
"""Whole numbers among them, and their bounds; head_width may be left out."""
HUB_LICENSES = ("apache-2.0", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "mit")
"""Licenses of weights that the hub has a word for."""

OTHERS = {"encoder_name": "segmentation_models.pytorch", "model_type": "transformers", "pretrained_cfg": "timm"}
"""What a configuration of another library holds -> its name."""

OLD_NAMES = {
    "licence": "license",
    "mean_iu": "mean_iou",
    "frequency_weighted_iu": "frequency_weighted_iou",
    "iu": "iou",
    "pictures": "images",
}
"""Names that older versions wrote -> those of today."""

Dtype = Literal["float32", "float16"]
Tensors = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Config:
    """What ``config.json`` says.

    Args:
        kind: ``"segmenter"``, ``"classifier"`` or ``"dense_classifier"``.
        model: of a segmenter the arguments of ``build_model``: model, padding, upsampling, in_channels, and head_width
            where it is not the preset's own; of a classifier architecture and input_size, of a converted one the pool
            as well.
        labels: plain form of ``Labels``; of a model with several heads ``{"heads": {name: labels}}``.
        preprocessing: plain form of ``Preprocessing``.
        score: measured values in percent with ``data`` and ``split``, or None where nobody measured.
        license: license of the weights.
        training: what is known of the training: data, recipe, hardware, minutes.
        weights: file, sha256, bytes and dtype of the weights; filled in by ``save``.
        parameters: their number; filled in by ``save``.
    """

    kind: str
    model: dict[str, Any]
    labels: dict[str, Any]
    preprocessing: dict[str, Any]
    score: dict[str, Any] | None = None
    license: str = "unstated"
    training: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)
    parameters: int | None = None

    @classmethod
    def of(cls, module: Any, kind: str, model: dict[str, Any], license: str | None, score: Any = None) -> Config:
        """Describe what has labels, preprocessing and training_record; its own license and score stand by default."""
        score, license = module.score if score is None else score, license or module.license or "unstated"
        preprocessing, record = module.preprocessing.to_dict(), module.training_record
        return cls(kind, model, to_plain(module.labels), preprocessing, score, license, record)


def save(folder: str | Path, tensors: Mapping[str, Any], config: Config, dtype: Dtype = "float32") -> Path:
    """Write a model folder: nothing is replaced before all is on the disk, the configuration with the digest last.

    Args:
        folder: where to write; made if it is not there. Other files in it are left alone; ``NOTES.md`` goes
            into the card.
        tensors: the model's state, name -> tensor of torch or array of numpy.
        config: all but ``weights`` and ``parameters``.
        dtype: of floating tensors; batch norm statistics (``running_mean``, ``running_var``) always stay in float32,
            because their range does not fit half precision.

    Returns:
        The folder.

    Raises:
        ValueError: if dtype is unknown, or a value is not finite in it.
        NotADirectoryError: if folder is a file.
    """
    from safetensors.numpy import save as to_bytes

    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{target}: is a file; a model folder is a folder, pass another name")
    if dtype not in ("float32", "float16"):
        raise ValueError(f'dtype={dtype!r}: choose "float32" or "float16"')
    stored = {name: _store(name, value, dtype) for name, value in tensors.items()}
    raw = to_bytes(stored, metadata={"format": "pt"})
    weights = {"file": WEIGHTS, "sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw), "dtype": dtype}
    parameters = int(sum(value.size for name, value in stored.items() if not _is_statistic(name)))
    config = replace(config, weights=weights, parameters=parameters)
    document = {"format": FORMAT, **asdict(config), "fullyconv": _version()}
    try:
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"score, license or training holds what JSON cannot ({error}): pass finite numbers, strings, lists, dicts"
        ) from error
    remove_unfinished(target)
    notes = (target / NOTES).read_text(encoding="utf-8") if (target / NOTES).is_file() else ""
    write_all(
        {
            target / WEIGHTS: raw,
            target / CARD: card(config, target.resolve().name, notes).encode(),
            # Last, because it holds the digest: after a kill between two of the renamings load finds it ready.
            target / CONFIG: text.encode(),
        }
    )
    return target


def read_config(folder: str | Path) -> Config:
    """Read ``config.json`` alone.

    Raises:
        FileNotFoundError: if there is none.
        WeightsError: if it is too large, no JSON, or of another format.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not found; a model folder holds {CONFIG} and {WEIGHTS}, as save_pretrained writes"
        )
    document = read_json(path)
    if document.get("format") != FORMAT:
        other = next((name for key, name in OTHERS.items() if key in document), None)
        of = f"is of {other}" if other else "was written by another version of fullyconv"
        raise WeightsError(
            f"{path}: format={document.get('format')!r}, this version reads format {FORMAT}; "
            f"it {of}, or is no model folder of it"
        )
    document = respelled(document)
    kinds = {"kind": str, "model": dict, "labels": dict, "preprocessing": dict, "license": str, "training": dict}
    check_kinds({"parameters": 0, **document}, kinds | {"weights": dict, "parameters": int}, path)
    check_kinds(document["weights"], {"sha256": str, "bytes": int}, path)
    _check_score(document.get("score"), path)
    _check_model(document["kind"], document["model"], path)
    try:
        from_plain(document["labels"])
    except (TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{path}: {error}; fetch or save the model folder again") from error
    return Config(**{f.name: document[f.name] for f in fields(Config) if f.name in document})


def read_json(path: Path) -> dict[str, Any]:
    """Read a configuration, of this package or of another.

    Raises:
        WeightsError: if it is too large, or no JSON object; a page or a pointer in its place is called that.
    """
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise WeightsError(f"{path}: {path.stat().st_size} bytes; a configuration has at most {MAX_CONFIG_BYTES}")
    refuse_stray(path, "JSON")
    return parsed(path.read_bytes(), path)


def is_of_timm(document: Mapping[str, Any]) -> bool:
    """Tell whether a configuration is one of timm's, and not of this package."""
    return "kind" not in document and "architecture" in document


def parsed(content: bytes, path: str | Path) -> dict[str, Any]:
    """Read a JSON object out of a file, ``path``, that comes from anywhere.

    Raises:
        WeightsError: if it is none.
    """
    try:
        document = json.loads(content.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: is no JSON ({error}); fetch or save it again") from error
    if not isinstance(document, dict):
        raise WeightsError(f"{path}: holds no JSON object; fetch or save it again")
    return document


def check_kinds(document: Mapping[str, Any], kinds: Mapping[str, type], path: str | Path) -> None:
    """Check that the entries of a document have the types that they should.

    Raises:
        WeightsError: if one is missing, or of another type.
    """
    for key, kind in kinds.items():
        if type(document.get(key)) is not kind:
            raise WeightsError(f"{path}: {key!r} is missing or no {kind.__name__}; fetch or save it again")


def respelled(document: Mapping[str, Any]) -> dict[str, Any]:
    """Give what an older version wrote the names of today, in the configuration of a model and in its score.

    Args:
        document: what a file says; a name of today stands as it is.

    Returns:
        The same under the names of today.
    """
    found = {OLD_NAMES.get(key, key): value for key, value in document.items()}
    if isinstance(found.get("score"), dict):
        found["score"] = {OLD_NAMES.get(key, key): value for key, value in found["score"].items()}
    return found


def load(folder: str | Path) -> tuple[Config, Tensors]:
    """Read a model folder and check it.

    Args:
        folder: what ``save`` wrote.

    Returns:
        The configuration, and name -> array; half precision is widened to float32.

    Raises:
        FileNotFoundError: if ``config.json`` or the weights are not there.
        WeightsError: if the weights are not those the configuration names, are damaged, or hold values that are not
            finite.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    _complete(Path(folder))
    config = read_config(folder)
    name = config.weights.get("file")
    if name != WEIGHTS:
        raise WeightsError(
            f"{Path(folder) / CONFIG}: weights.file={name!r}; a model folder keeps its weights in {WEIGHTS}"
        )
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found, although {CONFIG} names it; fetch or save the model folder again")
    refuse_stray(path, "safetensors file")
    size = path.stat().st_size
    if size != config.weights.get("bytes") or size > MAX_WEIGHTS_BYTES:
        raise WeightsError(
            f"{path}: {size} bytes, {CONFIG} promises {config.weights.get('bytes')} "
            f"(at most {MAX_WEIGHTS_BYTES}); fetch or save the model folder again"
        )
    raw = path.read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    if digest != config.weights.get("sha256"):
        raise WeightsError(
            f"{path}: sha256 {digest}, {CONFIG} promises {config.weights.get('sha256')}: the file was changed or is "
            "damaged; fetch or save the model folder again"
        )
    try:
        stored = from_bytes(raw)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise WeightsError(f"{path}: is no safetensors file ({error})") from error
    tensors: Tensors = {}
    for key, value in sorted(stored.items()):  # the library's order differs each time, and load reports list the keys
        if str(value.dtype) not in DTYPES:
            raise WeightsError(f"{path}: tensor {key!r} is of type {value.dtype}; weights are {', '.join(DTYPES)}")
        floating = np.issubdtype(value.dtype, np.floating)
        if floating and not np.isfinite(value).all():
            raise WeightsError(f"{path}: tensor {key!r} holds values that are not finite; the training went wrong")
        # A copy, because arrays over the file's bytes are read-only.
        tensors[key] = value.astype(np.float32) if value.dtype == np.float16 else value.copy()
    return config, tensors


def _complete(folder: Path) -> None:
    """Give weights their configuration, where a save was killed between the two: it lies beside them, ready."""
    for part in unfinished(folder / CONFIG):
        with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
            content = part.read_bytes() if part.stat().st_size <= MAX_CONFIG_BYTES else b""
            own = digest(folder / WEIGHTS).sha256
            if json.loads(content)["weights"]["sha256"] == own != read_config(folder).weights.get("sha256"):
                write(folder / CONFIG, content)


def misfits(own: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Say how tensors differ from those of a model, by their names and shapes; nothing where they do not.

    Args:
        own: those of the model, of torch or numpy.
        found: those of the file.
    """
    shapes = [
        f"{_line(name)} {tuple(found[name].shape)} for {tuple(own[name].shape)}"
        for name in sorted(own.keys() & found.keys())
        if tuple(found[name].shape) != tuple(own[name].shape)
    ]
    faults = {"missing": sorted(own.keys() - found.keys()), "unknown": sorted(map(_line, found.keys() - own.keys()))}
    faults["of another shape"] = shapes
    return "; ".join(f"{len(entries)} {fault}: {some(entries)}" for fault, entries in faults.items() if entries)


def check(own: Mapping[str, Any], found: Mapping[str, Any], path: Path) -> None:
    """Compare tensors of a file, ``path``, with those of the model by names and shapes.

    Raises:
        WeightsError: if they differ; the message lists missing, unknown and mis-shaped ones.
    """
    if differing := misfits(own, found):
        raise WeightsError(f"{path}: the tensors are not those of the model; nothing was loaded: {differing}")


def card(config: Config, name: str, notes: str = "") -> str:
    """Write the card of a model folder: what it is, what it scored, on what, and under which license.

    Args:
        config: what ``config.json`` says.
        name: what the model folder is called; an id of the hub, "org/repo", once it is published.
        notes: what a person wrote about it: intended use, where it fails.
    """
    heads: Mapping[str, Any] = config.labels.get("heads") or {"": config.labels}
    architecture = config.model.get("model") or config.model.get("architecture")
    count = " + ".join(str(len(head["names"])) for head in heads.values())
    classes = "\n".join(
        f"**Classes{f' of {_line(head)}' if head else ''}**: {some(entry['names'], 60)}."
        for head, entry in heads.items()
    )
    size = f", {config.parameters:,} parameters" if config.parameters else ""
    kept = f"{size}, weights stored in {_line(config.weights.get('dtype'))}"
    text = f"""---
{_metadata(config, name)}
---

# {name}

`{_line(architecture)}`, {config.kind.replace("_", " ")}, {count} classes{kept}.

```python
import fullyconv

{_usage(config.kind, name, len(heads) > 1)}
```

{classes}

**License of the weights**: {_line(config.license)}.

**sha256 of the weights**: `{config.weights.get("sha256")}`

## Score

{_measured(config.score or {})}
"""
    if config.training:
        title = "Where it comes from" if "source" in config.training else "Training"
        facts = "\n".join(f"- {_line(key)}: {_line(value)}" for key, value in config.training.items())
        text += f"\n## {title}\n\n{facts}\n"
    return text + (f"\n{notes.strip()}\n" if notes else "")


def _measured(score: Mapping[str, Any]) -> str:
    if not score:
        return "Nobody measured these weights."
    by = " As published, not measured by this package:" if score.get("measured_by") == "publisher" else ""
    data, split = _line(score.get("data", "unnamed data")), _line(score.get("split", "unnamed"))
    lines = [f"On {data}, {split} split, percent:{by} {headline(score)}.", ""]
    if score.get("command"):
        lines += ["Printed by:", "", "```", _line(score["command"]), "```", ""]
    for key, title in (("iou", "IoU"), ("accuracy", "accuracy")):
        if isinstance(score.get(key), dict):
            lines += [f"| class | {title} % |", "|---|---|"]
            lines += [f"| {_line(each)} | {'-' if v is None else f'{v:.2f}'} |" for each, v in score[key].items()]
    return "\n".join(lines)


def _metadata(config: Config, name: str) -> str:
    """Write the metadata that the hub reads."""
    from huggingface_hub import EvalResult, ModelCardData

    score = config.score or {}
    task = "image-classification" if config.kind == "classifier" else "image-segmentation"
    data, split = _line(score.get("data", "unnamed")), _line(score.get("split", "unnamed"))
    titles = sorted(CARD_METRICS.items(), key=lambda metric: metric[0] != "mean_iou")  # which the hub shows first
    results = [
        EvalResult(task, data, data, key, round(float(score[key]), 2), dataset_split=split, metric_name=title)
        for key, title in titles
        if isinstance(score.get(key), int | float)
    ]
    terms = config.license.partition("(")[0].strip().lower().replace(" ", "-")
    metadata = ModelCardData(
        library_name="fullyconv",
        pipeline_tag=task,
        tags=["semantic-segmentation", "fully-convolutional-networks", "pytorch-lightning"],
        license=terms if terms in HUB_LICENSES else "other",
        license_name=_line(config.license),
        model_name=_line(name),
        eval_results=results or None,
    )
    return metadata.to_yaml().strip()


def _usage(kind: str, name: str, several: bool) -> str:
    # nobody vouches for what lies on the hub, until its digests stand in the lock file
    source = f'"{name}", allow_unverified=True' if "/" in name else f'"{name}"'
    if kind == "classifier":
        return f"classifier = fullyconv.load_classifier({source})\ndense = classifier.convolutionalize()"
    first = f'result = fullyconv.load({source}).predict("photo.jpg")\n'
    if several:
        return first + 'for head, segmentation in result.items():\n    segmentation.overlay().save(f"{head}.png")'
    return first + 'result.overlay().save("overlay.png")'


def _store(name: str, value: Any, dtype: str) -> npt.NDArray[Any]:
    if not isinstance(value, np.ndarray):  # of torch, whose bfloat16 numpy does not have
        value = (value.float() if value.is_floating_point() else value).detach().cpu().numpy()
    # safetensors refuses anything that is not contiguous, such as weights in channels_last; unlike ascontiguousarray,
    # asarray leaves a scalar (num_batches_tracked) without an axis.
    array = np.asarray(value, order="C")
    if not np.issubdtype(array.dtype, np.floating):
        return array
    kept = np.float32 if dtype == "float32" or _is_statistic(name) else np.float16
    with np.errstate(over="ignore"):
        result = array.astype(kept, order="C")
    if not np.isfinite(result).all():
        raise ValueError(
            f'dtype="{dtype}": tensor {name!r} holds values that are not finite in it; '
            'save with dtype="float32", and look at the training if they are not finite there either'
        )
    return result


def _check_score(score: Any, path: Path) -> None:
    """Refuse a score whose figures are not numbers: cards and lists print them."""
    if score is None:
        return
    by_class = score.get("iou") or {} if isinstance(score, dict) else None
    if not isinstance(by_class, dict):
        raise WeightsError(f"{path}: 'score' must be an object or null, and its 'iou' an object of classes and figures")
    figures = {key: score.get(key) for key in CARD_METRICS}
    figures |= {f"iou.{_line(name)[:40]}": value for name, value in by_class.items()}
    for key, value in figures.items():
        if value is not None and (type(value) not in (int, float) or not 0 <= value <= 100):
            raise WeightsError(f"{path}: score.{key}={str(value)[:40]!r}; a figure is a number in 0..100, in percent")


def _check_model(kind: str, model: dict[str, Any], path: Path) -> None:
    if kind not in KINDS:
        raise WeightsError(f"{path}: kind={kind[:40]!r}; this version knows {', '.join(KINDS)}")
    words = [key for key in KINDS[kind] if key not in (*NUMBERS, "input_size")]
    beside = {"head_width"} if kind == "segmenter" else set()
    if model.keys() - beside != set(KINDS[kind]) or not all(isinstance(model[key], str) for key in words):
        raise WeightsError(
            f"{path}: 'model' of a {kind} must hold {', '.join(KINDS[kind])}, and nothing else ({', '.join(words)} as "
            "strings); fetch or save the model folder again"
        )
    for key, most in NUMBERS.items():
        if key in model and (type(model[key]) is not int or not 1 <= model[key] <= most):
            raise WeightsError(f"{path}: {key}={model[key]!r}; must be a whole number in 1..{most}")
    size = model.get("input_size", [1, 1])
    if not isinstance(size, list) or len(size) != 2 or not all(type(n) is int and 1 <= n <= MAX_INPUT for n in size):
        raise WeightsError(f"{path}: input_size={size!r}; must be height and width in 1..{MAX_INPUT} pixels")


def _is_statistic(name: str) -> bool:
    return name.endswith((".running_mean", ".running_var", ".num_batches_tracked"))


def _line(value: object) -> str:
    """Write a value from outside as one printable line that breaks no table."""
    text = "".join(sign if sign.isprintable() else " " for sign in str(value))
    return text.replace("|", "\\|").strip()


def _no_constant(name: str) -> None:
    raise ValueError(f"holds {name}, which is no JSON")


def _version() -> str:
    from importlib import metadata  # half as long as numpy to import, and reading needs none of it

    try:
        return metadata.version("fullyconv")
    except metadata.PackageNotFoundError:
        return "unknown"
