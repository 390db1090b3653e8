"""What is known of a public data set: where it comes from, how it is laid out, what its files and lists hold."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fullyconv.data.documents import read_text, safe_parts
from fullyconv.data.pairs import Pair
from fullyconv.data.readers import FileReader
from fullyconv.errors import DatasetError, some
from fullyconv.labels import Labels


@dataclass(frozen=True)
class Archive:
    """One file that a set is published as.

    Args:
        file: its name, as published.
        urls: https addresses of the same bytes, the first tried first; empty where it has to be fetched by hand.
        md5: digest by which its publishers, or torchvision, know it; proof against damage, not against malice.
        into: folder that its contents go into, inside the set's own.
        optional: whether the set is of use without it.
    """

    file: str
    urls: tuple[str, ...] = ()
    md5: str | None = None
    into: str = "."
    optional: bool = False


@dataclass(frozen=True)
class Facts:
    """What a person should know of a set before using it.

    Args:
        title: its name in words.
        source: the paper: authors, title, year.
        page: where it is published.
        license: under what terms.
        layout: the files that are looked for, one line each.
        counts: split -> pairs, as published.
        login: whether the page gives the files to people with an account only.
        inside: folders that the set lies in where an archive was unpacked, such as "VOCdevkit/VOC2012".
        folders: names that its folder has among other sets; `fetch` makes the first.
        needs: names of other sets without which it is not whole.
        notes: what is odd about it, one sentence each.
        archives: the files that it is published as.
    """

    title: str
    source: str
    page: str
    license: str
    layout: str
    counts: dict[str, int] = field(default_factory=dict, hash=False)
    login: bool = False
    inside: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    archives: tuple[dict[str, Any], ...] = field(default=(), hash=False)


@dataclass(frozen=True)
class PublicSet:
    """Know one public set. It holds plain values only.

    Args:
        name: the name by which the set is asked for.
        labels: for each head its classes and what the values that `reader` gives mean; most sets have one head, "main".
    """

    name: str
    labels: dict[str, Labels] = field(hash=False)

    described: ClassVar[str] = ""
    """The entry in facts.toml, where that is not the name; what differs stands under the name of the set."""

    @property
    def entry(self) -> str:
        """What all sets of the same files are described by."""
        return self.described or self.name

    @property
    def facts(self) -> Facts:
        """What a person should know of it."""
        said = entries()[self.entry] | entries().get(self.name, {})
        return Facts(**filled({key: value for key, value in said.items() if key != "trees"}, **vars(self)))

    @property
    def archives(self) -> tuple[Archive, ...]:
        """The files that the set is published as; together they make it up."""
        return tuple(Archive(**entry) for entry in self.facts.archives)

    def is_set(self, root: Path) -> bool:
        """Tell whether a folder is the set itself, by what tells its files from those of any other.

        Options that the files cannot tell, such as which of them are read, do not count.
        """
        raise NotImplementedError

    def find_splits(self, root: Path) -> dict[str, list[Pair]]:
        """Pair the images and masks of every split that is there.

        Raises:
            FileNotFoundError: if a part of the set is missing; the message says which.
            DatasetError: if a list names files that are not there.
        """
        raise NotImplementedError

    def reader(self, root: Path) -> FileReader:
        """Give what reads the files."""
        return FileReader()

    def fewer(self, splits: Mapping[str, Sequence[Pair]]) -> list[str]:
        """Say where a split is not as large as it was published."""
        return [
            f"{split}: {len(splits[split])} pairs, {count} were published"
            for split, count in self.facts.counts.items()
            if split in splits and len(splits[split]) != count
        ]


@dataclass(frozen=True, kw_only=True)
class RenumberingReader(FileReader):
    """Read masks whose numbers stand for others.

    Args:
        table: value in the file -> the other number, below 0 where the value is none of the set.
        ending: of the names of the files that are meant; others are read as they are.
    """

    table: tuple[int, ...] = ()
    ending: str = ""

    def mask(self, pair: Pair) -> npt.NDArray[Any]:
        """Read the mask as (H, W) integers: the other numbers.

        Raises:
            DatasetError: if it holds a value that is none of the set.
        """
        values = super().mask(pair)
        if not pair.mask.name.endswith(self.ending):
            return values
        found = np.array([*self.table, -1])[np.clip(values, -1, len(self.table))]
        if (found < 0).any():
            raise DatasetError(
                f"{pair.mask}: holds the value {values[found < 0][0]}, which is none of the set; replace it"
            )
        return np.asarray(found, np.uint8)


@functools.cache
def entries() -> dict[str, dict[str, Any]]:
    """Read what is known of all sets, by name."""
    return tomllib.loads(Path(__file__).with_name("facts.toml").read_text(encoding="utf-8"))


def filled(value: Any, **words: Any) -> Any:
    """Put the options of a set where its description names them, if there are any; lists become tuples."""
    if isinstance(value, dict):
        return {key: filled(entry, **words) for key, entry in value.items()}
    if isinstance(value, list):
        return tuple(filled(entry, **words) for entry in value)
    return value.format(**words) if words and isinstance(value, str) else value


def read_names(path: Path) -> list[str]:
    """Read a list: the first word of every line that is not empty and no comment.

    Args:
        path: the file.

    Returns:
        The names, each once, in the order of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if it is no text, empty, or a name leads out of the folder.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it lists the images of a split, one name a line")
    lines = read_text(path).splitlines()
    words = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    names = ["/".join(safe_parts(word, str(path), "replace the list")) for word in words]
    if not names:
        raise DatasetError(f"{path}: empty; replace it by the published list")
    return list(dict.fromkeys(names))


def pairs_of(listing: Path, root: Path, image: str, mask: str, names: Iterable[str] | None = None) -> list[Pair]:
    """Make a pair of every name of a list.

    Args:
        listing: the list.
        root: what image and mask are relative to.
        image: path of an image, with {} for its name.
        mask: path of a mask, with {} for its name.
        names: the names, where they are not simply those of the list.

    Returns:
        The pairs, in the order of the names.

    Raises:
        DatasetError: if a file is missing; it tells how many are, and the first.
    """
    listed = read_names(listing) if names is None else names
    pairs = [Pair(root / image.replace("{}", name), root / mask.replace("{}", name), name) for name in listed]
    gone = [path for pair in pairs for path in (pair.image, pair.mask) if not path.is_file()]
    if gone:
        what = f"names {len(pairs)} images, and {len(gone)} files of them are not there ({some(gone, 1)})"
        raise DatasetError(f"{listing}: {what}; unpack the set again, or correct the list")
    return pairs


def exclude(pairs: Sequence[Pair], others: Iterable[Pair]) -> list[Pair]:
    """Leave out the pairs whose name is among those of others."""
    names = {pair.key for pair in others}
    return [pair for pair in pairs if pair.key not in names]
