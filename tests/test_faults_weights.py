"""Faults of weights, their files and the hub that were seen, each stated as what is wanted. A row is named by its
number, as ``c1``."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import fullyconv
from fullyconv import DownloadError, WeightsError, cli
from hub_server import FileServer, HubServer
from limits import largest_file
from test_weights_segmenters import calibrated, theirs

BYTES = bytes(range(256)) * 400
PAGE = b"<!doctype html><html><title>Sign in</title><body>Accept the terms to go on.</body></html>"


@pytest.fixture(autouse=True)
def own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FULLYCONV_LOCK", str(tmp_path / "settings" / "lock.json"))
    monkeypatch.setenv("FULLYCONV_CACHE", str(tmp_path / "own_cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("fullyconv.download.PAUSE", 0.0)
    return tmp_path / "settings" / "lock.json"


def run(*words: object) -> int:
    """Run the command line in this process, and give its exit status."""
    try:
        return cli.main([str(word) for word in words])
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else 1


def small() -> fullyconv.SegmentationModule:
    return fullyconv.SegmentationModule("same_convolutions", classes=["a", "b"])


def model_folder(folder: Path) -> Path:
    return small().save_pretrained(folder)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """What a repository of a model holds."""
    return {path.name: path.read_bytes() for path in model_folder(tmp_path / "mine").iterdir()}


def refusal(source: object, load: Callable[..., Any] = fullyconv.load, **options: Any) -> str:
    """Load what is refused in our own words, and give the message."""
    with pytest.raises((WeightsError, DownloadError)) as caught:
        load(source, allow_unverified=True, **options)
    return str(caught.value)


def recorded(lock: Path) -> dict[str, Any]:
    """Give what the lock file records, by source."""
    return dict(json.loads(lock.read_text())["sources"]) if lock.exists() else {}


# ---- C1: a hub whose headers are paths ------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of the user that is none of the hub's business."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "mine").write_bytes(b"mine")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_c1_a_file_of_the_user_is_not_overwritten_by_the_second_attempt(hub: HubServer, outside: Path) -> None:
    hub.add_repo("org/repo", {"w.safetensors": BYTES}, lfs=())
    hub.fault("w.safetensors", "headers", values={"ETag": f'"{outside}/mine.new"'})
    hub.fault("w.safetensors", "short")
    hub.fault("w.safetensors", "headers", times=None, values={"ETag": f'"{outside}/mine"'})
    refusal("hf://org/repo/w.safetensors", fullyconv.load_classifier)
    assert contents(outside) == {"mine": b"mine"}


@pytest.mark.parametrize("header", ["ETag", "X_Linked_Etag"])
@pytest.mark.parametrize("relative", [False, True])
def test_c1_nothing_is_written_outside_the_cache(
    header: str, relative: bool, hub: HubServer, outside: Path, tmp_path: Path
) -> None:
    hub.add_repo("org/repo", {"w.safetensors": BYTES}, lfs=("*.safetensors",) if header == "X_Linked_Etag" else ())
    target = f"{outside}/new"
    if relative:
        target = os.path.relpath(target, tmp_path / "huggingface" / "hub" / "models--org--repo" / "blobs")
    hub.fault("w.safetensors", "headers", times=None, values={header: f'"{target}"'})
    refusal("hf://org/repo/w.safetensors", fullyconv.load_classifier)
    assert contents(outside) == {"mine": b"mine"}


def test_c1_a_commit_that_is_a_path_makes_no_file_outside_the_cache(hub: HubServer, outside: Path) -> None:
    hub.add_repo("org/repo", {"w.safetensors": BYTES})
    headers = {"X-Repo-Commit": f"{outside}/new"}
    hub.fault("w.safetensors", "status", times=None, on="any", code=404, error_code="EntryNotFound", headers=headers)
    refusal("hf://org/repo/w.safetensors", fullyconv.load_classifier)
    assert contents(outside) == {"mine": b"mine"}


@pytest.mark.parametrize(
    "values",
    [{"ETag": '"abc"'}, {"ETag": '"' + "z" * 40 + '"'}, {"X_Repo_Commit": "main"}, {"X_Repo_Commit": "a" * 39}],
    ids=str,
)
def test_c1_what_is_no_digest_and_no_commit_is_refused_before_anything_is_written(
    values: dict[str, str], hub: HubServer, own_lock: Path, tmp_path: Path
) -> None:
    hub.add_repo("org/repo", {"w.safetensors": BYTES}, lfs=())
    hub.fault("w.safetensors", "headers", times=None, values=values)
    refusal("hf://org/repo/w.safetensors", fullyconv.load_classifier)
    assert BYTES not in contents(tmp_path / "huggingface").values()
    assert recorded(own_lock) == {}


# ---- C5: configurations and checkpoints that hold another kind of value ---------------------------------------------

LABELS: list[Any] = [{}, {"names": 5}, {"names": None}, {"names": ["a", 5]}, {"names": ["a", "b"], "values": 5}]


def with_labels(folder: Path, labels: Any) -> Path:
    document = json.loads((folder / "config.json").read_text())
    document["labels"] = labels
    (folder / "config.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize("labels", LABELS, ids=str)
def test_c5_a_classifier_with_labels_that_are_none_is_refused(labels: Any, tmp_path: Path) -> None:
    folder = fullyconv.load_classifier("tile_kinds").save_pretrained(tmp_path / "mine")
    assert str(folder) in refusal(with_labels(folder, labels), fullyconv.load_classifier)


def test_c5_a_converted_classifier_with_labels_that_are_none_is_refused(tmp_path: Path) -> None:
    folder = fullyconv.load_classifier("tile_kinds").convolutionalize().save_pretrained(tmp_path / "mine")
    for labels in LABELS[:2]:
        assert str(folder) in refusal(with_labels(folder, labels))


@pytest.mark.parametrize("labels", [*LABELS, {"heads": 5}, {"heads": {}}, {"heads": {"a": {}}}], ids=str)
def test_c5_a_segmenter_with_labels_that_are_none_is_refused(labels: Any, tmp_path: Path) -> None:
    assert "mine" in refusal(with_labels(model_folder(tmp_path / "mine"), labels))


HYPER: list[Any] = [
    ("label_values", 7),
    ("lr", 10**400),
    ("momentum", 10**400),
    ("class_weights", [10**400, 1]),
    ("classes", 7),
    ("classes", {"a": 1, "b": 2}),
    ("palette", 7),
    ("ignore_index", 10**400),
    ("ignore_index", "x"),
    ("class_weights", 7),
    ("freeze", 7),
    ("ema_decay", "x"),
    ("preprocessing", 7),
    ("preprocessing", {"mean": 7}),
    ("in_channels", "x"),
    ("in_channels", 10**400),
    ("model", 7),
    ("padding", [7]),
    ("upsampling", {"a": 7}),
    ("loss", 7),
]


@pytest.mark.parametrize(("key", "value"), HYPER, ids=lambda value: str(value)[:20])
def test_c5_a_checkpoint_with_arguments_of_another_kind_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    module = small()
    path = tmp_path / "best.ckpt"
    state = {f"model.{name}": tensor for name, tensor in module.model.state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": dict(module.hparams) | {key: value}, "epoch": 1}, path)
    assert "best.ckpt" in refusal(path)


# ---- C6: bodies that do not end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lfs", [True, False])
@pytest.mark.parametrize("kind", ["endless", "gzip"])
def test_c6_no_more_is_written_than_was_announced(kind: str, lfs: bool, hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo("org/repo", {"w.safetensors": BYTES}, lfs=("*.safetensors",) if lfs else ())
    hub.fault("w.safetensors", kind, times=None, **({"size": 2**23} if kind == "gzip" else {"most": 2**23}))
    with largest_file(2**21):  # twenty times what was announced
        said = refusal("hf://org/repo/w.safetensors", fullyconv.load_classifier)
    assert "w.safetensors" in said
    assert "File too large" not in said, "the limit of the test stopped it"


def test_c6_a_body_that_is_compressed_on_its_way_as_the_hub_does_is_read(
    hub: HubServer, files: dict[str, bytes]
) -> None:
    hub.add_repo("org/mine", files)
    hub.fault("config.json", "gzip", times=None)
    assert fullyconv.load("org/mine", allow_unverified=True).classes == ["a", "b"]


# ---- C7 and C19: something else in place of a file, accepted unverified, and mended at its source --------------------


def pointer(data: bytes) -> bytes:
    lines = ["version https://git-lfs.github.com/spec/v1", f"oid sha256:{hashlib.sha256(data).hexdigest()}"]
    return "\n".join([*lines, f"size {len(data)}", ""]).encode()


def test_c7_a_page_in_place_of_the_configuration_is_called_one(hub: HubServer, files: dict[str, bytes]) -> None:
    hub.add_repo("org/mine", files | {"config.json": PAGE})
    assert re.search("HTML|web page", refusal("org/mine"), re.IGNORECASE)


@pytest.mark.parametrize("etag", [None, "0123456789abcdef"])
def test_c7_a_page_that_came_once_in_place_of_the_configuration_is_not_kept(
    etag: str | None, hub: HubServer, own_lock: Path, files: dict[str, bytes]
) -> None:
    hub.add_repo("org/mine", files)
    hub.fault("config.json", "other", times=2, on="any", body=PAGE, etag=etag)  # HEAD and GET
    refusal("org/mine")
    assert recorded(own_lock).get("hf://org/mine", {}).get("files", {}) == {}
    assert fullyconv.load("org/mine", allow_unverified=True).classes == ["a", "b"]


def test_c7_a_page_that_came_once_in_place_of_a_classifiers_configuration_is_not_kept(
    hub: HubServer, own_lock: Path, tmp_path: Path
) -> None:
    folder = fullyconv.load_classifier("tile_kinds").save_pretrained(tmp_path / "kinds")
    hub.add_repo("org/kinds", {path.name: path.read_bytes() for path in folder.iterdir()})
    hub.fault("config.json", "other", times=2, on="any", body=PAGE)
    refusal("hf://org/kinds", fullyconv.load_classifier)
    assert recorded(own_lock).get("hf://org/kinds", {}).get("files", {}) == {}
    found = fullyconv.load_classifier("hf://org/kinds", allow_unverified=True)
    assert found.classes == fullyconv.load_classifier("tile_kinds").classes


def test_c7_a_page_that_came_once_from_an_address_is_not_kept(
    files_server: FileServer, own_lock: Path, tmp_path: Path
) -> None:
    torch.save(fullyconv.load_classifier("tile_kinds").network.state_dict(), tmp_path / "kinds.pth")
    files_server.files["kinds.pth"] = (tmp_path / "kinds.pth").read_bytes()
    files_server.fault("kinds.pth", "html")
    source = files_server.url("kinds.pth")
    assert re.search("HTML|web page", refusal(source, fullyconv.load_classifier, architecture="vgg11_quarter"))
    assert recorded(own_lock) == {}
    found = fullyconv.load_classifier(source, architecture="vgg11_quarter", allow_unverified=True)
    assert len(found.classes) == len(fullyconv.load_classifier("tile_kinds").classes)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_c19_a_pointer_of_git_lfs_is_called_one(name: str, hub: HubServer, files: dict[str, bytes]) -> None:
    hub.add_repo("org/mine", files | {name: pointer(files[name])}, lfs=())
    said = refusal("org/mine")
    assert name in said
    assert "git-lfs" in said


STRAY = {
    "a page": PAGE,
    "a page behind a comment": b"\xef\xbb\xbf\n<!-- cached -->\n<HTML><body>Sign in",
    "a page in UTF-16": "<html>Sign in</html>".encode("utf-16"),
    "an error in XML": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "a pointer": pointer(PAGE),
    "a pointer of git-annex": b"/annex/objects/SHA256E-s9--00.pth\n",
}
LOADERS: dict[str, Callable[..., Any]] = {
    "best.ckpt": fullyconv.load,
    "w.pth": fullyconv.load,
    "w.safetensors": fullyconv.load,
    "w.caffemodel": fullyconv.load,
    "kinds.pth": fullyconv.load_classifier,
    "model.onnx": lambda path: fullyconv.runtime.load(path),
}


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("stray", STRAY)
def test_c19_what_lies_in_place_of_any_file_is_called_by_its_name(name: str, stray: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(STRAY[stray])
    with pytest.raises(WeightsError) as caught:
        LOADERS[name](tmp_path / name)
    assert re.search(rf"{name}: is an? (?:\S+ )*(?:pointer|HTML)", str(caught.value))
    assert re.search("open the address in a browser|git lfs pull", str(caught.value))


def test_c19_a_commit_whose_page_was_mended_loads(hub: HubServer, files: dict[str, bytes]) -> None:
    commit = hub.add_repo("org/mine", files)
    hub.fault("config.json", "other", times=2, on="any", body=PAGE)
    refusal(f"hf://org/mine@{commit}")
    assert fullyconv.load(f"hf://org/mine@{commit}", allow_unverified=True).classes == ["a", "b"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_c19_a_repository_that_was_mended_by_a_new_commit_loads(
    name: str, hub: HubServer, own_lock: Path, files: dict[str, bytes]
) -> None:
    hub.add_repo("org/mine", files | {name: pointer(files[name])}, lfs=())
    refusal("org/mine")
    hub.add_repo("org/mine", files)
    assert fullyconv.load("org/mine", allow_unverified=True).classes == ["a", "b"]


# ---- C22 and M18: settings and caches that cannot be written ---------------------------------------------------------


@pytest.fixture(params=["a file in the way", "read-only"])
def unwritable(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which nothing can be made. The superuser may write in every folder, so that one kind is patched."""
    if request.param == "a file in the way":
        (tmp_path / "file").write_text("mine")
        return tmp_path / "file" / "folder"
    folder = tmp_path / "read-only"
    folder.mkdir()
    real = {"os.mkdir": os.mkdir, "os.open": os.open}

    def refusing(name: str) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            if str(path).startswith(str(folder)) and (name == "os.mkdir" or arguments[:1] != (os.O_RDONLY,)):
                raise PermissionError(13, "Permission denied", str(path))
            return real[name](path, *arguments, **options)

        return call

    for name in real:
        monkeypatch.setattr(name, refusing(name))
    return folder


def test_c22_a_lock_file_that_cannot_be_written_is_named_with_a_way_out(
    unwritable: Path, hub: HubServer, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("org/mine", files)
    monkeypatch.setenv("FULLYCONV_LOCK", str(unwritable / "lock.json"))
    said = refusal("org/mine")
    assert "lock.json" in said
    assert "FULLYCONV_LOCK" in said


def test_c22_a_lock_file_on_a_full_disk_is_named_with_a_way_out_and_left_as_it_was(
    hub: HubServer, own_lock: Path, files: dict[str, bytes]
) -> None:
    hub.add_repo("org/mine", files)
    own_lock.parent.mkdir()
    entry = {"commit": "0" * 40, "files": {"w": {"bytes": 1, "sha256": "0" * 64}}}
    own_lock.write_text(json.dumps({"format": 1, "sources": {f"hf://org/{index}": entry for index in range(3000)}}))
    before = own_lock.read_bytes()
    with largest_file(2**19):
        said = refusal("org/mine")
    assert "lock.json" in said
    assert "FULLYCONV_LOCK" in said
    assert own_lock.read_bytes() == before
    assert [path.name for path in own_lock.parent.iterdir() if path.name.startswith(".lock")] == []


@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to none yet"])
def test_c22_a_lock_file_that_is_a_link_stays_one(
    there: bool, hub: HubServer, own_lock: Path, files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.add_repo("org/mine", files)
    kept = tmp_path / "elsewhere" / "lock.json"
    kept.parent.mkdir()
    own_lock.parent.mkdir()
    own_lock.symlink_to(kept)
    if there:
        kept.write_text(json.dumps({"format": 1, "sources": {}}))
    fullyconv.load("org/mine", allow_unverified=True)
    assert own_lock.is_symlink()
    assert "hf://org/mine" in recorded(kept)


def test_m18_a_home_that_cannot_be_written_is_named_with_a_way_out(
    unwritable: Path, hub: HubServer, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("org/mine", files)
    for name in ("FULLYCONV_LOCK", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(unwritable))
    assert "FULLYCONV_LOCK" in refusal("org/mine")


def test_m18_a_cache_of_the_hub_that_cannot_be_written_is_named_with_a_way_out(
    unwritable: Path, hub: HubServer, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    hub.add_repo("org/mine", files)
    monkeypatch.setenv("HF_HOME", str(unwritable))
    monkeypatch.setenv("HF_HUB_CACHE", str(unwritable / "hub"))
    for name, value in {"HF_HOME": unwritable, "HF_HUB_CACHE": unwritable / "hub"}.items():
        monkeypatch.setattr(constants, name, str(value))
    assert re.search("HF_HOME|HF_HUB_CACHE", refusal("org/mine"))


def test_m18_a_cache_of_downloads_that_cannot_be_written_is_named_with_a_way_out(
    unwritable: Path, files_server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    files_server.files["w.pth"] = BYTES
    for name in ("FULLYCONV_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(unwritable))
    assert "FULLYCONV_CACHE" in refusal(files_server.url("w.pth"), fullyconv.load_classifier)


# ---- M6: segmenters of others ---------------------------------------------------------------------------------------

LRASPP = "lraspp_mobilenet_v3_large"
DEEPLAB = "deeplabv3_mobilenet_v3_large"


def fine_tuned(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return calibrated(theirs(name, num_classes=3, **options))


def assert_equal(segmenter: Any, original: nn.Module) -> None:
    images = torch.rand(2, 3, 64, 96)
    normal = torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = original(normal(images))["out"]
        found = segmenter(images)
    signal = (expected[0] - expected[1]).abs().max()
    assert (found - expected).abs().max() < 1e-3 * signal


def test_m6_a_segmenter_of_torchvision_loads_by_its_architecture_and_classes(tmp_path: Path) -> None:
    original = fine_tuned(DEEPLAB, aux_loss=True)
    torch.save(original.state_dict(), tmp_path / "mine.pth")
    options: dict[str, Any] = {"architecture": DEEPLAB, "classes": ["a", "b", "c"]}
    segmenter = fullyconv.load(tmp_path / "mine.pth", **options)
    assert segmenter.classes == ["a", "b", "c"]
    assert_equal(segmenter, original)


@pytest.mark.parametrize("prefix", ["model.", "module.", "net.student."])
def test_m6_a_segmenter_of_torchvision_in_a_checkpoint_of_lightning_loads(prefix: str, tmp_path: Path) -> None:
    original = fine_tuned(LRASPP)
    state = {f"{prefix}{name}": value for name, value in original.state_dict().items()}
    content = {"state_dict": state, "epoch": 3, "global_step": 9, "pytorch-lightning_version": "2.6.0"}
    torch.save(content, tmp_path / "mine.ckpt")
    options: dict[str, Any] = {"architecture": LRASPP, "classes": ["a", "b", "c"]}
    assert_equal(fullyconv.load(tmp_path / "mine.ckpt", **options), original)


def test_m6_convert_writes_a_model_folder_of_a_segmenter_of_torchvision(tmp_path: Path) -> None:
    original = fine_tuned(LRASPP)
    torch.save(original.state_dict(), tmp_path / "mine.pth")
    words = ["--architecture", LRASPP, "--classes", "a,b,c", "--to", tmp_path / "converted"]
    assert run("convert", tmp_path / "mine.pth", *words) == 0
    segmenter = fullyconv.load(tmp_path / "converted")
    assert segmenter.classes == ["a", "b", "c"]
    assert_equal(segmenter, original)


@pytest.mark.parametrize("suffix", [".pth", ".ckpt"])
def test_m6_without_its_architecture_the_option_is_named(suffix: str, tmp_path: Path) -> None:
    state = theirs(LRASPP, num_classes=3).state_dict()
    path = tmp_path / f"mine{suffix}"
    torch.save({"state_dict": state, "epoch": 3} if suffix == ".ckpt" else state, path)
    said = refusal(path)
    assert path.name in said
    assert "architecture" in said


@pytest.mark.parametrize("suffix", [".pth", ".ckpt"])
def test_m6_a_file_of_segmentation_models_pytorch_is_named(suffix: str, tmp_path: Path) -> None:
    state = {
        "encoder.conv1.weight": torch.zeros(64, 3, 7, 7),
        "encoder.layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3),
        "decoder.blocks.0.conv1.0.weight": torch.zeros(256, 768, 3, 3),
        "segmentation_head.0.weight": torch.zeros(3, 16, 3, 3),
        "segmentation_head.0.bias": torch.zeros(3),
    }
    path = tmp_path / f"unet{suffix}"
    torch.save({"state_dict": state, "epoch": 3} if suffix == ".ckpt" else state, path)
    said = refusal(path)
    assert path.name in said
    assert re.search(r"segmentation_models|\bsmp\b|segmentation_head", said)


# ---- M7: what stands beside the weights -----------------------------------------------------------------------------

BESIDE: dict[str, tuple[str, dict[str, Tensor]]] = {
    "a loss with weights": ("model.", {"criterion.weight": torch.ones(6)}),
    "metrics": ("model.", {"train_acc.tp": torch.zeros(6, dtype=torch.int64), "val_iou.matrix": torch.zeros(6, 6)}),
    "an average": ("module.", {"n_averaged": torch.tensor(7)}),
    "an unknown prefix": ("student.net2.", {}),
    "an unknown prefix and more": ("student.net2.", {"criterion.weight": torch.ones(6), "n_averaged": torch.tensor(7)}),
    "a second network": ("student.", {"teacher.head.weight": torch.ones(6, 6)}),
}


def wrapped(folder: Path, name: str) -> Path:
    prefix, more = BESIDE[name]
    own = fullyconv.load_classifier("tile_kinds").network.state_dict()
    path = folder / "mine.ckpt"
    torch.save({"state_dict": {f"{prefix}{key}": value for key, value in own.items()} | more, "epoch": 3}, path)
    return path


@pytest.mark.parametrize("name", BESIDE)
def test_m7_a_classifier_is_found_among_what_stands_beside_it(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    original = fullyconv.load_classifier("tile_kinds")
    with caplog.at_level("INFO", logger="fullyconv"):
        found = fullyconv.load_classifier(
            wrapped(tmp_path, name),
            architecture="vgg11_quarter",
            classes=original.classes,
            preprocessing=original.preprocessing,
        )
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(found(image), original(image))
    for beside in BESIDE[name][1]:
        assert beside in caplog.text + str(getattr(found, "load_report", ""))


@pytest.mark.parametrize("name", BESIDE)
def test_m7_a_backbone_lists_what_stands_beside_its_weights_as_unused(name: str, tmp_path: Path) -> None:
    expected = fullyconv.load_backbone("vgg11_quarter", "tile_kinds").state_dict()
    backbone = fullyconv.load_backbone("vgg11_quarter", wrapped(tmp_path, name))
    assert all(torch.equal(value, expected[key]) for key, value in backbone.state_dict().items())
    assert backbone.load_report is not None
    for beside in BESIDE[name][1]:
        assert any(key.endswith(beside) for key in backbone.load_report.unused)
