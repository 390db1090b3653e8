"""Repositories of the Hugging Face Hub: files fetched into the cache of its own client, model folders uploaded.

The client makes paths of what a server says in its headers, and writes what comes until it ends. It is therefore asked
for the headers alone, and these are checked before anything is written; the bytes are fetched here, no more of them
than were announced, and lie where the client itself would have put them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fullyconv import download as downloads
from fullyconv.errors import DownloadError, WeightsError, first_line, some, tell
from fullyconv.files import Digest, aside, digest, replacing, write
from fullyconv.weights import pretrained
from fullyconv.weights.lock import COMMIT, DIGEST
from fullyconv.weights.pretrained import Dtype

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)

PUBLISHED = (pretrained.WEIGHTS, pretrained.CONFIG, pretrained.CARD)
"""The files of a model folder that are uploaded; whatever else lies in the folder stays at home."""


class Unreachable(DownloadError):
    """The hub gave no answer, or none that says anything; the message ends a sentence that names the file."""


@dataclass(frozen=True)
class Fetched:
    """A verified file on this machine.

    Args:
        path: where it is.
        digest: its size and sha256.
        origin: where it came from, with the commit: what a load report or a card says of it.
        commit: of the hub, 40 hexadecimal digits.
    """

    path: Path
    digest: Digest
    origin: str
    commit: str | None = None


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

    def fetched(self, commit: str, held: Digest) -> Fetched:
        """Give the file at a commit, which lies in its place."""
        return Fetched(self.at(commit), held, f"hf://{self.repo}@{commit}/{self.name}", commit)


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


def _kept(file: File, revision: str | None, sha256: str | None) -> tuple[Fetched | None, str]:
    """Find a file in the cache, and say how its bytes differ from those that were promised."""
    commit = revision or "main"
    if not COMMIT.fullmatch(commit):
        try:
            commit = (file.folder / "refs" / commit).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None, ""
    path = file.at(commit)
    if not COMMIT.fullmatch(commit) or not path.is_file():
        return None, ""
    held, blob = digest(path), path.resolve().name
    # the client names its blobs by their digests
    named = blob if DIGEST.fullmatch(blob) or COMMIT.fullmatch(blob) else None
    return file.fetched(commit, held), _wrong(path, held, sha256, named)


def fetch(file: File, revision: str | None, sha256: str | None) -> Fetched:
    """Give a file of the hub at its place in the cache, verified.

    The hub is asked unless the cache holds the bytes of a known digest. Where it gives no answer, what the cache holds
    will do, if nothing is wrong with it.

    Args:
        file: which.
        revision: branch, tag or commit; None is main.
        sha256: the known digest, if there is one.

    Raises:
        WeightsError: if the hub lies, or the bytes are not those that were promised.
        DownloadError: if they could not be fetched or written.
    """
    kept, fault = _kept(file, revision, sha256)
    if kept is not None and not fault and sha256 is not None:
        return kept
    with in_cache("HF_HUB_CACHE or HF_HOME"):
        try:
            promise = _promised(file, revision)
        except Unreachable as error:
            if kept is None:
                raise DownloadError(f"{file.what}: is not in the cache, and {error}") from error
            if fault:
                raise WeightsError(f"{file.what}: {fault}; it could not be fetched afresh: {error}") from error
            return kept
        blob = file.folder / "blobs" / promise.digest
        held = digest(blob) if blob.is_file() else None
        if held is None or _wrong(blob, held, sha256, promise.digest):
            held = _downloaded(file, blob, promise, sha256)
        _link(blob, file.at(promise.commit))
        if promise.commit != revision:
            write(file.folder / "refs" / (revision or "main"), promise.commit)
        return file.fetched(promise.commit, held)


@contextmanager
def in_cache(settings: str) -> Iterator[None]:
    """Let an error of the disk say which settings move the cache."""
    try:
        yield
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"{error.filename or 'the cache'}: cannot be written ({error.strerror or error}); what is fetched is kept "
            f"there. Make it writable or make room there, or name another folder in {settings}"
        ) from error


def _promised(file: File, revision: str | None) -> Promise:
    """Ask the hub what it has, and hold it to its word. Nothing is written."""
    for _ in range(2):  # what stood between here and the hub once may be gone
        headers = _metadata(file, revision)
        commit, etag = headers.commit_hash or "", headers.etag or ""
        if not COMMIT.fullmatch(commit) or (revision and COMMIT.fullmatch(revision) and commit != revision):
            fault = f"commit {commit[:60]!r}, asked for {revision or 'main'}"
        elif not (DIGEST.fullmatch(etag) or COMMIT.fullmatch(etag)):
            fault = f"ETag {etag[:60]!r}, which is no digest"
        elif headers.size is None or not 0 <= headers.size <= downloads.MAX_BYTES:
            fault = f"size {headers.size}, of at most {downloads.MAX_BYTES} bytes"
        else:
            # of a file in the hub's own kind of storage (Xet), the address in the answer is not that of its bytes
            location = headers.location if headers.xet_file_data is None else _address(file, commit)
            return Promise(commit, etag, headers.size, location)
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

    def fault(part: Path, held: Digest) -> str:
        short = f"{held.bytes} bytes came, {promise.bytes} were announced" if held.bytes != promise.bytes else ""
        return _wrong(part, held, sha256, promise.digest) or short

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


def _wrong(path: Path, held: Digest, *promised: str | None) -> str:
    """Say how the bytes of a file differ from those that were promised; nothing where they do not."""
    for expected in filter(None, promised):
        whole = len(expected) == 64
        kind, actual = ("sha256", held.sha256) if whole else ("git's sha1", _git_sha1(path, held.bytes))
        if actual != expected:
            return f"{kind} {actual} ({held.bytes} bytes), expected {kind} {expected}"
    return ""


def _git_sha1(path: Path, size: int) -> str:
    start = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: start).hexdigest()


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


class Uploads:
    """Give a class that has `save_pretrained` the method ``push_to_hub``."""

    if TYPE_CHECKING:

        def save_pretrained(self, folder: str | Path, dtype: Dtype = "float32", *, license: str | None = None) -> Path:
            """Write the model folder."""

    def push_to_hub(
        self,
        repo: str,
        *,
        license: str | None = None,
        dtype: Dtype = "float32",
        private: bool = False,
        token: str | None = None,
    ) -> str:
        """Upload the weights as they are now to the Hugging Face Hub, as a model folder with its card.

        The card bears the score that came with the weights; `fullyconv.publish` measures them first.

        Args:
            repo: "org/name"; it is made if it is not there.
            license: of the weights; None takes the one that they were loaded with.
            dtype: of the stored weights.
            private: whether a repository that is made is private.
            token: of the hub; None takes the one of ``hf auth login`` or HF_TOKEN.

        Returns:
            The address that loads what was uploaded, ``hf://ORG/NAME@COMMIT``.

        Raises:
            ValueError: if repo is no id, or no license is stated.
            DownloadError: if the hub refuses or cannot be reached; nothing is uploaded by halves.
        """
        check_repo(repo)
        with aside(tempfile.gettempdir()) as name:
            folder = self.save_pretrained(name / "model", dtype, license=license)
            return upload(folder, repo, private=private, token=token)


def check_repo(repo: str) -> None:
    """Check the name of a repository.

    Raises:
        ValueError: if it is none.
    """
    if not REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise ValueError(f"repo={repo!r}: write ORG/NAME, of letters, digits, '-', '_' and '.'")


def upload(folder: Path, repo: str, *, private: bool = False, token: str | None = None, notes: str = "") -> str:
    """Upload a model folder; its card is written anew, for the name that it gets.

    Args:
        folder: the model folder; its card is replaced.
        repo: "org/name".
        private: whether a repository that is made is private.
        token: of the hub; None takes the one that it knows.
        notes: what the card says beside what the configuration holds.

    Returns:
        The address that loads it, ``hf://ORG/NAME@COMMIT``.

    Raises:
        ValueError: if no license is stated.
        DownloadError: if the hub refuses or cannot be reached.
    """
    config = pretrained.read_config(folder)
    if config.license in ("", "unstated"):
        raise ValueError(
            "license: nobody states the license of these weights; pass license='...' (--license). The license of "
            "the data they were trained on binds you, not that of fullyconv's code"
        )
    (folder / pretrained.CARD).write_text(pretrained.card(config, repo, notes), encoding="utf-8")
    if not config.score:
        tell(
            f"{repo}: nobody measured these weights, and the card says so; fullyconv.publish(FOLDER, REPO, data=...) "
            "(--data) measures them"
        )
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint(), token=token, library_name="fullyconv")
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=list(PUBLISHED),
            commit_message=f"Upload {config.kind} with fullyconv",
        )
    except Exception as error:  # the client's own, its transport's, or OSError: which one differs between releases
        raise DownloadError(
            f"{repo}: the hub did not take it ({type(error).__name__}: {first_line(error)}); check "
            "network and name, and log in with a token that may write (hf auth login, or HF_TOKEN)"
        ) from error
    oid = str(getattr(commit, "oid", "") or "")
    return f"hf://{repo}@{oid if COMMIT.fullmatch(oid) else 'main'}"
