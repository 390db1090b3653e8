"""Bytes from anywhere, verified: bounded in size and time, resumed where the connection broke, never half in place.

This is for plain addresses. What lies on the Hugging Face Hub comes through its own client, and its digest is checked
by the same `digest` here, because the client does not check it.
"""

from __future__ import annotations

import errno
import http.client
import ipaddress
import socket
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from fullyconv.errors import DownloadError, WeightsError
from fullyconv.files import Digest, digest, replacing

MAX_BYTES = 16 * 2**30
TIMEOUT = 20.0  # seconds without a byte
ATTEMPTS = 5  # connections in a row that bring nothing new
PAUSE = 1.0  # seconds before the first further attempt; doubled at each
CHUNK = 2**20
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)  # errors of the disk, not of the network

_WATCHER: ContextVar[Callable[[int, int | None], None] | None] = ContextVar("watcher", default=None)


def check_url(url: str, *, plain_http: bool = False) -> None:
    """Refuse an address that is not https; http is for this machine alone, unless a digest vouches for the bytes.

    Args:
        url: the address.
        plain_http: whether http to other machines is admitted.

    Raises:
        ValueError: if the address is of another scheme, has no host, or carries a password.
    """
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError("the address carries a user name or password, which would stand in logs; leave it out")
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError(f"{url!r}: is no https address")
    if parts.scheme == "http" and not plain_http and not _is_loopback(parts.hostname):
        raise ValueError(
            f"{url!r}: http can be changed on its way; use https, or append #sha256=DIGEST, which proves the bytes"
        )


def download(
    url: str,
    target: str | Path,
    *,
    sha256: str | None = None,
    fault: Callable[[Path, Digest], str] | None = None,
    max_bytes: int = MAX_BYTES,
    plain_http: bool = False,
    headers: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> Digest:
    """Fetch a file. It appears at its place only when it is whole and right; otherwise nothing of it stays.

    A connection that breaks or stalls is taken up again where it broke, if the server can do that. Bytes that are not
    the right ones, or too many, are fetched once more from the start.

    Args:
        url: https address; http only on this machine, unless sha256 is given or ``plain_http``.
        target: where the file goes; its folder is made.
        sha256: the digest, or the first digits of it (8 at least).
        fault: says what is wrong with a file of that size and digest, where more than sha256 tells; "" if nothing.
        max_bytes: largest size admitted.
        plain_http: admit http to other machines.
        headers: of the request; no other machine that it is redirected to sees them.
        timeout: seconds without a byte, after which the connection counts as broken; None takes `TIMEOUT`.

    Returns:
        Size and digest of what was fetched.

    Raises:
        DownloadError: if it could not be fetched.
        OSError: if it cannot be written.
        WeightsError: if the bytes are not those of the digest, or too many.
        ValueError: if the address or the digest is none.
    """
    if sha256 is not None and (not 8 <= len(sha256) <= 64 or set(sha256) - set("0123456789abcdef")):
        raise ValueError(f"sha256={sha256!r}: give 64 hexadecimal digits in lower case, or the first 8 at least")
    check_url(url, plain_http=plain_http or sha256 is not None)
    with replacing(target, lasting=True) as part, part.open("x+b") as file:
        for attempt in (1, 2):
            try:
                known = sha256 is not None or fault is not None
                _fetch(url, headers or {}, file, max_bytes, timeout or TIMEOUT, resume=known and attempt == 1)
                file.flush()
                found = digest(part)
                wrong = fault(part, found) if fault is not None else ""
                if sha256 is not None and not found.sha256.startswith(sha256):
                    wrong = f"sha256 {found.sha256} ({found.bytes} bytes), expected {sha256}"
            except WeightsError as error:
                wrong = str(error)
            if not wrong:
                return found
        raise WeightsError(
            f"{url}: {wrong}; fetched twice with the same result, nothing was kept. The file was exchanged or is "
            "damaged at its source: do not use it"
        )


@contextmanager
def watched(watcher: Callable[[int, int | None], None]) -> Iterator[None]:
    """Tell of every download inside the block how far it is.

    Args:
        watcher: is called with the bytes that are there and those announced, None where the server does not say.
    """
    token = _WATCHER.set(watcher)
    try:
        yield
    finally:
        _WATCHER.reset(token)


def _fetch(
    url: str, headers: Mapping[str, str], file: IO[bytes], max_bytes: int, timeout: float, *, resume: bool
) -> None:
    """Fill an open file with what the address gives, over as many connections as it takes.

    Without a strong ETag a second half could belong to another file; ``resume`` admits it all the same, where a digest
    will tell.
    """
    have, validator, total, failures = 0, "", None, 0
    opener = urllib.request.build_opener(_SafeRedirects)
    while True:
        before = have
        try:
            with opener.open(_request(url, headers, have, validator), timeout=timeout) as response:
                if response.status != 206:
                    have = before = 0
                    validator, total = _validator(response), _length(response)
                elif not _continues(response, have):
                    raise http.client.HTTPException("the server sent another range than was asked for")
                if total is not None and total > max_bytes:
                    raise WeightsError(f"announces {total} bytes; at most {max_bytes} are read")
                file.seek(have)
                file.truncate()
                for block in _blocks(response):
                    have += len(block)
                    if have > max_bytes:
                        raise WeightsError(f"sends more than {max_bytes} bytes")
                    file.write(block)
                    if (watcher := _WATCHER.get()) is not None:
                        watcher(have, total)
            if total is None or have == total:
                return
            problem: Exception = http.client.HTTPException(f"{have} bytes came, {total} were announced")
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 and error.code != 429:
                raise DownloadError(
                    f"{url}: the server answers {error.code} {error.reason}; check the address"
                ) from error
            problem = error
        except (OSError, http.client.HTTPException, zlib.error) as error:
            if getattr(error, "errno", None) in DISK:
                raise
            if isinstance(reason := getattr(error, "reason", error), socket.gaierror):
                raise DownloadError(f"{url}: no network, or no such host ({reason})") from error
            problem = error
        goes_on = bool(validator) or resume
        failures = 1 if have > before and goes_on else failures + 1
        if not goes_on:
            have = 0
        if failures >= ATTEMPTS:
            raise DownloadError(
                f"{url}: gave up after {ATTEMPTS} attempts in a row without progress ({problem}); nothing was kept, "
                "try again later"
            ) from problem
        time.sleep(PAUSE * 2 ** (failures - 1))


def _request(url: str, headers: Mapping[str, str], have: int, validator: str) -> urllib.request.Request:
    """Ask for a file, or for what follows the bytes that are there."""
    request = urllib.request.Request(url, headers={"User-Agent": "fullyconv", "Accept-Encoding": "identity"})
    for name, value in headers.items():
        request.add_unredirected_header(name, value)
    if have:
        request.add_header("Range", f"bytes={have}-")
    if have and validator:
        # What was changed in between then comes whole, and not as a second half that does not fit the first.
        request.add_header("If-Range", validator)
    return request


def _blocks(response: Any) -> Iterator[bytes]:
    """Give the bytes as they come, unpacked by and by where the server packs what nobody asked it to."""
    unpacking = zlib.decompressobj(wbits=31) if _is_packed(response) else None
    # read1 gives what is there; read would wait for a whole block, and lose it when the connection breaks
    while block := response.read1(CHUNK):
        while unpacking is not None and block:
            yield unpacking.decompress(block, CHUNK)
            block = unpacking.unconsumed_tail
        if unpacking is None:
            yield block
    if unpacking is not None and not unpacking.eof:
        raise http.client.IncompleteRead(b"")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects, but never from https to http."""

    max_redirections = 5

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
            raise DownloadError(
                f"{req.full_url}: redirects from https to {newurl!r}, which anybody on the way can change"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_packed(response: Any) -> bool:
    return str(response.headers.get("Content-Encoding", "")).strip().lower() in ("gzip", "x-gzip")


def _validator(response: Any) -> str:
    """Give what proves that a later answer is of the same file: a strong ETag."""
    tag = response.headers.get("ETag", "")
    return "" if tag.startswith("W/") or not tag or _is_packed(response) else str(tag)


def _length(response: Any) -> int | None:
    if _is_packed(response):
        return None  # of the packed bytes
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _continues(response: Any, have: int) -> bool:
    return str(response.headers.get("Content-Range", "")).strip().startswith(f"bytes {have}-")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
