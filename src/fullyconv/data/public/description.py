"""What is known of a public data set: where it comes from, how it is laid out, what its files hold."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fullyconv.data.masks import MaskReader
from fullyconv.data.pairs import Pair
from fullyconv.data.readers import FileReader, Reader
from fullyconv.errors import DatasetError
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
        return Facts(**_filled({key: value for key, value in said.items() if key != "trees"}, vars(self)))

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

    def reader(self, root: Path) -> Reader:
        """Give what reads the files."""
        return FileReader()

    def fewer(self, splits: Mapping[str, Sequence[Pair]]) -> list[str]:
        """Say where a split is not as large as it was published."""
        return [
            f"{split}: {len(splits[split])} pairs, {count} were published"
            for split, count in self.facts.counts.items()
            if split in splits and len(splits[split]) != count
        ]


@dataclass(frozen=True)
class RenumberingReader(MaskReader):
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


def _filled(value: Any, words: Mapping[str, Any]) -> Any:
    """Put the options of a set where its description names them; lists become tuples."""
    if isinstance(value, dict):
        return {key: _filled(entry, words) for key, entry in value.items()}
    if isinstance(value, list):
        return tuple(_filled(entry, words) for entry in value)
    return value.format(**words) if isinstance(value, str) else value
