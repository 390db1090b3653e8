"""One string to one verified file: what a string means, and what happens when a server, a cache or an attacker lies."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from fullyconv import download as downloads
from fullyconv.errors import DownloadError, WeightsError
from fullyconv.files import digest
from fullyconv.weights import sources
from fullyconv.weights.catalog import OTHERS
from fullyconv.weights.repositories import Fetched
from fullyconv.weights.sources import fetch, read
from hub_server import Clock, FileServer, HubServer

BYTES = bytes(range(256)) * 400
SHA = hashlib.sha256(BYTES).hexdigest()
OTHER = BYTES[::-1]
THEIRS = [entry for entry in OTHERS if entry.source == "torchvision"]


@pytest.fixture(autouse=True)
def own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FULLYCONV_LOCK", str(tmp_path / "settings" / "lock.json"))
    monkeypatch.setenv("FULLYCONV_CACHE", str(tmp_path / "own_cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    return tmp_path / "settings" / "lock.json"


# ---- what a string means -------------------------------------------------------------------------------------------


class TestReading:
    @pytest.mark.parametrize(
        ("text", "repo", "revision", "file"),
        [
            ("hf://org/repo", "org/repo", None, None),
            ("hf://org/repo@v1.0", "org/repo", "v1.0", None),
            ("hf://org/repo/model.safetensors", "org/repo", None, "model.safetensors"),
            ("hf://org/repo@main/deep/er/model.safetensors", "org/repo", "main", "deep/er/model.safetensors"),
            (f"hf://org/repo@{'a' * 40}/x.pth", "org/repo", "a" * 40, "x.pth"),
            ("hf://org/repo@refs/pr/3/x.pth", "org/repo", "refs/pr/3", "x.pth"),
            ("someone/a.repo-1", "someone/a.repo-1", None, None),
        ],
    )
    def test_the_hub(self, text: str, repo: str, revision: str | None, file: str | None) -> None:
        source = read(text)
        assert (source.kind, source.repo, source.revision, source.file) == ("hub", repo, revision, file)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("hf://", "is no hub source; write hf://ORG/REPO"),
            ("hf://repo", "is no hub source"),
            ("hf://org/repo@", "is no hub source"),
            ("hf://org/re po", "is no hub source"),
            ("hf://../repo", "is no hub source"),
            ("hf://org/a..b", "admits no '..' and no '--'"),
            ("hf://org/repo@a..b", "admits no '..'"),
            ("hf://org/repo/../../etc/passwd", "is no plain path inside a repository"),
            ("hf://org/repo//etc/passwd", "is no plain path inside a repository"),
            ("hf://org/repo/a\\b", "is no plain path inside a repository"),
            ("hf://org/repo/C:x", "is no plain path inside a repository"),
            ("hf://org/repo/a\nb", "is no plain path|is no hub source"),
            ("hf://org/repo#sha256=" + SHA, "a digest belongs to one file"),
            ("hf://org/repo/x#md5=1", "after # stands sha256="),
            ("hf://org/repo/x#sha256=12", "after # stands sha256="),
            ("https://host/x#sha1=12", "after # stands sha256="),
            ("http://example.org/x", "http can be changed on its way"),
            ("https://me:secret@host/x", "carries a user name or password"),
            ("s3://bucket/x", "unknown scheme; known are hf://"),
            ("torch://x", "unknown scheme"),
            ("stret", r"no model of the zoo .*Did you mean street\?"),
            ("", "no model of the zoo"),
            ("runs/photos/model", "no such folder or file here, and no model of the zoo; .*hf://runs/photos"),
            ("org/re--po", "admits no"),
            ("a\0b", "is no source"),
            ("x" * 5000, "is no source"),
            (None, "of type NoneType: is no source; give a name of the zoo"),
            (123, "of type int: is no source"),
            ("mine.pth", "no such file here; check the path"),
        ],
    )
    def test_what_means_nothing_is_refused(self, text: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            read(text)
        assert "secret" not in str(caught.value)

    def test_a_name_of_the_catalog_means_its_address(self) -> None:
        assert read("street").kind == "folder"
        assert read("vgg16.imagenet").address == "torchvision://VGG16_Weights.IMAGENET1K_V1"
        assert read("timm/resnet18.a1_in1k").address == "hf://timm/resnet18.a1_in1k"
        assert read("torchvision://VGG16_Weights.IMAGENET1K_V1").entry == read("vgg16.imagenet").entry

    def test_a_folder_wins_over_the_hub_and_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "org" / "repo").mkdir(parents=True)
        (tmp_path / "org" / "repo" / "config.json").write_text("{}")
        monkeypatch.chdir(tmp_path)
        with pytest.warns(
            UserWarning, match="the folder is taken; write hf://org/repo for the hub, ./org/repo for the"
        ):
            assert read("org/repo").kind == "folder"
        assert read("./org/repo").kind == read("org/repo/").kind == "folder"
        assert read("hf://org/repo").kind == "hub"
        (tmp_path / "org" / "repo" / "config.json").unlink()
        with pytest.warns(
            UserWarning, match="has no config.json: the repository of the hub is taken; write ./org/repo"
        ):
            assert read("org/repo").kind == "hub"

    def test_a_path_is_a_path_whatever_else_has_its_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "street").mkdir()
        (tmp_path / "weights.pth").write_bytes(b"")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert read("street").entry is not None
        assert all(read(text).entry is None for text in ("street/", "./street", "~/street", str(tmp_path / "street")))
        assert read(tmp_path / "street").kind == "folder"
        assert read("weights.pth").kind == read("./weights.pth").kind == "file"
        with pytest.raises(FileNotFoundError, match="no such folder or file"):
            read("./nowhere")


# ---- the hub -------------------------------------------------------------------------------------------------------


def accept(source: str, file: str | None = "w.safetensors") -> Fetched:
    return fetch(read(source), file, allow_unverified=True)


def lock_of(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())["sources"])


class TestTrust:
    def test_what_nobody_vouches_for_needs_a_word_and_is_not_even_fetched(self, hub: HubServer) -> None:
        hub.add_repo("org/repo", {"w.safetensors": BYTES})
        with pytest.raises(WeightsError, match=r"no digest of this file.*allow_unverified=True \(--allow-unver"):
            fetch(read("hf://org/repo"), "w.safetensors")
        assert hub.asked() == []

    def test_commit_size_and_digest_are_told_and_recorded(
        self, hub: HubServer, own_lock: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        commit = hub.add_repo("org/repo", {"w.safetensors": BYTES})
        with caplog.at_level("INFO", logger="fullyconv"):
            fetched = accept("hf://org/repo")
        assert (fetched.digest.sha256, fetched.commit) == (SHA, commit)
        assert fetched.path.read_bytes() == BYTES
        for said in (commit, str(len(BYTES)), SHA, str(own_lock)):
            assert said in caplog.text
        assert lock_of(own_lock)["hf://org/repo"] == {
            "commit": commit,
            "files": {"w.safetensors": {"bytes": len(BYTES), "sha256": SHA}},
        }

    def test_what_was_accepted_once_loads_without_the_word_and_without_a_network(self, hub: HubServer) -> None:
        hub.add_repo("org/repo", {"w.safetensors": BYTES})
        accept("hf://org/repo")
        hub.requests.clear()
        hub.stop()
        assert fetch(read("org/repo"), "w.safetensors").digest.sha256 == SHA
        assert hub.asked() == []

    def test_a_branch_that_moved_does_not_change_what_is_loaded(self, hub: HubServer) -> None:
        hub.add_repo("org/repo", {"w.safetensors": BYTES})
        accept("hf://org/repo")
        hub.add_repo("org/repo", {"w.safetensors": OTHER})
        assert fetch(read("hf://org/repo"), "w.safetensors").digest.sha256 == SHA
        assert accept("hf://org/repo").digest.sha256 == SHA

    def test_a_new_revision_is_another_source_that_needs_its_own_word(self, hub: HubServer) -> None:
        hub.add_repo("org/repo", {"w.safetensors": BYTES})
        accept("hf://org/repo")
        new = hub.add_repo("org/repo", {"w.safetensors": OTHER})
        with pytest.raises(WeightsError, match="no digest of this file is known"):
            fetch(read(f"hf://org/repo@{new}"), "w.safetensors")
        assert accept(f"hf://org/repo@{new}").path.read_bytes() == OTHER

    def test_a_second_file_comes_from_the_commit_of_the_first(self, hub: HubServer) -> None:
        commit = hub.add_repo("org/repo", {"w.safetensors": BYTES, "config.json": b"old"})
        accept("hf://org/repo")
        hub.add_repo("org/repo", {"w.safetensors": OTHER, "config.json": b"new"})
        fetched = accept("hf://org/repo", "config.json")
        assert (fetched.commit, fetched.path.read_bytes()) == (commit, b"old")

    def test_a_digest_in_the_string_vouches(self, hub: HubServer, own_lock: Path) -> None:
        hub.add_repo("org/repo", {"w.safetensors": BYTES})
        assert fetch(read(f"hf://org/repo/w.safetensors#sha256={SHA}")).digest.sha256 == SHA
        assert not own_lock.exists()
        with pytest.raises(WeightsError, match=f"expected sha256 {'0' * 64}; fetched twice with the same result"):
            fetch(read(f"hf://org/repo/w.safetensors#sha256={'0' * 64}"))

    def test_a_cache_that_somebody_changed_is_noticed_and_mended(self, hub: HubServer) -> None:
        hub.add_repo("org/repo", {"w.safetensors": BYTES})
        path = accept("hf://org/repo").path
        path.resolve().write_bytes(OTHER)
        assert fetch(read("hf://org/repo"), "w.safetensors").path.read_bytes() == BYTES

    def test_a_changed_cache_without_a_network_is_refused(self, hub: HubServer) -> None:
        hub.add_repo("org/repo", {"w.safetensors": BYTES})
        accept("hf://org/repo").path.resolve().write_bytes(OTHER)
        hub.stop()
        with pytest.raises(WeightsError, match=f"expected sha256 {SHA}; it could not be fetched afresh"):
            fetch(read("hf://org/repo"), "w.safetensors")

    def test_a_hub_that_serves_other_bytes_for_the_recorded_commit_is_refused_and_nothing_stays(
        self, hub: HubServer, own_lock: Path
    ) -> None:
        hub.add_repo("org/repo", {"w.safetensors": BYTES})
        path = accept("hf://org/repo").path
        path.resolve().unlink()
        path.unlink()
        hub.fault("w.safetensors", "wrong_bytes", times=None)
        with pytest.raises(
            WeightsError, match=r"fetched twice with the same result, nothing was kept.*remove its entry"
        ):
            fetch(read("hf://org/repo"), "w.safetensors")
        assert not path.exists()
        assert lock_of(own_lock)["hf://org/repo"]["files"]["w.safetensors"]["sha256"] == SHA

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "no json",
            "[]",
            "{}",
            '{"sources": 3}',
            '{"sources": {"a": {"files": {"x": {"sha256": "short"}}}}}',
            '{"sources": {"a": {"files": {}, "commit": "main"}}}',
            "[" * 100_000,
        ],
    )
    def test_a_damaged_lock_file_is_not_forgotten_in_silence(self, own_lock: Path, text: str) -> None:
        own_lock.parent.mkdir(parents=True)
        own_lock.write_text(text)
        with pytest.raises(WeightsError, match=r"is damaged .*; it records which unverified weights were accepted"):
            fetch(read("hf://org/repo"), "w.safetensors")

    def test_a_lock_file_that_cannot_be_read_says_what_to_do(self, own_lock: Path) -> None:
        own_lock.mkdir(parents=True)  # root may read everything but a folder
        with pytest.raises(WeightsError, match=r"cannot be read .*FULLYCONV_LOCK"):
            fetch(read("hf://org/repo"), "w.safetensors")


class TestFaults:
    """Each row ends in the right weights or in a clear error, never in other bytes."""

    @pytest.mark.parametrize("lfs", [True, False])
    @pytest.mark.parametrize(
        "kind", ["cut", "reset", "stall", "wrong_bytes", "short", "long", "html", "status", "hangup", "slow_start"]
    )
    def test_a_fault_that_passes_ends_in_the_right_bytes(
        self, hub: HubServer, kind: str, lfs: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
        hub.add_repo("org/repo", {"w.safetensors": BYTES}, lfs=("*.safetensors",) if lfs else ())
        hub.fault("w.safetensors", kind, times=1)
        fetched = accept("hf://org/repo")
        assert fetched.path.read_bytes() == BYTES

    @pytest.mark.parametrize("lfs", [True, False])
    @pytest.mark.parametrize("kind", ["reset", "wrong_bytes", "short", "long", "html", "status", "hangup"])
    def test_a_fault_that_stays_ends_in_an_error_and_leaves_nothing(
        self, hub: HubServer, kind: str, lfs: bool, own_lock: Path, tmp_path: Path
    ) -> None:
        hub.add_repo("org/repo", {"w.safetensors": BYTES}, lfs=("*.safetensors",) if lfs else ())
        hub.fault("w.safetensors", kind, times=None)
        with pytest.raises((DownloadError, WeightsError), match=r"hf://org/repo/w.safetensors: "):
            accept("hf://org/repo")
        left = [
            path for path in (tmp_path / "huggingface" / "hub").rglob("*") if path.is_file() and path.stat().st_size
        ]
        assert [path for path in left if path.suffix in (".safetensors", ".incomplete") or "blobs" in path.parts] == []
        assert not own_lock.exists()

    @pytest.mark.parametrize("kind", ["wrong_size", "no_commit", "no_etag"])
    def test_headers_that_lie_or_are_missing_end_in_an_error(self, hub: HubServer, kind: str, own_lock: Path) -> None:
        hub.add_repo("org/repo", {"w.safetensors": BYTES})
        hub.fault("w.safetensors", kind, times=None)
        with pytest.raises(WeightsError, match=r"hf://org/repo/w.safetensors: "):
            accept("hf://org/repo")
        assert not own_lock.exists()

    @pytest.mark.parametrize(
        ("revision", "values", "message"),
        [
            ("", {"X_Repo_Commit": "main"}, "the hub names commit 'main', asked for main"),
            ("", {"X_Repo_Commit": "../../../outside"}, "the hub names commit '../../../outside', asked for main"),
            (f"@{'a' * 40}", {}, f"the hub names commit '[0-9a-f]{{40}}', asked for {'a' * 40}"),
            ("", {"X_Linked_Etag": '"../../../outside"'}, "the hub names ETag '../../../outside', which is no digest"),
            ("", {"X_Linked_Etag": '"../snapshots"'}, "the hub names ETag '../snapshots', which is no digest"),
        ],
    )
    def test_a_hub_whose_names_are_none_or_lead_elsewhere_is_refused(
        self, hub: HubServer, own_lock: Path, revision: str, values: dict[str, str], message: str
    ) -> None:
        commit = hub.add_repo("org/repo", {"w.safetensors": BYTES})
        if revision:
            values = {"X_Repo_Commit": commit}
            hub.add_repo("org/repo", {"w.safetensors": BYTES}, revision=revision[1:])
        hub.fault("w.safetensors", "headers", times=None, values=values)
        with pytest.raises((WeightsError, DownloadError), match=message):
            accept(f"hf://org/repo{revision}")
        assert not own_lock.exists()

    @pytest.mark.parametrize(
        ("code", "error_code", "message"),
        [
            (401, "RepoNotFound", "no such repository on the hub, or a private one: .*HF_TOKEN"),
            (404, "RepoNotFound", "no such repository on the hub, or a private one"),
            (403, "GatedRepo", "asks for consent: accept its terms on its page"),
            (404, "RevisionNotFound", "has no revision None"),
            (404, "EntryNotFound", "the repository has no such file; it has w.safetensors"),
            (401, None, "the hub refuses: .*401"),
            (404, None, "is not in the cache, and the hub could not be reached or gave no answer"),
            (500, None, "is not in the cache, and the hub could not be reached or gave no answer"),
        ],
    )
    def test_a_refusal_says_what_to_do(
        self, hub: HubServer, clock: Clock, code: int, error_code: str | None, message: str
    ) -> None:
        hub.add_repo("org/repo", {"w.safetensors": BYTES})
        hub.fault("w.safetensors", "status", times=None, on="any", code=code, error_code=error_code)
        with pytest.raises(DownloadError, match=message):
            accept("hf://org/repo")

    def test_a_private_repository_needs_its_token(self, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
        hub.add_repo("org/secret", {"w.safetensors": BYTES}, private=True)
        with pytest.raises(DownloadError, match="or a private one"):
            accept("hf://org/secret")
        monkeypatch.setenv("HF_TOKEN", hub.token)
        assert accept("hf://org/secret").path.read_bytes() == BYTES
        assert all("authorization" not in request.headers for request in hub.requests if request.server == "store")

    def test_a_file_that_is_not_there_lists_those_that_are_but_no_hostile_names(self, hub: HubServer) -> None:
        hub.add_repo("org/repo", {"w.safetensors": BYTES, "../../evil": b"x", "a\\b": b"x", "pytorch_model.bin": b"x"})
        with pytest.raises(DownloadError, match=r"no such file; it has pytorch_model.bin, w.safetensors$"):
            accept("hf://org/repo", "model.safetensors")

    @pytest.mark.parametrize("fault", ["stopped", "hangup", "reset", "status"])
    def test_with_a_warm_cache_a_hub_that_is_gone_does_not_matter(self, hub: HubServer, fault: str) -> None:
        hub.add_repo("org/repo", {"w.safetensors": BYTES})
        string = f"hf://org/repo/w.safetensors#sha256={SHA}"  # by branch, so that the client asks each time
        fetch(read(string))
        if fault == "stopped":
            hub.stop()
        else:
            hub.fault("w.safetensors", fault, times=None, on="any")
        assert fetch(read(string)).path.read_bytes() == BYTES

    def test_offline_mode_is_honoured(self, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import constants

        hub.add_repo("org/repo", {"w.safetensors": BYTES, "other": BYTES})
        accept("hf://org/repo")
        hub.requests.clear()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert fetch(read("hf://org/repo"), "w.safetensors").digest.sha256 == SHA
        with pytest.raises(DownloadError, match="HF_HUB_OFFLINE forbids"):
            accept("hf://org/repo", "other")
        assert hub.asked() == []


# ---- addresses, torchvision, shipped -------------------------------------------------------------------------------


class TestAddresses:
    def test_a_digest_vouches_and_the_file_is_kept(self, files_server: FileServer, own_lock: Path) -> None:
        files_server.files["w.pth"] = BYTES
        source = read(files_server.url("w.pth") + f"#sha256={SHA}")
        first = fetch(source)
        assert fetch(source) == first
        assert first.path.name == "w.pth"
        assert files_server.asked() == ["GET /w.pth"]
        assert not own_lock.exists()

    def test_without_a_digest_it_needs_a_word_and_then_always_the_same_bytes(
        self, files_server: FileServer, own_lock: Path
    ) -> None:
        files_server.files["w.pth"] = BYTES
        source = read(files_server.url("w.pth"))
        with pytest.raises(WeightsError, match="append #sha256=DIGEST if you know it, or pass allow_unverified"):
            fetch(source)
        assert files_server.asked() == []
        path = fetch(source, allow_unverified=True).path
        assert lock_of(own_lock)[source.address]["files"][""]["sha256"] == SHA
        files_server.files["w.pth"] = OTHER
        assert fetch(source).path.read_bytes() == BYTES
        path.unlink()
        with pytest.raises(WeightsError, match=f"expected {SHA}; fetched twice"):
            fetch(source, allow_unverified=True)
        assert not path.exists()

    def test_a_kept_file_that_somebody_changed_is_fetched_afresh(self, files_server: FileServer) -> None:
        files_server.files["w.pth"] = BYTES
        source = read(files_server.url("w.pth") + f"#sha256={SHA}")
        fetch(source).path.write_bytes(OTHER)
        assert fetch(source).path.read_bytes() == BYTES

    @pytest.mark.parametrize("kind", ["wrong_bytes", "html", "short", "long"])
    def test_other_bytes_are_refused_and_nothing_stays(
        self, files_server: FileServer, kind: str, tmp_path: Path
    ) -> None:
        files_server.files["w.pth"] = BYTES
        files_server.fault("w.pth", kind, times=None)
        with pytest.raises(WeightsError, match="nothing was kept"):
            fetch(read(files_server.url("w.pth") + f"#sha256={SHA}"))
        assert [path for path in (tmp_path / "own_cache").rglob("*") if path.is_file()] == []


class TestTorchvision:
    def member(self, files_server: FileServer, monkeypatch: pytest.MonkeyPatch, data: bytes = BYTES) -> str:
        """Let one of torchvision's members point at the loopback server; its own bytes are out of reach here."""
        from torchvision.models import ResNet18_Weights

        name = f"resnet18-{hashlib.sha256(BYTES).hexdigest()[:8]}.pth"
        files_server.files[name] = data
        value = ResNet18_Weights.IMAGENET1K_V1.value
        old = value.url
        object.__setattr__(value, "url", files_server.url(name))
        self.restore = lambda: object.__setattr__(value, "url", old)
        return "torchvision://ResNet18_Weights.IMAGENET1K_V1"

    @pytest.fixture(autouse=True)
    def restored(self) -> Any:
        self.restore = lambda: None
        yield
        self.restore()

    def test_the_digest_in_the_address_vouches(
        self, files_server: FileServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        source = read(self.member(files_server, monkeypatch))
        fetched = fetch(source)
        assert fetched.digest.sha256 == SHA
        assert fetched.path.parent == Path(torch.hub.get_dir()) / "checkpoints"
        assert tmp_path in fetched.path.parents
        files_server.stop()
        assert fetch(source) == fetched

    def test_a_stale_file_in_the_cache_is_fetched_afresh(
        self, files_server: FileServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = read(self.member(files_server, monkeypatch))
        fetch(source).path.write_bytes(OTHER)
        assert fetch(source).path.read_bytes() == BYTES

    def test_offline_a_stale_file_is_refused_and_left_alone(
        self, files_server: FileServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from huggingface_hub import constants

        source = read(self.member(files_server, monkeypatch))
        path = fetch(source).path
        path.write_bytes(OTHER)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(WeightsError, match=r"is not the file that was published .* HF_HUB_OFFLINE forbids"):
            fetch(source)
        assert path.read_bytes() == OTHER

    def test_other_bytes_are_refused(self, files_server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
        source = read(self.member(files_server, monkeypatch, OTHER))
        with pytest.raises(WeightsError, match="fetched twice with the same result, nothing was kept"):
            fetch(source)
        assert list((Path(torch.hub.get_dir()) / "checkpoints").iterdir()) == []

    def test_an_unknown_member_offers_the_nearest(self) -> None:
        with pytest.raises(ValueError, match=r"Did you mean VGG16_Weights.IMAGENET1K_V1"):
            fetch(read("torchvision://VGG16_Weights.IMAGENET1K_V3"))
        with pytest.raises(ValueError, match="torchvision has no weights of that name"):
            fetch(read("torchvision://os.path"))

    @pytest.mark.parametrize(
        "entry", [entry for entry in OTHERS if entry.source == "torchvision"], ids=lambda entry: entry.name
    )
    def test_the_catalog_says_what_the_installed_library_says(self, entry: Any) -> None:
        member = sources.torchvision_member(read(entry.address))
        assert entry.parameters == member.meta["num_params"]
        assert entry.bytes == round(member.meta["_file_size"] * 2**20)
        assert "-" in member.url.rsplit("/", 1)[-1]
        metrics = next(iter(member.meta["_metrics"].values()))
        if entry.kind == "segmenter":
            assert entry.mean_iou == metrics["miou"]
            assert entry.data == next(iter(member.meta["_metrics"]))
            names = [name.strip("_") for name in member.meta["categories"]]
            assert entry.classes == names
        else:
            assert entry.top1 == metrics["acc@1"] or (entry.top1 is None and metrics["acc@1"] != metrics["acc@1"])
            assert member.meta["categories"] in (None, entry.classes)


def test_shipped_weights_are_those_of_the_catalog_or_nothing_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from fullyconv.hub.load import load
    from fullyconv.weights import catalog

    name = "ladder_efficientnet_lite0.camvid"
    shutil.copytree(catalog.zoo_folder() / name, tmp_path / "zoo" / name)
    monkeypatch.setattr(catalog, "zoo_folder", lambda: tmp_path / "zoo")
    assert load("street").classes[0] == "sky"
    monkeypatch.setitem(catalog.SHIPPED, name, "0" * 64)
    with pytest.raises(WeightsError, match="install fullyconv again"):
        load("street")


@pytest.mark.parametrize("name", ["cracks", "tile_kinds"])
def test_shipped_weights_are_digested_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pretrained.load` does it, against the configuration, which has to name the digest of the catalog."""
    import fullyconv

    seen: list[str] = []
    monkeypatch.setattr(sources, "digest", lambda path: seen.append(Path(path).name) or digest(path))
    fullyconv.load(name) if name == "cracks" else fullyconv.load_classifier(name)
    assert set(seen) == {"config.json"}


def test_two_processes_may_accept_at_once(hub: HubServer, own_lock: Path) -> None:
    import subprocess
    import sys

    for index in range(3):
        hub.add_repo(f"org/repo{index}", {"w.safetensors": BYTES})
    code = (
        "import sys; from fullyconv.weights.sources import fetch, read;"
        "fetch(read('hf://org/repo' + sys.argv[1]), 'w.safetensors', allow_unverified=True)"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(i)], env=os.environ.copy()) for i in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert lock_of(own_lock).keys() == {f"hf://org/repo{index}" for index in range(3)}
