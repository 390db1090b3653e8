"""What the zoo holds. Reading it needs no torch, so that ``fullyconv list`` answers at once."""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from pathlib import Path

from fullyconv import artefact

SHIPPED: tuple[str, ...] = ("fcn4s_resnet18_half.camvid",)
"""Names of the artefacts in ``zoo/``: architecture, a dot, training data."""

ALIASES: dict[str, str] = {"street": "fcn4s_resnet18_half.camvid"}
"""Short names for the best model of a domain; what they point at may change from release to release."""


@dataclass(frozen=True)
class Entry:
    """One model of the zoo.

    Args:
        name: architecture.data.
        aliases: other names of it.
        folder: where the artefact is.
        config: its configuration.
        bytes: size of the weights.
    """

    name: str
    aliases: tuple[str, ...]
    folder: Path
    config: artefact.Config
    bytes: int


def zoo_folder() -> Path:
    """Find the folder of the shipped artefacts, in an installed wheel or beside the sources.

    Raises:
        FileNotFoundError: if the installation holds no zoo.
    """
    packed = Path(str(importlib.resources.files("fullyconv"))) / "zoo"
    if packed.is_dir():
        return packed
    # An editable installation has src/ on the path, and the zoo two folders above this package.
    beside = Path(__file__).resolve().parents[3]
    if (beside / "zoo").is_dir() and (beside / "pyproject.toml").is_file():
        return beside / "zoo"
    raise FileNotFoundError(
        "the zoo is missing from this installation of fullyconv; install the wheel again: "
        "pip install --force-reinstall fullyconv"
    )


def entries() -> list[Entry]:
    """List the shipped models, in the order of SHIPPED."""
    found = []
    for name in SHIPPED:
        folder = zoo_folder() / name
        config = artefact.read_config(folder)
        aliases = tuple(alias for alias, target in ALIASES.items() if target == name)
        found.append(Entry(name, aliases, folder, config, int(config.weights.get("bytes", 0))))
    return found
