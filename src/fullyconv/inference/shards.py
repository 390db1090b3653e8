"""A part of many files for each of several processes, by their names alone, so that nobody has to share them out."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """One of n parts.

    Args:
        number: which, from 1 on.
        of: how many there are.

    Example:
        >>> shard = Shard.parse("3/16")
        >>> str(shard), shard.takes("photos/a.jpg")
        ('3-of-16', False)
        >>> sum(Shard(number, 16).takes("photos/a.jpg") for number in range(1, 17))
        1
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "3/16".

        Raises:
            ValueError: if it is no part.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"shard={text!r}: write which part and of how many, from 1/16 to 16/16")
        return cls(int(found[1]), int(found[2]))

    def takes(self, name: str) -> bool:
        """Tell whether a file belongs to this part: whatever else there is, it belongs to the same one.

        Args:
            name: the same for all processes, such as its path inside of a folder.
        """
        digest = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.of == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}-of-{self.of}"
