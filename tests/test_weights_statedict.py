from __future__ import annotations

import contextlib
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as to_safetensors
from safetensors.torch import save_file
from torch import Tensor

from fullyconv.errors import WeightsError
from fullyconv.weights import statedict
from fullyconv.weights.classifiers import ClassifierWeights, apply
from fullyconv.weights.statedict import StateFile, read_state_dict

TENSORS = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.tensor([0.5, -0.5])}


def saved(folder: Path, value: object, name: str = "weights.pth", **options: Any) -> Path:
    path = folder / name
    torch.save(value, path, **options)
    return path


def written(folder: Path, content: bytes, name: str) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def same(file: StateFile, tensors: dict[str, Tensor] = TENSORS) -> bool:
    return list(file.tensors) == list(tensors) and all(torch.equal(file.tensors[key], tensors[key]) for key in tensors)


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", statedict.TORCH_SUFFIXES)
@pytest.mark.parametrize("archive", [True, False])
def test_files_of_torch_are_read_under_every_suffix_old_and_new(tmp_path: Path, suffix: str, archive: bool) -> None:
    path = saved(tmp_path, TENSORS, f"weights{suffix}", _use_new_zipfile_serialization=archive)
    file = read_state_dict(str(path))
    assert same(file)


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "weights.safetensors", metadata={"format": "pt", "note": "one\nline"})
    file = read_state_dict(tmp_path / "weights.safetensors")
    assert sorted(file.tensors) == sorted(TENSORS)
    assert same(StateFile({key: file.tensors[key] for key in TENSORS}))


@pytest.mark.parametrize("nest", [
    lambda state: {"state_dict": state, "epoch": 3, "arch": "resnet50", "optimizer": {"state": {}}},
    lambda state: {"model_state_dict": state, "epoch": 3, "arch": "resnet50"},
    lambda state: {"model": state, "epoch": 3, "arch": "resnet50"},
    lambda state: {"net": state, "epoch": 3, "arch": "resnet50", "best": torch.tensor(76.1)},
    lambda state: {"state_dict": {}, "model": {"state_dict": state}, "epoch": 3, "arch": "resnet50"},
    lambda state: {"state_dict": {"other": torch.zeros(1)}, "state_dict_ema": state, "epoch": 3, "arch": "resnet50"},
    lambda state: {
        "state_dict": state, "epoch": 3, "arch": "resnet50", "global_step": 7, "pytorch-lightning_version": "2.6.0",
        "callbacks": {}, "loops": {}, "hyper_parameters": {"lr": 0.1},
    },
])  # fmt: skip
def test_weights_are_found_within_the_checkpoints_of_training_programs(
    tmp_path: Path, nest: Callable[[dict[str, Tensor]], dict[str, Any]]
) -> None:
    file = read_state_dict(saved(tmp_path, nest(TENSORS), "last.ckpt"))
    assert same(file)


@pytest.mark.parametrize(
    ("prefix", "taken"),
    [
        ("module.", "module."),
        ("model.", "model."),
        ("_orig_mod.", "_orig_mod."),
        ("module._orig_mod.backbone.", "module._orig_mod.backbone."),
        ("encoder.", "encoder."),
        ("features.", ""),  # no wrapper's
    ],
)
def test_prefixes_of_wrappers_are_taken_off(tmp_path: Path, prefix: str, taken: str) -> None:
    wrapped = {prefix + key: value for key, value in TENSORS.items()}
    for path in (saved(tmp_path, wrapped), tmp_path / "weights.safetensors"):
        save_file(wrapped, tmp_path / "weights.safetensors")
        file = read_state_dict(path)
        assert set(file.tensors) == {key if taken else prefix + key for key in TENSORS}


def test_a_prefix_that_some_names_lack_is_part_of_the_names(tmp_path: Path) -> None:
    tensors = {"backbone.weight": torch.zeros(1), "head.weight": torch.zeros(1)}
    assert set(read_state_dict(saved(tmp_path, tensors)).tensors) == set(tensors)


def test_a_prefix_is_taken_off_although_entries_that_are_no_tensors_lack_it(tmp_path: Path) -> None:
    state = OrderedDict({"module.weight": torch.nn.Parameter(torch.zeros(2)), "version": 2, "_extra_state": None})
    file = read_state_dict(saved(tmp_path, state))
    assert list(file.tensors) == ["weight"]
    assert not file.tensors["weight"].requires_grad


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_half_precision_is_widened_and_the_rest_is_kept(tmp_path: Path, suffix: str) -> None:
    tensors = {
        "half": torch.tensor([1.5]).half(),
        "brain": torch.tensor([1.5]).bfloat16(),
        "double": torch.tensor([1.5]).double(),
        "count": torch.tensor(7),
        "none": torch.zeros(0, 3),
        "flag": torch.tensor([True]),
    }
    path = tmp_path / f"weights{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    read = read_state_dict(path).tensors
    assert {key: value.dtype for key, value in read.items()} == {
        "half": torch.float32,
        "brain": torch.float32,
        "double": torch.float64,
        "count": torch.int64,
        "none": torch.float32,
        "flag": torch.bool,
    }
    assert read["half"].item() == read["brain"].item() == 1.5


def test_tied_weights_and_slices_are_read(tmp_path: Path) -> None:
    whole = torch.randn(600, 600)
    read = read_state_dict(saved(tmp_path, {"a": whole, "b": whole, "c": whole.t()[1:]})).tensors
    assert torch.equal(read["b"], whole)
    assert torch.equal(read["c"], whole.t()[1:])


def test_tensors_known_to_hold_nothing_are_left_out_unseen(tmp_path: Path) -> None:
    tensors = {**TENSORS, "classifier.0.weight": torch.tensor([torch.nan])}
    save_file(tensors, tmp_path / "weights.safetensors")
    for path in (saved(tmp_path, tensors), tmp_path / "weights.safetensors"):
        with pytest.raises(WeightsError, match=r"tensor 'classifier.0.weight' holds values that are not finite"):
            read_state_dict(path)
        assert set(read_state_dict(path, without=("classifier.",)).tensors) == set(TENSORS)


def test_caffes_files_go_all_the_way_into_a_backbone(tmp_path: Path) -> None:
    caffe_nets = pytest.importorskip("caffe_nets")
    net = caffe_nets.Net(legacy=True)
    fc7 = net.vgg(net.input("data", 3, (50, 50)), caffe_nets.WIDTHS, caffe_nets.FC)
    net.conv("fc8", fc7, 10, 1, relu=False)
    file = read_state_dict(net.save(tmp_path / "vgg16.caffemodel"), without=("fc8.",))
    assert "fc8.weight" not in file.tensors
    backbone = caffe_nets.thin_vgg16()
    load_report = apply(backbone, ClassifierWeights(file.tensors, source="vgg16.caffemodel"))
    assert len({*load_report.copied, *load_report.reshaped}) == len(backbone.state_dict()) == len(file.tensors)
    assert torch.equal(backbone.features[0].bias, torch.tensor(net.named("conv1_1").blobs[1].data))
    with pytest.raises(WeightsError, match=r"is an HTML page, no .caffemodel; a server gave it"):
        read_state_dict(written(tmp_path, b"<html>", "page.caffemodel"))


# --- what is refused --------------------------------------------------------------------------------------------------


class Thing:
    pass


class Harm:
    """What a hostile pickle does: it calls something when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("code of the file was run",))


SAFE = to_safetensors(TENSORS)


def broken_header(text: str) -> bytes:
    return len(text).to_bytes(8, "little") + text.encode()


RAW: list[tuple[str, bytes, str]] = [
    ("weights.pth", b"", r"is empty, no file of torch.save; fetch it again"),
    ("weights.safetensors", b"", r"is empty, no safetensors file; fetch it again"),
    ("weights.pth", SAFE, r"is a safetensors file, no file of torch.save; rename it to .safetensors"),
    (
        "weights.bin",
        b"\n<!DOCTYPE html><p>Log in",
        r"is an HTML page, no file of torch.save; a server gave it .* open the address in a browser",
    ),
    ("weights.safetensors", b"<?xml version='1.0'?><Error>", r"is a page of XML or HTML, no safetensors file"),
    (
        "weights.safetensors",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        r"is a git-lfs pointer in place of the file, no safetensors file; the file itself lies elsewhere: run 'git lfs",
    ),
    ("weights.pt", b"version https://git-lfs.github.com/spec/v1\n", r"is a git-lfs pointer"),
    ("weights.pth", pickle.dumps({"a": 1}), r"is a pickle that torch.save did not write, no file of torch.save"),
    ("weights.safetensors", pickle.dumps({"a": 1}), r"is a pickle that torch.save did not write, no safetensors file"),
    ("weights.tar", b"a" * 257 + b"ustar" + b"\0" * 300, r"is nothing that is known, no file of torch.save"),
    ("weights.pth", b"\x1f\x8b\x08\0", r"is nothing that is known, no file of torch.save; .* unpacked"),
    ("weights.pth", b"hello", r"is nothing that is known, no file of torch.save"),
    ("weights.safetensors", b"hello", r"is no sound safetensors file \(.*header too small\); fetch it again"),
    ("weights.safetensors", (2**62).to_bytes(8, "little") + b"{}", r"no sound safetensors file \(.*header too large\)"),
    ("weights.safetensors", SAFE[:-3], r"no sound safetensors file \(.*\)"),
    ("weights.safetensors", SAFE[:20], r"no sound safetensors file \(.*\)"),
    ("weights.safetensors", broken_header("{]"), r"no sound safetensors file \(.*\)"),
    (
        "weights.safetensors",
        broken_header('{"a":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,4]}}') + b"\0" * 4,
        r"no sound safetensors file \(.*\)",
    ),
    ("weights.safetensors", broken_header("{}"), r"holds no tensors; pass the file with the weights"),
    ("weights.onnx", b"\x08", r"suffix '.onnx' is of no weight file; known are .safetensors, .pth, .pt"),
    ("weights", b"\x08", r"suffix '' is of no weight file"),
]


@pytest.mark.parametrize(("name", "content", "message"), RAW, ids=[f"{name}-{m[:30]}" for name, _, m in RAW])
def test_files_of_another_kind_are_told_by_what_they_are(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(WeightsError, match=message) as refusal:
        read_state_dict(written(tmp_path, content, name))
    assert str(refusal.value).startswith(str(tmp_path / name)), "the file is named"


OBJECTS: dict[str, tuple[Callable[[], object], str]] = {
    "a module": (lambda: torch.nn.Linear(2, 2), r"holds Python objects \(torch.nn.modules.linear.Linear\) beside its"),
    "an object": (lambda: {"state_dict": TENSORS, "args": Thing()}, r"holds Python objects \([\w.]*Thing\)"),
    "harm": (lambda: {"state_dict": TENSORS, "args": Harm()}, r"holds Python objects \(.*could run anything"),
    "one tensor": (lambda: torch.zeros(3), r"holds a Tensor, not tensors by name; save them so: torch.save\(model"),
    "a list": (lambda: [torch.zeros(3)], r"holds a list, not tensors by name"),
    "nothing": (lambda: None, r"holds a NoneType, not tensors by name"),
    "no tensors": (
        lambda: {"epoch": 3, "lr": 0.1},
        r"holds no tensors, only epoch, lr; pass the file with the weights",
    ),
    "an empty state": (lambda: {"state_dict": {"a": 1}}, r"holds no tensors, only a"),
    "numbered": (lambda: {0: torch.zeros(1)}, r"holds tensors under what is no name \(0\)"),
    "not finite": (lambda: {"a": torch.tensor([1.0, torch.inf])}, r"tensor 'a' holds values that are not finite"),
    "half not finite": (
        lambda: {"a": torch.tensor([torch.nan]).half()},
        r"tensor 'a' holds values that are not finite",
    ),
    "sparse": (
        lambda: {"a": torch.eye(3).to_sparse()},
        r"tensor 'a' holds no plain numbers \(sparse_coo, float32, cpu\); save it as floating point numbers",
    ),
    "complex": (lambda: {"a": torch.zeros(2, dtype=torch.complex64)}, r"tensor 'a' holds no plain numbers"),
    "eight bits": (
        lambda: {"a": torch.zeros(2).to(torch.float8_e4m3fn)},
        r"holds no plain numbers|is damaged",
    ),
    "without data": (lambda: {"a": torch.zeros(2, device="meta")}, r"tensor 'a' holds no plain numbers"),
    "a bomb": (lambda: {"a": torch.zeros(1).expand(10**12)}, r"tensor 'a': it and those before have more numbers"),
    "many views": (
        lambda: dict.fromkeys(map(str, range(64)), torch.zeros(2**15)),
        r"have more numbers than the file has bytes",
    ),
    "line breaks": (lambda: {"a\n\x1b[31mb": torch.tensor([torch.nan])}, r"tensor 'a  \[31mb' holds values"),
}


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("case", OBJECTS)
def test_what_is_no_plain_state_dict_is_refused_and_never_run(tmp_path: Path, case: str, archive: bool) -> None:
    build, message = OBJECTS[case]
    path = saved(tmp_path, build(), _use_new_zipfile_serialization=archive)
    with pytest.raises(WeightsError, match=message) as refusal:
        read_state_dict(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "weights_only" not in str(refusal.value), "nobody is told to load it unsafely"


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_quantized_tensors_are_refused(tmp_path: Path) -> None:
    quantized = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    with pytest.raises(WeightsError, match=r"tensor 'a' holds no plain numbers"):
        read_state_dict(saved(tmp_path, {"a": quantized}))


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_file_that_was_cut_off_is_said_to_be(tmp_path: Path, archive: bool, kept: float) -> None:
    path = saved(tmp_path, {"a": torch.randn(3000)}, _use_new_zipfile_serialization=archive)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(WeightsError, match=r"weights.pth: .*damaged or cut off.*fetch it again"):
        read_state_dict(path)


def test_a_damaged_byte_anywhere_is_an_error_of_ours_or_harmless(tmp_path: Path) -> None:
    for archive in (True, False):
        content = saved(tmp_path, TENSORS, _use_new_zipfile_serialization=archive).read_bytes()
        for position in range(0, len(content), 7):
            damaged = bytearray(content)
            damaged[position] ^= 0xFF
            with contextlib.suppress(WeightsError):
                read_state_dict(written(tmp_path, bytes(damaged), "damaged.pth"))
    for position in range(len(SAFE)):
        damaged = bytearray(SAFE)
        damaged[position] ^= 0xFF
        with contextlib.suppress(WeightsError):
            read_state_dict(written(tmp_path, bytes(damaged), "damaged.safetensors"))


def test_archives_that_torch_did_not_write_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("vgg16.pth", b"0")
        archive.writestr("read\nme.txt", b"0")
    with pytest.raises(WeightsError, match=r"a zip archive that torch.save did not write \(vgg16.pth, read me.txt\)"):
        read_state_dict(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("code/constants.pkl", b"0")
    with pytest.raises(WeightsError, match=r"is a TorchScript program, not weights alone"):
        read_state_dict(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"0" * 10**6)
    with pytest.raises(WeightsError, match=r"archive/data.pkl within it is compressed, which torch.save never does"):
        read_state_dict(path)


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, TENSORS)
    for limit, value, message in (
        ("MAX_TENSORS", 1, r"entries; a weight file has at most 1"),
        ("MAX_PICKLE_BYTES", 10, r"its list of tensors has \d+ bytes, a weight file's at most 10"),
        ("MAX_BYTES", 100, r"\d+ bytes; a weight file has at most 100"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(statedict, limit, value)
            with pytest.raises(WeightsError, match=message):
                read_state_dict(path)


def test_what_is_not_there_is_not_a_damaged_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"weights.pth: not found; pass a weight file \(.safetensors, .pth"):
        read_state_dict(tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"is a folder; pass the weight file in it"):
        read_state_dict(tmp_path)
    (tmp_path / "weights.safetensors").symlink_to(saved(tmp_path, TENSORS))
    with pytest.raises(WeightsError, match=r"is a zip archive, as torch.save writes, no safetensors file; rename it"):
        read_state_dict(tmp_path / "weights.safetensors")
