from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import public_trees as trees
from fullyconv.data import public
from fullyconv.data.public import PUBLIC, Archive, fetch
from fullyconv.data.public.archives import check_md5, extract, fetch_archive, install
from fullyconv.data.public.voc import Voc
from fullyconv.data.sources import open_source
from fullyconv.errors import DatasetError, DownloadError
from hub_server import FileServer


def tar(path: Path, folder: Path, prefix: str = "", mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for file in sorted(folder.rglob("*")):
            archive.add(file, prefix + file.relative_to(folder).as_posix(), recursive=False)
    return path


def zipped(path: Path, folder: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


def tar_of(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size) if member.isreg() else None)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 3) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    info.size = size if kind == tarfile.REGTYPE else 0
    return info


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.fixture
def voc_tree(tmp_path: Path) -> Path:
    return trees.voc(tmp_path / "made" / "VOCdevkit" / "VOC2012").parent.parent


# Unpacking


@pytest.mark.parametrize("ending", [".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".zip"])
def test_archive_gives_the_files_that_were_packed(tmp_path: Path, voc_tree: Path, ending: str) -> None:
    path = tmp_path / f"set{ending}"
    if ending == ".zip":
        zipped(path, voc_tree)
    else:
        tar(path, voc_tree, mode={".tar": "w", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}.get(ending, "w:gz"))
    extract(path, tmp_path / "out")
    assert everything(tmp_path / "out") == everything(voc_tree)
    for file in voc_tree.rglob("*"):
        if file.is_file():
            assert (tmp_path / "out" / file.relative_to(voc_tree)).read_bytes() == file.read_bytes()


HOSTILE: dict[str, Callable[[Path], Path]] = {
    "above": lambda path: tar_of(path, member("../evil")),
    "above, deep": lambda path: tar_of(path, member("a/b/../../../evil")),
    "above, other slash": lambda path: tar_of(path, member("a\\..\\..\\evil")),
    "absolute": lambda path: tar_of(path, member("/tmp/evil")),
    "drive": lambda path: tar_of(path, member("C:\\evil")),
    "link out": lambda path: tar_of(path, member("a", tarfile.SYMTYPE, "/etc"), member("a/evil")),
    "link inside": lambda path: tar_of(path, member("b"), member("a", tarfile.SYMTYPE, "b")),
    "hard link": lambda path: tar_of(path, member("a", tarfile.LNKTYPE, "../../evil")),
    "device": lambda path: tar_of(path, member("a", tarfile.CHRTYPE)),
    "fifo": lambda path: tar_of(path, member("a", tarfile.FIFOTYPE)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_tar_that_reaches_out_of_its_folder_is_refused_and_writes_nothing_there(tmp_path: Path, kind: str) -> None:
    path = HOSTILE[kind](tmp_path / "set.tar")
    with pytest.raises(DatasetError, match=r"set\.tar: .*(leads out of its folder|is a link or a device)"):
        extract(path, tmp_path / "deep" / "er" / "out")
    assert not [name for name in everything(tmp_path) if "evil" in name]
    assert not any(entry.is_symlink() for entry in tmp_path.rglob("*"))
    assert not os.path.exists("/tmp/evil")


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "..\\evil", "C:/evil"])
def test_zip_that_reaches_out_of_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr(name, "x")
    with pytest.raises(DatasetError, match="leads out of its folder"):
        extract(tmp_path / "set.zip", tmp_path / "deep" / "out")
    assert not [name for name in everything(tmp_path) if "evil" in name]


def test_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        info = zipfile.ZipInfo("a")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DatasetError, match="'a' is a link or a device"):
        extract(tmp_path / "set.zip", tmp_path / "out")


@pytest.mark.parametrize("ending", [".zip", ".tgz", ".tar.xz"])
def test_archive_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path: Path, ending: str) -> None:
    path, zeros = tmp_path / f"bomb{ending}", bytes(2**25)
    if ending == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a", zeros)
    else:
        with tarfile.open(path, "w:gz" if ending == ".tgz" else "w:xz") as tape:
            info = tarfile.TarInfo("a")
            info.size = len(zeros)
            tape.addfile(info, io.BytesIO(zeros))
    with pytest.raises(DatasetError, match=r"bomb.*unpacks to more than \d+ bytes"):
        extract(path, tmp_path / "out")
    with pytest.raises(DatasetError, match="unpacks to more than 1000 bytes"):
        extract(path, tmp_path / "other", max_bytes=1000)


def test_more_files_than_any_set_has_the_same_file_twice_and_none_are_refused(tmp_path: Path) -> None:
    many = tar_of(tmp_path / "many.tar", *(member(f"f{i}") for i in range(5)))
    with pytest.raises(DatasetError, match="holds more than 4 files"):
        extract(many, tmp_path / "a", max_files=4)
    twice = tar_of(tmp_path / "twice.tar", member("a"), member("./a"))
    with pytest.raises(DatasetError, match=r"'a' twice, or it is there already|'\./a' twice"):
        extract(twice, tmp_path / "b")
    with pytest.raises(DatasetError, match="holds no files"):
        extract(tar_of(tmp_path / "none.tar", member("d", tarfile.DIRTYPE)), tmp_path / "c")
    with pytest.raises(DatasetError, match="holds a file where it also holds a folder"):
        extract(tar_of(tmp_path / "both.tar", member("a"), member("a/b")), tmp_path / "d")


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tgz", ".rar"])
def test_archive_cut_short_or_of_another_kind_is_named(tmp_path: Path, voc_tree: Path, ending: str) -> None:
    path = tmp_path / f"set{ending}"
    if ending == ".zip":
        zipped(path, voc_tree)
    else:
        tar(path, voc_tree, mode="w:gz" if ending == ".tgz" else "w")
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DatasetError, match=rf"set\{ending}: (damaged, or not whole|no archive that is understood)"):
        extract(path, tmp_path / "out")


# From an archive that lies there


def test_archive_under_the_root_is_unpacked_once_and_stays(
    tmp_path: Path, voc_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "sets"
    root.mkdir()
    tar(root / "voc2012.tar", voc_tree)
    monkeypatch.setenv("FULLYCONV_DATA", str(root))
    source = open_source("voc2012")
    assert source.root == root / "voc2012" / "VOCdevkit" / "VOC2012"
    assert sorted(path.name for path in root.iterdir()) == ["voc2012", "voc2012.tar"]
    before = source.root.stat().st_ino
    assert open_source("voc2012").root.stat().st_ino == before


def test_sets_of_several_archives_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FULLYCONV_DATA", str(tmp_path))
    made = trees.cityscapes(tmp_path / "made" / "city")
    for name in ("leftImg8bit", "gtFine"):
        zipped(tmp_path / f"{name}_trainvaltest.zip", made / name, f"{name}/")
    assert len(open_source("cityscapes").splits["train"]) == 2
    made = trees.coco_stuff(tmp_path / "made" / "coco")
    (tmp_path / "coco_stuff").mkdir()
    for split in ("train2017", "val2017"):
        zipped(tmp_path / "coco_stuff" / f"{split}.zip", made / "images" / split, f"{split}/")
    zipped(tmp_path / "coco_stuff" / "stuffthingmaps_trainval2017.zip", made / "stuffthingmaps")
    assert len(open_source("coco_stuff").splits["train"]) == 2
    assert not list(tmp_path.rglob(".fullyconv-*"))


def test_half_of_the_archives_is_not_enough(tmp_path: Path) -> None:
    zipped(tmp_path / "gtFine_trainvaltest.zip", trees.cityscapes(tmp_path / "made") / "gtFine", "gtFine/")
    with pytest.raises(
        FileNotFoundError, match=r"Archives are unpacked where they lie .*leftImg8bit_trainvaltest\.zip"
    ):
        fetch("cityscapes", tmp_path, download=False)


def test_hostile_or_wrong_archive_leaves_nothing(tmp_path: Path) -> None:
    HOSTILE["link out"](tmp_path / "ade20k.tar")
    with pytest.raises(DatasetError, match="is a link or a device"):
        fetch("ade20k", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ade20k.tar"]
    tar_of(tmp_path / "ade20k.tar", member("readme.txt"))
    with pytest.raises(DatasetError, match="was unpacked and is not laid out as ADE20K, scene parsing"):
        fetch("ade20k", tmp_path)


def test_archive_of_a_published_name_and_other_content_is_refused(tmp_path: Path, voc_tree: Path) -> None:
    tar(tmp_path / "VOCtrainval_11-May-2012.tar", voc_tree)
    with pytest.raises(DatasetError, match=r"VOCtrainval_11-May-2012\.tar: md5 [0-9a-f]{32}, published 6cd6e144"):
        fetch("voc2012", tmp_path, download=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["VOCtrainval_11-May-2012.tar", "made"]


def test_what_is_there_is_never_overwritten(tmp_path: Path, voc_tree: Path) -> None:
    (tmp_path / "voc2012" / "VOCdevkit").mkdir(parents=True)
    archive = (Archive("voc2012.tar"), tar(tmp_path / "voc2012.tar", voc_tree))
    with pytest.raises(DatasetError, match="VOCdevkit: is there already, and the set is not whole; move it away"):
        install([archive], tmp_path / "voc2012")
    assert everything(tmp_path / "voc2012") == {"VOCdevkit"}


def test_process_that_comes_second_takes_what_the_first_has_unpacked(
    tmp_path: Path, voc_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar(tmp_path / "voc2012.tar", voc_tree)
    unpack = public.install

    def twice(*arguments: Any) -> None:
        unpack(*arguments)
        unpack(*arguments)

    monkeypatch.setattr(public, "install", twice)
    assert fetch("voc2012", tmp_path) == tmp_path / "voc2012" / "VOCdevkit" / "VOC2012"
    assert not list(tmp_path.glob(".fullyconv-*"))


def test_folder_that_cannot_be_written_is_named(tmp_path: Path, voc_tree: Path) -> None:
    archive = (Archive("voc2012.tar"), tar(tmp_path / "voc2012.tar", voc_tree))
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match=r"file: cannot be written .*; unpack the set by hand elsewhere"):
        install([archive], tmp_path / "file" / "voc2012")


def test_sbd_and_the_voc_that_it_needs_are_unpacked_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.sbd(tmp_path / "made" / "a" / "benchmark_RELEASE" / "dataset", ["2008_000002"], ["2008_000003"])
    trees.voc(tmp_path / "made" / "b" / "VOCdevkit" / "VOC2011")
    tar(tmp_path / "sbd_seg11valid.tgz", tmp_path / "made" / "a", mode="w:gz")
    tar(tmp_path / "voc2011.tar", tmp_path / "made" / "b", "TrainVal/")
    monkeypatch.setenv("FULLYCONV_DATA", str(tmp_path))
    source = open_source("sbd_seg11valid")
    assert source.root == tmp_path / "sbd" / "benchmark_RELEASE" / "dataset"
    assert len(source.splits["val"]) == 3


# Fetched


@dataclass(frozen=True)
class LocalVoc(Voc):
    """PASCAL VOC from a server of the test."""

    urls: tuple[str, ...] = ()
    md5: str = ""

    @property
    def archives(self) -> tuple[Archive, ...]:
        return (Archive("VOCtrainval_11-May-2012.tar", self.urls, self.md5),)


def test_set_is_fetched_from_the_first_address_that_gives_the_published_bytes(
    tmp_path: Path, voc_tree: Path, files_server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tar(tmp_path / "made.tar", voc_tree).read_bytes()
    files_server.files.update({"mirror/voc.tar": content, "changed/voc.tar": content[:-512] + bytes(512) + b"x"})
    urls = tuple(files_server.url(f"{place}/voc.tar") for place in ("gone", "changed", "mirror"))
    known = LocalVoc("voc2012", PUBLIC["voc2012"].labels, 2012, urls, hashlib.md5(content).hexdigest())
    monkeypatch.setitem(public.PUBLIC, "voc2012", known)
    root = tmp_path / "sets"
    assert fetch("voc2012", root) == root / "voc2012" / "VOCdevkit" / "VOC2012"
    assert [path.split("/")[1] for path in files_server.asked() if "voc.tar" in path][-1] == "mirror"
    assert sorted(path.name for path in (root / "voc2012").iterdir()) == ["VOCdevkit", "VOCtrainval_11-May-2012.tar"]


def test_fetching_that_fails_tells_the_reason_of_every_address_and_leaves_nothing(
    tmp_path: Path, files_server: FileServer
) -> None:
    files_server.files["changed"] = b"something else"
    archive = Archive("voc.tar", (files_server.url("gone"), files_server.url("changed")), "0" * 32)
    with pytest.raises(DownloadError, match=r"voc\.tar: no address gives it: .*404.*; .*/changed: md5 .*published 000"):
        fetch_archive(archive, tmp_path / "sets")
    assert everything(tmp_path / "sets") == set()
    with pytest.raises(DownloadError, match="it has to be fetched by hand"):
        fetch_archive(Archive("a.zip"), tmp_path)


def test_connection_that_breaks_is_taken_up_again(
    tmp_path: Path, files_server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fullyconv.download.PAUSE", 0.0)
    content = os.urandom(200_000)
    files_server.files["a.tar"] = content
    files_server.fault("a.tar", "cut", after=100_000)
    archive = Archive("a.tar", (files_server.url("a.tar"),), hashlib.md5(content).hexdigest())
    assert fetch_archive(archive, tmp_path).read_bytes() == content


def test_nothing_is_fetched_unless_it_was_asked_for(tmp_path: Path, loopback: None) -> None:
    with pytest.raises(FileNotFoundError, match="It can be fetched"):
        fetch("voc2012", tmp_path, download=False)
    for name in ("cityscapes", "ade20k", "coco_stuff", "siftflow", "nyudv2", "camvid"):
        with pytest.raises(FileNotFoundError, match=f"{name}: "):
            fetch(name, tmp_path)


def test_archives_with_a_digest_have_it_from_torchvision() -> None:
    from torchvision.datasets import SBDataset
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    assert PUBLIC["voc2012"].archives[0].md5 == DATASET_YEAR_DICT["2012"]["md5"]
    assert PUBLIC["voc2008"].archives[0].file == "VOCtrainval_14-Jul-2008.tar"
    assert [archive.optional for archive in PUBLIC["voc2007"].archives] == [False, True]
    assert PUBLIC["sbd"].archives[0].md5 == SBDataset.md5
    assert [archive.file for archive in PUBLIC["oxford_pet"].archives] == ["images.tar.gz", "annotations.tar.gz"]
    for known in PUBLIC.values():
        for archive in known.archives:
            assert bool(archive.urls) == (archive.md5 is not None)
            assert all(url.startswith("https://") for url in archive.urls)


def test_md5_of_the_published_bytes_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"abc")
    check_md5(path, hashlib.md5(b"abc").hexdigest())
    with pytest.raises(DatasetError, match="not whole, or another release"):
        check_md5(path, hashlib.md5(b"abd").hexdigest())
