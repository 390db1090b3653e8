"""``fullyconv.publish``: put a model folder or checkpoint on the Hugging Face Hub, with a card of measured numbers."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fullyconv.classifier import Classifier, DenseScorer
from fullyconv.files import aside
from fullyconv.hub.load import load_classifier
from fullyconv.training.module import SegmentationModule
from fullyconv.weights import catalog, pretrained, sources
from fullyconv.weights.pretrained import Dtype
from fullyconv.weights.repositories import check_repo, upload

if TYPE_CHECKING:
    from fullyconv.data.datamodule import SegmentationDataModule


def publish(
    source: str | Path,
    repo: str,
    *,
    data: SegmentationDataModule | None = None,
    split: Literal["val", "test"] = "test",
    license: str | None = None,
    private: bool = False,
    dtype: Dtype | None = None,
    token: str | None = None,
) -> str:
    """Upload a model to the Hugging Face Hub.

    The numbers in its card are those that were measured on the stored weights: now, where ``data`` is given, else those
    that the model folder holds. Where nobody measured, the card says so.

    Args:
        source: the folder of a model, a Lightning ``.ckpt`` (its optimizer is left out), a shipped model by its name,
            or a classifier by anything that `load_classifier` takes: it is converted, and what is uploaded serves
            `load`, `load_classifier` and ``backbone_weights`` alike.
        repo: "org/name"; it is made if it is not there.
        data: the set to measure on.
        split: its split to measure.
        license: of the weights; needed where the model folder does not state one.
        private: whether a repository that is made is private.
        dtype: of the stored weights; None keeps a model folder's own, and stores a checkpoint in float32.
        token: of the hub; None takes the one of ``hf auth login`` or HF_TOKEN.

    Returns:
        The address that loads what was published, ``hf://ORG/NAME@COMMIT``.

    Raises:
        ValueError: if repo is no id, or no license is stated.
        FileNotFoundError: if there is no model folder.
        WeightsError: if the model folder is damaged.
        DownloadError: if the hub refuses or cannot be reached; nothing is published by halves.
    """
    check_repo(repo)
    with aside(tempfile.gettempdir()) as name:
        place = _place(source, name / "converted")
        # A folder of that name, because the card bears the folder's.
        folder = name / "model"
        _prepare(place, folder, data, split, license, dtype)
        notes = (place / pretrained.NOTES).read_text(encoding="utf-8") if (place / pretrained.NOTES).is_file() else ""
        return upload(folder, repo, private=private, token=token, notes=notes)


def publish_zoo(org: str, *, private: bool = False, token: str | None = None) -> list[str]:
    """Upload every shipped model, each byte for byte to a repository of its own, ``ORG/NAME``.

    Args:
        org: user or organization on the hub.
        private: whether repositories that are made are private.
        token: of the hub; None takes the one of ``hf auth login`` or HF_TOKEN.

    Returns:
        The addresses that load what was published.

    Raises:
        ValueError: if org is no name.
        DownloadError: if the hub refuses or cannot be reached; models before the one that it names are published.
    """
    return [publish(name, f"{org}/{name}", private=private, token=token) for name in catalog.SHIPPED]


def _place(source: str | Path, converted: Path) -> Path:
    """Give the folder or checkpoint that a source means; a classifier of elsewhere is converted into a folder."""
    place = Path(source).expanduser()
    if place.exists() and (place.is_dir() or place.suffix.lower() == ".ckpt"):
        return place
    try:
        meant = sources.read(source)
    except (ValueError, FileNotFoundError) as error:
        raise FileNotFoundError(
            f"source={str(source)!r}: not found; pass the folder of a model, a .ckpt, or a name that 'fullyconv list' "
            "shows"
        ) from error
    if meant.kind == "folder":
        return Path(meant.address)
    load_classifier(source).convolutionalize().save_pretrained(converted)
    return converted


def _prepare(
    place: Path, folder: Path, data: SegmentationDataModule | None, split: str, license: str | None, dtype: Dtype | None
) -> None:
    """Write what is uploaded into a folder of its own, with its score: nothing else of the user's folder travels."""
    if place.is_file():
        module: SegmentationModule | DenseScorer | Classifier = SegmentationModule.from_checkpoint(place)
        stored: Dtype = dtype or "float32"
    else:
        config = pretrained.read_config(place)
        readers = {"segmenter": SegmentationModule, "classifier": Classifier, "dense_classifier": DenseScorer}
        module = readers[config.kind].from_pretrained(place)  # type: ignore[attr-defined]
        stored = dtype or ("float16" if config.weights.get("dtype") == "float16" else "float32")
        if data is None and license is None and stored == config.weights.get("dtype"):
            # as it is, byte for byte: what was measured is what is published
            folder.mkdir()
            for name in (pretrained.WEIGHTS, pretrained.CONFIG):
                shutil.copyfile(place / name, folder / name)
            return
        if stored != config.weights.get("dtype") and (module.score or {}).get("measured_by") != "publisher":
            module.score = None  # it was measured on other numbers, if only a little
    if license is not None:
        module.license = license
    module.save_pretrained(folder, dtype=stored)
    if data is None:
        return
    if not isinstance(module, SegmentationModule):
        raise ValueError(f"data: a {module.kind} cannot be measured on masks; publish it without data")
    # measured is what was stored, not what was in memory
    result = SegmentationModule.from_pretrained(folder).evaluate(data, split)
    named = Path(str(data.hparams["data"])).name
    score: dict[str, Any] = {"data": named, "split": split} | result.to_dict(module.classes)
    score |= {"measured_by": "us", "command": f"fullyconv test MODEL {named} --split {split}"}
    module.save_pretrained(folder, dtype=stored, score=score)
