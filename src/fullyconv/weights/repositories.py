"""Files of repositories of the Hugging Face Hub, in the cache of the hub's own client.

The client makes paths of what a server says in its headers, and writes what comes until it ends. It is therefore asked
for the headers alone, and these are checked before anything is written; the bytes are fetched here, no more of them
than were announced, and lie where the client itself would have put them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fullyconv import download as downloads
from fullyconv.errors import DownloadError, WeightsError, first_line, some, tell
from fullyconv.files import Digest, digest, replacing, write
from fullyconv.weights.lock import COMMIT, DIGEST

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata


class Unreachable(DownloadError):
    """The hub gave no answer, or none that says anything; the message ends a sentence that names the file."""


@dataclass(frozen=True)
class File:
    """A file of a repository.

    Args:
        repo: "org/repo".
        name: path inside the repository.
        what: its address, for messages.
    """

    repo: str
    name: str
    what: str

    @property
    def folder(self) -> Path:
        """Where the client keeps the repository."""
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE) / f"models--{self.repo.replace('/', '--')}"

    def at(self, commit: str) -> Path:
        """Give the place of the file at a commit."""
        return self.folder / "snapshots" / commit / self.name


@dataclass(frozen=True)
class Kept:
    """A file of a repository on this machine.

    Args:
        path: where it is.
        commit: of which commit, 40 hexadecimal digits.
        digest: its size and sha256.
        fault: how its bytes differ from those that were promised; empty where they do not.
    """

    path: Path
    commit: str
    digest: Digest
    fault: str = ""


@dataclass(frozen=True)
class Promise:
    """What the hub says of a file at a revision.

    Args:
        commit: 40 hexadecimal digits.
        digest: sha256 (64 hexadecimal digits) or git's sha1 (40) of the bytes; the client names its blobs by it.
        bytes: size.
        location: address of the bytes.
    """

    commit: str
    digest: str
    bytes: int
    location: str


def endpoint() -> str | None:
    """Give the hub to talk to, as HF_ENDPOINT says; None is the client's own default."""
    return os.environ.get("HF_ENDPOINT") or None


def offline() -> bool:
    """Tell whether HF_HUB_OFFLINE forbids to ask anybody."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def kept(file: File, revision: str | None, sha256: str | None) -> Kept | None:
    """Find a file in the cache.

    Args:
        file: which.
        revision: branch, tag or commit; None is main.
        sha256: the known digest, if there is one.
    """
    commit = revision or "main"
    if not COMMIT.fullmatch(commit):
        try:
            commit = (file.folder / "refs" / commit).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
    path = file.at(commit)
    if not COMMIT.fullmatch(commit) or not path.is_file():
        return None
    found, blob = digest(path), path.resolve().name
    # the client names its blobs by their digests
    named = blob if DIGEST.fullmatch(blob) or COMMIT.fullmatch(blob) else None
    return Kept(path, commit, found, _wrong(path, found, sha256, named))


def fetch(file: File, revision: str | None, sha256: str | None) -> Kept:
    """Bring a file of the hub to its place in the cache, if its bytes are not there already, and verify it.

    Args:
        file: which.
        revision: branch, tag or commit; None is main.
        sha256: the known digest, if there is one.

    Raises:
        WeightsError: if the hub lies, or the bytes are not those that were promised.
        DownloadError: if they could not be fetched; `Unreachable` if the hub gives no answer.
        OSError: if they cannot be written.
    """
    promise = _promised(file, revision)
    blob = file.folder / "blobs" / promise.digest
    found = digest(blob) if blob.is_file() else None
    if found is None or _wrong(blob, found, sha256, promise.digest):
        found = _downloaded(file, blob, promise, sha256)
    place = file.at(promise.commit)
    _link(blob, place)
    if promise.commit != revision:
        write(file.folder / "refs" / (revision or "main"), promise.commit)
    return Kept(place, promise.commit, found)


def _promised(file: File, revision: str | None) -> Promise:
    """Ask the hub what it has, and hold it to its word. Nothing is written."""
    for _ in range(2):  # what stood between here and the hub once may be gone
        said = _metadata(file, revision)
        commit, promised = said.commit_hash or "", said.etag or ""
        if not COMMIT.fullmatch(commit) or (revision and COMMIT.fullmatch(revision) and commit != revision):
            fault = f"commit {commit[:60]!r}, asked for {revision or 'main'}"
        elif not (DIGEST.fullmatch(promised) or COMMIT.fullmatch(promised)):
            fault = f"ETag {promised[:60]!r}, which is no digest"
        elif said.size is None or not 0 <= said.size <= downloads.MAX_BYTES:
            fault = f"size {said.size}, of at most {downloads.MAX_BYTES} bytes"
        else:
            # of a file in the hub's own kind of storage (Xet), the address in the answer is not that of its bytes
            location = said.location if said.xet_file_data is None else _address(file, commit)
            return Promise(commit, promised, said.size, location)
    raise WeightsError(f"{file.what}: the hub names {fault}; nothing of it is taken. Is it a hub? Check HF_ENDPOINT")


def _address(file: File, revision: str | None) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(file.repo, file.name, revision=revision, endpoint=endpoint())


def _metadata(file: File, revision: str | None) -> HfFileMetadata:
    from huggingface_hub import constants, get_hf_file_metadata
    from huggingface_hub import errors as hub

    if offline():
        raise Unreachable("HF_HUB_OFFLINE forbids to ask for it")
    what = file.what
    refusals = {
        hub.GatedRepoError: "the repository asks for consent: accept its terms on its page, then log in (hf auth "
        "login) or set HF_TOKEN",
        hub.RepositoryNotFoundError: "no such repository on the hub, or a private one: check the name, and log in (hf "
        "auth login) or set HF_TOKEN if it is private",
        hub.RevisionNotFoundError: f"the repository has no revision {revision!r}",
        hub.RemoteEntryNotFoundError: "the repository has no such file",
    }
    try:
        return get_hf_file_metadata(
            _address(file, revision),
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
            library_name="fullyconv",
            endpoint=endpoint(),
        )
    except tuple(refusals) as error:
        reason = next(words for kind, words in refusals.items() if isinstance(error, kind))
        others = _others(file.repo, revision) if isinstance(error, hub.RemoteEntryNotFoundError) else ""
        raise DownloadError(f"{what}: {reason}{others}") from error
    except hub.HFValidationError as error:
        raise ValueError(f"source={what!r}: {first_line(error)}") from error
    except Exception as error:
        # Those of the client's transport, which is another library from release to release, among them.
        if isinstance(error, hub.HfHubHTTPError) and error.response.status_code in (400, 401, 403):
            raise DownloadError(f"{what}: the hub refuses: {first_line(error)}") from error
        raise Unreachable(
            "the hub could not be reached or gave no answer; try again with a network "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error


def _downloaded(file: File, blob: Path, promise: Promise, sha256: str | None) -> Digest:
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    hub = urlsplit(_address(file, promise.commit))
    headers: dict[str, Any] = build_hf_headers(library_name="fullyconv")
    if urlsplit(promise.location).netloc != hub.netloc:
        headers.pop("authorization", None)  # the store of large files is another's machine

    def fault(part: Path, found: Digest) -> str:
        short = f"{found.bytes} bytes came, {promise.bytes} were announced" if found.bytes != promise.bytes else ""
        return _wrong(part, found, sha256, promise.digest) or short

    tell(f"fetching {file.what}")
    try:
        return downloads.download(
            promise.location,
            blob,
            fault=fault,
            max_bytes=promise.bytes,
            # who told the digest over https vouches for what comes over http
            plain_http=hub.scheme == "http" or len(promise.digest) == 64,
            headers=headers,
            timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        )
    except (DownloadError, WeightsError) as error:
        raise type(error)(f"{file.what}: {error}") from error
    except ValueError as error:
        raise WeightsError(f"{file.what}: the hub gives an address that is none: {error}") from error


def _wrong(path: Path, found: Digest, *promised: str | None) -> str:
    """Say how the bytes of a file differ from those that were promised; nothing where they do not."""
    for expected in filter(None, promised):
        whole = len(expected) == 64
        kind, actual = ("sha256", found.sha256) if whole else ("git's sha1", _git_sha1(path, found.bytes))
        if actual != expected:
            return f"{kind} {actual} ({found.bytes} bytes), expected {kind} {expected}"
    return ""


def _git_sha1(path: Path, size: int) -> str:
    value = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(downloads.CHUNK):
            value.update(block)
    return value.hexdigest()


def _link(blob: Path, place: Path) -> None:
    """Let the file of a commit be a link to its bytes, as the client does; a copy where there are no links."""
    target = os.path.relpath(blob, place.parent)
    if place.is_symlink() and str(place.readlink()) == target:
        return
    with replacing(place) as part:
        try:
            part.symlink_to(target)
        except OSError:
            shutil.copyfile(blob, part)


def _others(repo: str, revision: str | None) -> str:
    from huggingface_hub import HfApi

    try:
        listing = HfApi(endpoint=endpoint()).list_repo_files(repo, revision=revision)
    except Exception:  # a hint, and no more
        return ""
    plain = sorted(name for name in listing if not unsafe(name))
    return f"; it has {some(plain, 12)}" if plain else "; it is empty"


def unsafe(name: str) -> bool:
    """Tell whether a file name of a repository could leave its folder, or holds what no file name should."""
    return (
        any(part in ("", ".", "..") for part in name.split("/"))
        or not name.isprintable()
        or any(sign in name for sign in '\\:*?"<>|')
    )
