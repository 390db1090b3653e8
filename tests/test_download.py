from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from fullyconv import download as downloads
from fullyconv.download import check_url, digest, download
from fullyconv.errors import DownloadError, WeightsError
from hub_server import FileServer, Reply, Request
from limits import largest_file

BYTES = np.random.default_rng(0).integers(0, 256, 300_000).astype(np.uint8).tobytes()
SHA = hashlib.sha256(BYTES).hexdigest()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    monkeypatch.setattr(downloads, "TIMEOUT", 0.5)


@pytest.fixture
def server(files_server: FileServer) -> FileServer:
    files_server.files["weights.bin"] = BYTES
    return files_server


def nothing_left(folder: Path) -> bool:
    return list(folder.iterdir()) == []


def test_a_file_arrives_whole(server: FileServer, tmp_path: Path) -> None:
    found = download(server.url("weights.bin"), tmp_path / "deep" / "w.bin", sha256=SHA)
    assert (found.sha256, found.bytes) == (SHA, len(BYTES))
    assert (tmp_path / "deep" / "w.bin").read_bytes() == BYTES
    assert digest(tmp_path / "deep" / "w.bin") == found
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["w.bin"]


@pytest.mark.parametrize("kind", ["cut", "reset", "stall"])
@pytest.mark.parametrize("known", [True, False])
def test_a_broken_connection_is_taken_up_again(server: FileServer, tmp_path: Path, kind: str, known: bool) -> None:
    server.fault("weights.bin", kind, times=2)
    assert download(server.url("weights.bin"), tmp_path / "w", sha256=SHA if known else None).sha256 == SHA
    resumed = [request for request in server.requests if "range" in request.headers]
    # without a digest or a strong ETag two halves may belong to two files: then it starts from zero
    assert bool(resumed) == known


class Exchanged(FileServer):
    """A file that becomes another one after the first request; a server that knows If-Range.

    Args:
        weak: whether its ETag vouches for the meaning alone, not for the bytes.
    """

    NEW = BYTES[::-1]

    def __init__(self, weak: bool) -> None:
        super().__init__()
        self.weak = weak

    def answer(self, request: Request, raw: str) -> Reply:
        data = BYTES if len(self.requests) == 1 else self.NEW
        tag = ("W/" if self.weak else "") + f'"{hashlib.sha256(data).hexdigest()}"'
        return Reply(200, {"ETag": tag}, data, content=request.headers.get("if-range") in (None, tag))


@pytest.mark.parametrize("weak", [False, True])
def test_halves_of_two_files_are_never_joined(tmp_path: Path, loopback: None, weak: bool) -> None:
    with Exchanged(weak) as server:
        server.fault("weights.bin", "cut", times=1)
        download(server.url("weights.bin"), tmp_path / "w")
        assert (tmp_path / "w").read_bytes() == Exchanged.NEW
        assert [("range" in request.headers) for request in server.requests] == [False, not weak]


def test_bytes_that_are_not_those_of_the_digest_are_fetched_once_more(server: FileServer, tmp_path: Path) -> None:
    server.fault("weights.bin", "wrong_bytes", times=1)
    assert download(server.url("weights.bin"), tmp_path / "w", sha256=SHA[:8]).sha256 == SHA


def test_wrong_bytes_twice_are_refused_and_nothing_stays(server: FileServer, tmp_path: Path) -> None:
    server.fault("weights.bin", "wrong_bytes", times=None)
    with pytest.raises(WeightsError, match=f"expected {SHA}; fetched twice with the same result, nothing was kept"):
        download(server.url("weights.bin"), tmp_path / "w", sha256=SHA)
    assert nothing_left(tmp_path)


def test_what_was_there_stays_when_a_download_fails(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"old")
    server.fault("weights.bin", "wrong_bytes", times=None)
    with pytest.raises(WeightsError):
        download(server.url("weights.bin"), tmp_path / "w", sha256=SHA)
    assert (tmp_path / "w").read_bytes() == b"old"


@pytest.mark.parametrize("kind", ["cut", "reset", "stall", "hangup"])
def test_a_server_that_never_gets_on_is_given_up(server: FileServer, tmp_path: Path, kind: str) -> None:
    options = {"after": 0} if kind in ("cut", "reset", "stall") else {}
    if kind == "stall":
        options["seconds"] = 3
    server.fault("weights.bin", kind, times=None, on="any", **options)
    with pytest.raises(DownloadError, match="gave up after 5 attempts in a row without progress"):
        download(server.url("weights.bin"), tmp_path / "w", sha256=SHA)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_refusal_is_final(server: FileServer, tmp_path: Path, code: int) -> None:
    server.fault("weights.bin", "status", times=None, code=code)
    with pytest.raises(DownloadError, match=f"the server answers {code} .*; check the address"):
        download(server.url("weights.bin"), tmp_path / "w")
    assert len(server.requests) == 1
    assert nothing_left(tmp_path)


def test_a_server_that_stumbles_is_asked_again(server: FileServer, tmp_path: Path) -> None:
    server.fault("weights.bin", "status", times=2, code=503)
    assert download(server.url("weights.bin"), tmp_path / "w").sha256 == SHA


def test_what_is_too_large_is_refused_before_it_is_read(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="announces 300000 bytes; at most 1000 are read"):
        download(server.url("weights.bin"), tmp_path / "w", max_bytes=1000)
    assert nothing_left(tmp_path)


def test_redirects_that_go_in_circles_end(server: FileServer, tmp_path: Path) -> None:
    server.fault("weights.bin", "redirect_loop", times=None)
    with pytest.raises(DownloadError, match="check the address"):
        download(server.url("weights.bin"), tmp_path / "w")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/file", "is no https address"),
        ("file:///etc/passwd", "is no https address"),
        ("https:///file", "is no https address"),
        ("https://user:secret@host/file", "carries a user name or password"),
        ("http://example.org/file", "http can be changed on its way; use https"),
    ],
)
def test_an_address_that_cannot_be_trusted_is_refused(url: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        download(url, tmp_path / "w")
    assert "secret" not in str(caught.value)


def test_a_digest_makes_plain_http_good_enough_and_this_machine_needs_none() -> None:
    check_url("http://127.0.0.1:8000/x")
    check_url("http://localhost/x")
    check_url("http://example.org/x", plain_http=True)


@pytest.mark.parametrize("sha256", ["", "abc", "z" * 64, SHA.upper(), SHA + "0"])
def test_a_digest_that_is_none_is_refused(sha256: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give 64 hexadecimal digits in lower case, or the first 8 at least"):
        download("https://example.org/x", tmp_path / "w", sha256=sha256)


def test_a_redirect_from_https_to_http_is_refused() -> None:
    import urllib.request

    handler = downloads._SafeRedirects()
    with pytest.raises(DownloadError, match="redirects from https to 'http://other/x'"):
        handler.redirect_request(urllib.request.Request("https://host/x"), None, 302, "", {}, "http://other/x")


def test_a_full_disk_is_no_broken_connection(server: FileServer, tmp_path: Path) -> None:
    with largest_file(2**16), pytest.raises(OSError, match=r"File too large.*w") as caught:
        download(server.url("weights.bin"), tmp_path / "w", sha256=SHA)
    assert not isinstance(caught.value, DownloadError)
    assert server.asked() == ["GET /weights.bin"]
    assert nothing_left(tmp_path)


def test_a_body_that_is_packed_unasked_is_unpacked_and_bounded(server: FileServer, tmp_path: Path) -> None:
    server.fault("weights.bin", "gzip", times=1)
    assert download(server.url("weights.bin"), tmp_path / "w", max_bytes=len(BYTES)).sha256 == SHA
    server.fault("weights.bin", "gzip", times=None, size=2**21)
    with pytest.raises(WeightsError, match=f"sends more than {len(BYTES)} bytes"):
        download(server.url("weights.bin"), tmp_path / "w", max_bytes=len(BYTES))


def test_a_connection_that_breaks_for_ever_and_cannot_be_taken_up_is_given_up(
    server: FileServer, tmp_path: Path
) -> None:
    server.fault("weights.bin", "cut", times=None)
    with pytest.raises(DownloadError, match="gave up after 5 attempts"):
        download(server.url("weights.bin"), tmp_path / "w")
    assert len(server.asked()) == 5


def test_what_a_machine_is_told_no_other_machine_sees(server: FileServer, tmp_path: Path) -> None:
    from hub_server import FileServer as Files

    with Files() as other:
        other.files["w"] = BYTES
        server.fault("weights.bin", "status", times=None, code=302, headers={"Location": other.url("w")})
        download(server.url("weights.bin"), tmp_path / "w", headers={"authorization": "Bearer x"})
        assert server.requests[0].headers["authorization"] == "Bearer x"
        assert "authorization" not in other.requests[0].headers
