"""What a file is, by its first bytes: the page of a server, the pointer of git-lfs and the like lie in its place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from fullyconv.errors import WeightsError

Kind = Literal["safetensors", "archive", "legacy", "page", "pointer", "unknown"]

LEGACY = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the number that torch.save began with before it wrote zip archives

POINTERS = {
    b"version https://git-lfs": "a git-lfs pointer",
    b"version https://hawser": "a git-lfs pointer",
    b"# xet version": "a git-xet pointer",
    b"/annex/objects/": "a git-annex pointer",
}

REMEDIES: dict[Kind, str] = {
    "safetensors": "rename it to .safetensors",
    "archive": "rename it to .pth",
    "legacy": "rename it to .pth",
    "page": "a server gave it in place of the file, which may ask for a login or for consent: open the address in a "
    "browser, and fetch the file itself",
    "pointer": "the file itself lies elsewhere: run 'git lfs pull' in the repository, or fetch the file itself",
    "unknown": "fetch it again from where it is published, as the file itself, unpacked",
}


def kind_of(path: Path) -> tuple[Kind, str]:
    """Tell what a file is: the kind, and in words; no words for what only its reader can tell."""
    with path.open("rb") as file:
        head = file.read(512)
    size = path.stat().st_size
    if not head:
        return "unknown", "empty"
    if head.startswith(b"PK\x03\x04"):
        return "archive", "a zip archive, as torch.save writes"
    if head[:1] == b"\x80" and head[2:].startswith(LEGACY):
        return "legacy", "a file of torch.save (a pickle)"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and len(head) > 1:
        return "unknown", "a pickle that torch.save did not write"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        return "safetensors", "" if path.suffix.lower() == ".safetensors" else "a safetensors file"
    for magic, words in POINTERS.items():
        if head.startswith(magic):
            return "pointer", f"{words} in place of the file"
    start = _text(head).lstrip("\ufeff \t\r\n").lower()
    if re.match(r"<[!?a-z]", start):
        html = any(f"<{tag}" in start for tag in ("!doctype html", "html", "head", "body", "script", "title"))
        return "page", "an HTML page" if html else "a page of XML or HTML"
    return "unknown", ""


def _text(head: bytes) -> str:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return head.decode("utf-16", errors="replace")
    return head.decode("utf-8", errors="replace")


def refuse_stray(path: Path, wanted: str) -> None:
    """Refuse what the network or git leaves in the place of a file of any kind.

    Args:
        path: the file.
        wanted: what it should be, for the message.

    Raises:
        WeightsError: if it is a page or a pointer; the message says which, and what to do.
    """
    kind, words = kind_of(path)
    if kind in ("page", "pointer"):
        raise WeightsError(f"{path}: is {words}, no {wanted}; {REMEDIES[kind]}")
