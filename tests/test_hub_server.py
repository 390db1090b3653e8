"""The Hub of the tests behaves as the real client expects, and its faults do to the client what they are said to do."""

from __future__ import annotations

import gzip
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, __version__, constants, create_repo, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import _http

from hub_server import Clock, FileServer, HubServer

# Its name depends on the release: httpx in 1.x, httpx2 in 2.x.
httpx: Any = getattr(_http, "httpx2", None) or _http.httpx

OLD_CLIENT = tuple(int(part) for part in __version__.split(".")[:2]) < (1, 33)
new_client = pytest.mark.skipif(
    OLD_CLIENT, reason="older clients give up at a cut, and keep what they have of a file to go on from there"
)

REPO = "someone/thing"
CONFIG = b'{"width": 3}\n'
WEIGHTS = bytes(range(256)) * 2000
FILES = {"config.json": CONFIG, "model.safetensors": WEIGHTS}
AT_STORE = f"/{REPO}/{hashlib.sha256(WEIGHTS).hexdigest()}/model.safetensors"


def weights(**options: Any) -> bytes:
    return Path(hf_hub_download(REPO, "model.safetensors", **options)).read_bytes()


def blobs() -> list[Path]:
    """What the client's cache holds of any file, whole or not."""
    return [path for path in Path(constants.HF_HUB_CACHE).rglob("blobs/*") if path.is_file()]


class TestDownload:
    def test_small_file_comes_from_the_hub_and_large_one_from_the_store(self, hub: HubServer) -> None:
        hub.add_repo(REPO, FILES)
        assert Path(hf_hub_download(REPO, "config.json")).read_bytes() == CONFIG
        assert weights() == WEIGHTS
        assert hub.asked() == [
            f"HEAD /{REPO}/resolve/main/config.json",
            f"GET /{REPO}/resolve/main/config.json",
            f"HEAD /{REPO}/resolve/main/model.safetensors",
            f"GET {AT_STORE}",
        ]
        assert hub.asked("store") == [f"GET {AT_STORE}"]

    def test_cached_file_costs_one_head_by_branch_and_nothing_by_commit(self, hub: HubServer) -> None:
        commit = hub.add_repo(REPO, FILES)
        weights()
        hub.requests.clear()
        weights()
        assert hub.asked() == [f"HEAD /{REPO}/resolve/main/model.safetensors"]
        hub.requests.clear()
        weights(revision=commit)
        assert hub.asked() == []

    def test_branch_moves_and_old_commits_stay(self, hub: HubServer) -> None:
        old = hub.add_repo(REPO, FILES)
        new = hub.add_repo(REPO, {"config.json": b"new"})
        assert len({old, new}) == 2
        assert Path(hf_hub_download(REPO, "config.json")).read_bytes() == b"new"
        assert Path(hf_hub_download(REPO, "config.json", revision=old)).read_bytes() == CONFIG
        assert hub.files(REPO) == {"config.json": b"new"}
        assert hub.files(REPO, old) == FILES
        assert [commit.oid for commit in hub.log(REPO)] == [new, old]

    def test_snapshot_holds_every_file_of_a_commit(self, hub: HubServer) -> None:
        commit = hub.add_repo(REPO, {**FILES, "more/notes.txt": b"notes"})
        folder = Path(snapshot_download(REPO))
        assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
            "config.json",
            "model.safetensors",
            "more/notes.txt",
        }
        assert folder.name == commit
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS

    def test_another_name_of_a_revision_may_be_asked(self, hub: HubServer) -> None:
        hub.add_repo(REPO, FILES)
        hub.add_repo(REPO, {"config.json": b"v1"}, revision="v1")
        assert Path(hf_hub_download(REPO, "config.json", revision="v1")).read_bytes() == b"v1"
        assert Path(hf_hub_download(REPO, "config.json")).read_bytes() == CONFIG

    def test_lists_and_facts_are_answered(self, hub: HubServer) -> None:
        commit = hub.add_repo(REPO, {**FILES, "more/notes.txt": b"notes"})
        api = HfApi(token=hub.token)
        assert api.list_repo_files(REPO) == ["config.json", "model.safetensors", "more/notes.txt"]
        info = api.model_info(REPO, files_metadata=True)
        assert info.sha == commit
        assert info.siblings is not None
        sizes = {one.rfilename: one.size for one in info.siblings}
        assert sizes == {"config.json": len(CONFIG), "model.safetensors": len(WEIGHTS), "more/notes.txt": 5}
        assert api.file_exists(REPO, "config.json")
        assert not api.file_exists(REPO, "none.json")
        (found,) = api.get_paths_info(REPO, ["model.safetensors"])
        assert found.lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
        assert [one.path for one in api.list_repo_tree(REPO)] == ["config.json", "model.safetensors", "more"]
        assert api.whoami()["name"] == "someone"

    def test_environment_serves_a_process_that_the_test_starts(self, hub: HubServer) -> None:
        hub.add_repo(REPO, FILES)
        program = f"from huggingface_hub import hf_hub_download as get; print(get({REPO!r}, 'config.json'))"
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
        assert run.returncode == 0, run.stderr
        assert Path(run.stdout.strip()).read_bytes() == CONFIG
        assert run.stdout.startswith(os.environ["HF_HUB_CACHE"])


class TestWhoMayRead:
    def test_private_repository_is_unknown_without_its_token(self, hub: HubServer) -> None:
        hub.add_repo(REPO, FILES, private=True, token="hf_friend")
        with pytest.raises(RepositoryNotFoundError):
            weights()
        with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
            weights(token="hf_nobody")
        assert weights(token="hf_friend") == WEIGHTS

    def test_token_is_not_shown_to_the_store(self, hub: HubServer) -> None:
        hub.add_repo(REPO, FILES, private=True)
        assert weights(token=hub.token) == WEIGHTS
        shown = {request.server: "authorization" in request.headers for request in hub.requests}
        assert shown == {"hub": True, "store": False}
        request = urllib.request.Request(f"{hub.store}{AT_STORE}", headers={"Authorization": "Bearer x"})
        with pytest.raises(urllib.error.HTTPError, match="400") as refused:
            urllib.request.urlopen(request, timeout=10)
        refused.value.close()

    def test_gated_repository_says_so(self, hub: HubServer) -> None:
        hub.add_repo(REPO, FILES, gated=True)
        with pytest.raises(GatedRepoError):
            weights()
        assert weights(token=hub.token) == WEIGHTS

    def test_what_is_missing_is_named(self, hub: HubServer) -> None:
        hub.add_repo(REPO, FILES)
        with pytest.raises(RepositoryNotFoundError):
            hf_hub_download("someone/else", "config.json")
        with pytest.raises(RevisionNotFoundError):
            hf_hub_download(REPO, "config.json", revision="v9")
        with pytest.raises(EntryNotFoundError) as caught:
            hf_hub_download(REPO, "none.json")
        assert not isinstance(caught.value, LocalEntryNotFoundError)


class TestUpload:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "upload"
        folder.mkdir()
        for name, data in FILES.items():
            (folder / name).write_bytes(data)
        (folder / "README.md").write_text("---\nlicense: mit\n---\n# Thing\n")
        return folder

    @pytest.mark.parametrize("mode", ["lfs", "regular", None])
    def test_folder_comes_back_as_it_was(self, hub: HubServer, folder: Path, mode: Any) -> None:
        hub.upload_mode = mode
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        assert api.create_repo("someone/new").repo_id == "someone/new"
        made = api.upload_folder(repo_id="someone/new", folder_path=folder, commit_message="First try")
        assert hub.log("someone/new")[0].oid == made.oid
        assert hub.log("someone/new")[0].summary == "First try"
        assert hub.files("someone/new") == {path.name: path.read_bytes() for path in folder.iterdir()}
        back = Path(snapshot_download("someone/new"))
        assert (back / "model.safetensors").read_bytes() == WEIGHTS
        assert any(one.startswith("PUT ") for one in hub.asked("store")) is (mode != "regular")
        assert all("authorization" not in one.headers for one in hub.requests if one.server == "store")

    def test_nothing_new_makes_no_commit(self, hub: HubServer, folder: Path) -> None:
        create_repo("new", token=hub.token)
        api = HfApi(token=hub.token)
        first = api.upload_folder(repo_id="someone/new", folder_path=folder)
        hub.requests.clear()
        assert api.upload_folder(repo_id="someone/new", folder_path=folder).oid == first.oid
        assert not any("/commit/" in one or one.startswith("PUT") for one in hub.asked())

    def test_file_can_be_deleted_and_the_rest_stays(self, hub: HubServer) -> None:
        hub.add_repo(REPO, {**FILES, "old/a.txt": b"a"})
        api = HfApi(token=hub.token)
        api.delete_file("config.json", REPO)
        api.delete_folder("old", REPO)
        assert hub.files(REPO) == {"model.safetensors": WEIGHTS}

    def test_card_goes_through_the_check_of_the_hub(self, hub: HubServer) -> None:
        hub.add_repo(REPO, FILES)
        card = b"---\nlicense: mit\n---\n# Thing\n"
        HfApi(token=hub.token).upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=REPO)
        assert hub.files(REPO)["README.md"] == card
        assert "POST /api/validate-yaml" in hub.asked()

    def test_known_repository_is_a_conflict_unless_allowed(self, hub: HubServer) -> None:
        hub.add_repo(REPO, FILES)
        api = HfApi(token=hub.token)
        with pytest.raises(HfHubHTTPError, match="409"):
            api.create_repo(REPO)
        assert api.create_repo(REPO, exist_ok=True).repo_id == REPO
        assert hub.files(REPO) == FILES

    def test_private_is_kept(self, hub: HubServer) -> None:
        HfApi(token=hub.token).create_repo("someone/new", private=True)
        with pytest.raises(RepositoryNotFoundError):
            HfApi().model_info("someone/new")

    def test_writing_needs_a_token(self, hub: HubServer) -> None:
        hub.add_repo(REPO, FILES)
        with pytest.raises(HfHubHTTPError, match="401"):
            create_repo("someone/new")
        with pytest.raises(HfHubHTTPError, match="401"):
            HfApi().upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=REPO)
        assert hub.files(REPO) == FILES

    @pytest.mark.parametrize(
        ("path", "method"),
        [("/preupload/main", "POST"), ("/objects/batch", "POST"), ("/upload", "PUT"), ("/commit/main", "POST")],
    )
    @pytest.mark.parametrize("code", [403, 500])
    def test_refused_step_leaves_the_repository_as_it_was(
        self, hub: HubServer, folder: Path, path: str, method: Any, code: int
    ) -> None:
        hub.add_repo(REPO, {"config.json": b"old"})
        hub.fault(path, "status", on=method, code=code, times=None)
        # The client hides a failure of the store behind a RuntimeError.
        with pytest.raises((HfHubHTTPError, RuntimeError)):
            HfApi(token=hub.token).upload_folder(repo_id=REPO, folder_path=folder)
        assert hub.files(REPO) == {"config.json": b"old"}

    def test_commit_on_an_old_parent_is_refused(self, hub: HubServer) -> None:
        old = hub.add_repo(REPO, FILES)
        hub.add_repo(REPO, FILES)
        with pytest.raises(HfHubHTTPError, match="412"):
            HfApi(token=hub.token).upload_file(
                path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=REPO, parent_commit=old
            )

    def test_pull_request_leaves_the_branch(self, hub: HubServer) -> None:
        hub.add_repo(REPO, FILES)
        api = HfApi(token=hub.token)
        made = api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=REPO, create_pr=True)
        assert made.pr_url == f"{hub.endpoint}/{REPO}/discussions/1"
        assert hub.files(REPO) == FILES
        assert hub.files(REPO, "refs/pr/1")["x.txt"] == b"x"


class TestFaultsOnTheWay:
    @new_client
    def test_cut_is_taken_up_again(self, hub: HubServer, clock: Clock) -> None:
        hub.add_repo(REPO, FILES)
        hub.fault("model.safetensors", "cut")
        assert weights() == WEIGHTS
        assert hub.asked("store") == [f"GET {AT_STORE}"] * 2
        assert clock.sleeps == [1]

    @new_client
    @pytest.mark.parametrize("ranges", [True, False])
    def test_second_half_alone_is_asked_after_a_cut(
        self, hub: HubServer, monkeypatch: pytest.MonkeyPatch, ranges: bool
    ) -> None:
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
        hub.add_repo(REPO, FILES)
        hub.fault("model.safetensors", "cut", after=300_500)
        if not ranges:
            hub.fault("model.safetensors", "no_range")
        assert weights() == WEIGHTS
        asked = [request.headers.get("range") for request in hub.requests if request.server == "store"]
        assert asked == [None, "bytes=300000-"]

    @new_client
    def test_cut_for_ever_is_given_up(self, hub: HubServer, clock: Clock) -> None:
        hub.add_repo(REPO, FILES)
        hub.fault("model.safetensors", "cut", times=None)
        with pytest.raises(httpx.RemoteProtocolError):
            weights()
        assert clock.sleeps == [1] * 5
        assert blobs() == []

    @new_client
    def test_reset_is_an_error_at_once_and_no_obstacle_later(self, hub: HubServer, clock: Clock) -> None:
        hub.add_repo(REPO, FILES)
        hub.fault("model.safetensors", "reset")
        with pytest.raises(httpx.ReadError):
            weights()
        assert clock.sleeps == []
        assert blobs() == []
        assert weights() == WEIGHTS

    def test_stall_is_taken_up_again(self, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
        hub.add_repo(REPO, FILES)
        hub.fault("model.safetensors", "stall", seconds=60)
        assert weights() == WEIGHTS
        assert hub.asked("store") == [f"GET {AT_STORE}"] * 2

    def test_stall_within_the_limit_is_only_slow(self, hub: HubServer) -> None:
        hub.add_repo(REPO, FILES)
        hub.fault("model.safetensors", "stall", seconds=0.05)
        assert weights() == WEIGHTS
        assert hub.asked("store") == [f"GET {AT_STORE}"]

    @new_client
    def test_hanging_up_is_tried_again(self, hub: HubServer) -> None:
        hub.add_repo(REPO, FILES)
        hub.fault("model.safetensors", "hangup")
        assert weights() == WEIGHTS

    def test_other_bytes_of_the_right_size_are_believed_and_kept(self, hub: HubServer) -> None:
        # The gap of the client: it compares sizes, never the sha256 that names the file in its cache.
        hub.add_repo(REPO, FILES)
        hub.fault("model.safetensors", "wrong_bytes")
        got = weights()
        assert len(got) == len(WEIGHTS)
        assert got != WEIGHTS
        assert got[:-1] == WEIGHTS[:-1]
        assert weights() == got
        assert [path.name for path in blobs()] == [hashlib.sha256(WEIGHTS).hexdigest()]
        assert weights(force_download=True) == WEIGHTS

    @new_client
    @pytest.mark.parametrize("name", list(FILES))
    @pytest.mark.parametrize("kind", ["short", "long", "wrong_size", "html"])
    def test_another_size_is_an_error_that_leaves_nothing(self, hub: HubServer, name: str, kind: str) -> None:
        hub.add_repo(REPO, FILES)
        hub.fault(name, kind)
        with pytest.raises(OSError, match="Consistency check failed"):
            hf_hub_download(REPO, name)
        assert blobs() == []
        assert Path(hf_hub_download(REPO, name)).read_bytes() == FILES[name]

    @pytest.mark.parametrize("code", [403, 404, 500])
    def test_status_instead_of_the_bytes_is_an_error_at_once(self, hub: HubServer, clock: Clock, code: int) -> None:
        hub.add_repo(REPO, FILES)
        hub.fault("model.safetensors", "status", code=code)
        with pytest.raises(HfHubHTTPError, match=str(code)):
            weights()
        assert clock.sleeps == []

    def test_fault_is_used_as_often_as_ordered(self, hub: HubServer) -> None:
        hub.add_repo(REPO, FILES)
        hub.fault("config.json", "status", times=2)
        for _ in range(2):
            with pytest.raises(HfHubHTTPError):
                hf_hub_download(REPO, "config.json")
        assert Path(hf_hub_download(REPO, "config.json")).read_bytes() == CONFIG

    @pytest.mark.parametrize("kind", ["cut", "reset", "stall", "no_commit", "status"])
    def test_fault_of_one_file_spares_the_others(self, hub: HubServer, kind: str) -> None:
        hub.add_repo(REPO, FILES)
        hub.fault("other.bin", kind, on="any")
        assert weights() == WEIGHTS

    def test_order_for_an_unknown_fault_is_refused(self, hub: HubServer) -> None:
        with pytest.raises(ValueError, match="kind='burn': must be one of cut, reset"):
            hub.fault("x", "burn")
        with pytest.raises(ValueError, match="'cut' has no option seconds; it has after"):
            hub.fault("x", "cut", seconds=1)


class TestFaultsBeforeTheBytes:
    def test_broken_hub_costs_a_stranger_23_seconds(self, hub: HubServer, clock: Clock) -> None:
        hub.add_repo(REPO, FILES)
        hub.fault("model.safetensors", "status", on="HEAD", times=None)
        with pytest.raises(LocalEntryNotFoundError):
            weights()
        assert clock.sleeps == ([] if OLD_CLIENT else [1, 2, 4, 8, 8])

    @pytest.mark.parametrize(
        "options", [{"code": 500}, {"code": 401}, {"code": 403, "error_code": "GatedRepo"}], ids=str
    )
    def test_broken_hub_does_not_matter_to_a_cached_file(
        self, hub: HubServer, clock: Clock, options: dict[str, Any]
    ) -> None:
        hub.add_repo(REPO, FILES)
        weights()
        hub.fault("model.safetensors", "status", on="HEAD", **options)
        assert weights() == WEIGHTS
        assert clock.sleeps == []

    @pytest.mark.parametrize(
        ("code", "error_code", "error"),
        [
            (401, "RepoNotFound", RepositoryNotFoundError),
            (403, "GatedRepo", GatedRepoError),
            (404, "RevisionNotFound", RevisionNotFoundError),
            (404, "EntryNotFound", EntryNotFoundError),
            (404, None, LocalEntryNotFoundError),
        ],
    )
    def test_code_of_the_error_tells_the_exception(
        self, hub: HubServer, code: int, error_code: str | None, error: type[Exception]
    ) -> None:
        hub.add_repo(REPO, FILES)
        hub.fault("model.safetensors", "status", on="HEAD", code=code, error_code=error_code)
        with pytest.raises(error):
            weights()

    @pytest.mark.parametrize(("kind", "error"), [("hangup", httpx.RemoteProtocolError), ("reset", httpx.ReadError)])
    def test_broken_line_matters_even_to_a_cached_file(self, hub: HubServer, kind: str, error: type[Exception]) -> None:
        # Another gap of the client: it goes to its cache for want of an answer in time, not for a line that breaks.
        hub.add_repo(REPO, FILES)
        weights()
        hub.fault("model.safetensors", kind, on="HEAD")
        with pytest.raises(error):
            weights()

    def test_revision_that_went_away_matters_even_to_a_cached_file(self, hub: HubServer) -> None:
        hub.add_repo(REPO, FILES)
        weights()
        hub.fault("model.safetensors", "status", on="HEAD", code=404, error_code="RevisionNotFound")
        with pytest.raises(RevisionNotFoundError):
            weights()

    @pytest.mark.parametrize("kind", ["no_commit", "no_etag", "html"])
    def test_answer_that_is_not_from_a_hub_is_not_taken_for_one(self, hub: HubServer, kind: str) -> None:
        hub.add_repo(REPO, FILES)
        hub.fault("model.safetensors", kind, on="HEAD")
        with pytest.raises(LocalEntryNotFoundError):
            weights()
        assert hub.asked("store") == []

    def test_another_file_is_believed_where_all_that_is_said_of_it_agrees(self, hub: HubServer) -> None:
        hub.add_repo(REPO, FILES)
        hub.fault("model.safetensors", "other", on="any", times=2, body=b"another")
        assert weights() == b"another"
        assert hub.asked("store") == []

    def test_redirect_to_itself_ends(self, hub: HubServer) -> None:
        hub.add_repo(REPO, FILES)
        hub.fault("model.safetensors", "redirect_loop", on="HEAD")
        hub.fault("config.json", "redirect_loop")
        with pytest.raises((httpx.TooManyRedirects, RuntimeError)):
            hf_hub_download(REPO, "config.json")
        assert 20 <= len(hub.requests) <= 22

    def test_slow_answer_sends_the_client_to_its_cache(self, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
        hub.add_repo(REPO, FILES)
        weights()
        hub.fault("model.safetensors", "slow_start", on="HEAD", seconds=60)
        assert weights() == WEIGHTS

    def test_server_that_is_gone_is_missed_by_strangers_only(self, hub: HubServer, clock: Clock) -> None:
        hub.add_repo(REPO, FILES)
        weights()
        hub.stop()
        assert weights() == WEIGHTS
        assert clock.sleeps == []
        with pytest.raises(LocalEntryNotFoundError):
            hf_hub_download(REPO, "config.json")
        hub.start()
        assert Path(hf_hub_download(REPO, "config.json")).read_bytes() == CONFIG


class TestFileServer:
    def get(self, url: str, **headers: str) -> bytes:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.read()

    def test_file_comes_whole_or_in_part(self, files_server: FileServer) -> None:
        files_server.files["weights/vgg 16.pth"] = WEIGHTS
        url = files_server.url("weights/vgg 16.pth")
        assert self.get(url) == WEIGHTS
        assert self.get(url, Range="bytes=10-19") == WEIGHTS[10:20]
        assert self.get(url, Range="bytes=-5") == WEIGHTS[-5:]
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10) as answer:
            assert answer.headers["Content-Length"] == str(len(WEIGHTS))
            assert answer.headers["ETag"] is None
        assert files_server.asked() == ["GET /weights/vgg 16.pth"] * 3 + ["HEAD /weights/vgg 16.pth"]

    @pytest.mark.parametrize(("path", "part", "code"), [("none", None, 404), ("a", "bytes=99-", 416)])
    def test_what_is_not_there_is_refused(
        self, files_server: FileServer, path: str, part: str | None, code: int
    ) -> None:
        files_server.files["a"] = b"abc"
        with pytest.raises(urllib.error.HTTPError) as refused:
            self.get(files_server.url(path), **({"Range": part} if part else {}))
        assert refused.value.code == code
        refused.value.close()

    def test_faults_are_those_of_the_hub(self, files_server: FileServer) -> None:
        files_server.files["a.pth"] = WEIGHTS
        url = files_server.url("a.pth")
        files_server.fault("a.pth", "cut", after=1000)
        with pytest.raises(IncompleteRead) as cut:
            self.get(url)
        assert cut.value.partial == WEIGHTS[:1000]
        files_server.fault("a.pth", "reset")
        with pytest.raises(ConnectionResetError):
            self.get(url)
        files_server.fault("a.pth", "wrong_bytes", at=0)
        assert self.get(url) == b"\xff" + WEIGHTS[1:]
        files_server.fault("a.pth", "endless", most=2**17)
        assert self.get(url) == WEIGHTS + bytes(2**17)
        files_server.fault("a.pth", "gzip")
        assert gzip.decompress(self.get(url)) == WEIGHTS
        files_server.fault("a.pth", "gzip", size=2**20)
        assert gzip.decompress(self.get(url)) == bytes(2**20)
        files_server.fault("a.pth", "html")
        assert self.get(url).startswith(b"<!doctype html>")
        files_server.fault("a.pth", "redirect_loop")
        with pytest.raises(urllib.error.HTTPError, match="infinite loop") as loop:
            self.get(url)
        loop.value.close()
        assert self.get(url) == WEIGHTS


class TestLoopback:
    @pytest.mark.usefixtures("hub")
    def test_test_that_would_leave_the_machine_fails(self) -> None:
        with pytest.raises(AssertionError, match=r"this test asked for the address of 'huggingface\.co'"):
            HfApi(endpoint="https://huggingface.co").model_info(REPO)


class TestStopping:
    def test_stalled_client_does_not_hold_it_up(self) -> None:
        with FileServer({"a": WEIGHTS}) as server:
            server.fault("a", "stall", seconds=60)
            with socket.create_connection(("127.0.0.1", server.ports["files"]), timeout=10) as client:
                client.sendall(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
                assert client.recv(12) == b"HTTP/1.1 200"
                start = time.monotonic()
                server.stop()
                assert time.monotonic() - start < 5

    def test_nothing_is_left_of_it(self) -> None:
        before = set(threading.enumerate())
        with HubServer() as server:
            server.add_repo(REPO, FILES)
            with urllib.request.urlopen(f"{server.endpoint}/{REPO}/resolve/main/config.json", timeout=10) as answer:
                assert answer.read() == CONFIG
            assert set(threading.enumerate()) > before
        assert set(threading.enumerate()) <= before
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.ports["hub"]), timeout=10)

    def test_it_keeps_its_ports_and_its_repositories(self) -> None:
        with HubServer() as server:
            commit = server.add_repo(REPO, FILES)
            endpoint, store = server.endpoint, server.store
            server.stop()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", server.ports["store"]), timeout=10)
            server.start()
            assert (server.endpoint, server.store) == (endpoint, store)
            assert server.log(REPO)[0].oid == commit

    def test_its_own_mistake_is_not_swallowed(self) -> None:
        with pytest.raises(ZeroDivisionError), FileServer() as server:  # noqa: PT012
            server.answer = lambda *_: 1 // 0  # type: ignore[assignment]
            with pytest.raises(OSError, match=r"."):
                urllib.request.urlopen(server.url("a"), timeout=10)
