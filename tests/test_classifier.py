"""Classifiers from anywhere, whole and converted, as model folders, and on real images."""

from __future__ import annotations

import copy
import io
import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

import fullyconv
from closeness import assert_close, assert_same_mask, assert_same_tensors
from fullyconv.classifier import Classifier, DenseScorer
from fullyconv.errors import WeightsError
from fullyconv.images import read_mask
from fullyconv.inference.options import Options
from fullyconv.inference.tiling import plan
from fullyconv.preprocessing import CAFFE, IMAGENET
from fullyconv.weights.architectures import CLASSIFIERS, build_classifier, input_size
from hub_server import HubServer

CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FULLYCONV_LOCK", str(tmp_path / "lock.json"))
    monkeypatch.setenv("FULLYCONV_CACHE", str(tmp_path / "own_cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def calibrated(network: nn.Module, size: int) -> nn.Module:
    """Let batch norm see noise once: the scores of an untouched random network hardly depend on the image."""
    torch.manual_seed(0)
    with torch.no_grad():
        network.train()(torch.randn(8, 3, size, size))
    return network.eval()


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    network = calibrated(build_classifier("cifar_resnet20", 10), 32)
    return Classifier(network, CIFAR, IMAGENET, (32, 32), "cifar_resnet20", "BSD-2").eval()


@pytest.fixture(scope="module")
def dense(classifier: Classifier) -> DenseScorer:
    return classifier.convolutionalize()


@pytest.fixture(scope="module")
def saved(dense: DenseScorer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the dense network."""
    return dense.save_pretrained(tmp_path_factory.mktemp("dense") / "dense")


def test_the_dense_network_gives_the_classifier_back_at_its_own_size(
    classifier: Classifier, dense: DenseScorer
) -> None:
    images = torch.rand(4, 3, 32, 32)
    with torch.inference_mode():
        scores = classifier(images)
        assert_close(dense.scores(images)[:, :, 0, 0], scores, varying=(0,))
        assert dense(images).shape == (4, 10, 32, 32)
        assert dense.scores(torch.rand(1, 3, 40, 52)).shape == (1, 10, 3, 6)


def test_predict_is_the_argmax_of_the_logits_at_any_size(dense: DenseScorer) -> None:
    rng = np.random.default_rng(0)
    for size in ((32, 32), (50, 71), (9, 5), (33, 120)):
        pixels = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        result = dense.predict(pixels)
        with torch.inference_mode():
            logits = dense(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
        assert result.mask.shape == size
        assert_same_mask(result.mask, logits.argmax(1)[0])
        assert result.classes == CIFAR


def test_bands_of_a_large_image_join_without_a_seam(dense: DenseScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (70, 61, 3)).astype(np.uint8)
    whole = dense.predict(pixels).mask
    monkeypatch.setattr("fullyconv.inference.tiles.BAND_BYTES", 7 * 61 * 10 * 4)  # seven rows at a time
    assert_same_mask(dense.predict(pixels).mask, whole)


def test_predict_leaves_the_mode_as_it_was(dense: DenseScorer) -> None:
    training = copy.deepcopy(dense).train()
    training.predict(np.zeros((40, 40, 3), np.uint8))
    assert training.training


def test_both_kinds_of_model_folder_come_back_as_they_were(
    classifier: Classifier, dense: DenseScorer, saved: Path, tmp_path: Path
) -> None:
    classifier.save_pretrained(tmp_path / "whole")
    whole = fullyconv.load_classifier(tmp_path / "whole")
    again = fullyconv.load(saved)
    assert isinstance(again, DenseScorer)
    assert_same_tensors(whole, classifier)
    assert_same_tensors(again, dense)
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert_close(whole(images), classifier(images), varying=(0,))
        assert_close(again.scores(images)[..., 0, 0], classifier(images))
    assert (whole.classes, whole.input_size, whole.license) == (CIFAR, (32, 32), "BSD-2")
    assert (again.classes, again.network.input_size, again.license) == (CIFAR, (32, 32), "BSD-2")
    assert not whole.training
    assert not again.training
    assert "dense classifier, 10 classes" in (saved / "README.md").read_text()


def test_a_dense_network_can_be_made_whole_again(classifier: Classifier, saved: Path) -> None:
    assert_same_tensors(fullyconv.load_classifier(saved), classifier)


def test_load_names_the_loader_of_a_classifier_and_the_other_way_round(classifier: Classifier, tmp_path: Path) -> None:
    classifier.save_pretrained(tmp_path / "whole")
    with pytest.raises(WeightsError, match=r"holds a classifier, not a segmenter: fullyconv\.load_classifier loads it"):
        fullyconv.load(tmp_path / "whole")
    with pytest.raises(WeightsError, match=r"kind='segmenter', which is no classifier; fullyconv\.load loads"):
        fullyconv.load_classifier("street")
    with pytest.raises(WeightsError, match="holds a classifier, not a segmenter"):
        fullyconv.SegmentationModule.from_pretrained(tmp_path / "whole")


def test_a_converted_classifier_has_no_score_layers_to_exchange(saved: Path) -> None:
    with pytest.raises(ValueError, match="is a converted classifier, which has no score layers to exchange"):
        fullyconv.load(saved, classes=["a", "b"])


def test_a_network_of_ones_own_is_not_saved_under_no_name() -> None:
    mine = Classifier(build_classifier("cifar_resnet20", 2), ["a", "b"], IMAGENET, (32, 32))
    with pytest.raises(ValueError, match="a network of your own cannot be built again from a name"):
        mine.save_pretrained("anywhere")
    with pytest.raises(ValueError, match="a network of your own cannot be built again from a name"):
        mine.convolutionalize().save_pretrained("anywhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "cifar_resnet21"}, r"no such classifier. Did you mean cifar_resnet20\?"),
        ({"architecture": "resnet18"}, r"no such classifier. Did you mean torchvision/resnet18\?"),
        ({"architecture": "torchvision/os"}, "torchvision has no such classifier"),
        ({"architecture": "torchvision/fcn_resnet50"}, "torchvision has no such classifier"),
        ({"architecture": "timm/../../x"}, "timm has no such model"),
        ({"architecture": "cifar_resnet56"}, "the tensors are not those of the model"),
        ({"architecture": 3}, "must hold architecture, input_size"),
        ({"input_size": [0, 32]}, r"input_size=\[0, 32\]; must be height and width in 1..4096"),
        ({"input_size": [10**9, 32]}, "must be height and width in 1..4096"),
        ({"input_size": "32"}, "must be height and width in 1..4096"),
        ({"more": 1}, "and nothing else"),
    ],
)
def test_a_configuration_from_outside_is_checked(
    classifier: Classifier, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    classifier.save_pretrained(tmp_path / "whole")
    path = tmp_path / "whole" / "config.json"
    document = json.loads(path.read_text())
    document["model"] |= change
    path.write_text(json.dumps(document))
    with pytest.raises(WeightsError, match=message):
        fullyconv.load_classifier(tmp_path / "whole")


def test_a_dense_configuration_whose_network_does_not_convert_is_refused(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "dense")
    path = tmp_path / "dense" / "config.json"
    document = json.loads(path.read_text())
    document["model"]["pool"] = "none"
    path.write_text(json.dumps(document))
    with pytest.raises(WeightsError, match="describes no classifier that can be built and converted"):
        fullyconv.load(tmp_path / "dense")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in ("efficientnet_lite1", "efficientnet_lite2")))
        for name in CLASSIFIERS  # lite0 is a quick relative of both
    ],
)
def test_every_classifier_of_the_package_is_built_and_converts(name: str) -> None:
    size = input_size(name)
    network = build_classifier(name, 4).eval()
    dense = fullyconv.convolutionalize(network, input_size=size)
    image = torch.rand(1, 3, size, size)
    with torch.inference_mode():
        assert_close(dense(image).flatten(1), network(image))


def test_the_number_of_classes_is_read_off_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(build_classifier("torchvision/resnet18", 7).state_dict(), tmp_path / "mine.pth")
    with caplog.at_level("INFO", logger="fullyconv"):
        loaded = fullyconv.load_classifier(tmp_path / "mine.pth", architecture="torchvision/resnet18")
    assert loaded.classes == [f"class {index}" for index in range(7)]
    assert loaded.preprocessing == IMAGENET
    assert "says nothing of its classes" in caplog.text
    assert "ImageNet's mean and deviation are assumed" in caplog.text


def test_a_bare_file_does_not_say_its_architecture_or_its_model(tmp_path: Path) -> None:
    torch.save(build_classifier("torchvision/resnet18", 7).state_dict(), tmp_path / "mine.pth")
    with pytest.raises(ValueError, match="does not say of which architecture it is; pass architecture="):
        fullyconv.load_classifier(tmp_path / "mine.pth")
    with pytest.raises(WeightsError, match="does not say which model it belongs to"):
        fullyconv.load(tmp_path / "mine.pth")
    with pytest.raises(WeightsError, match="the tensors are not those of the model; nothing was loaded"):
        fullyconv.load_classifier(tmp_path / "mine.pth", architecture="torchvision/resnet34")


def test_a_repository_of_timm_brings_its_own_preprocessing_and_license(hub: HubServer, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    network = calibrated(timm.create_model("resnet18", num_classes=5), 64)
    pretrained = {
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.2, 0.1],
        "input_size": [3, 64, 64],
        "license": "apache-2.0",
        "num_classes": 5,
    }
    config = {"architecture": "resnet18", "num_classes": 5, "pretrained_cfg": pretrained}
    config["label_names"] = ["a", "b", "c", "d", "e"]
    weights = to_safetensors({key: value.contiguous() for key, value in network.state_dict().items()})
    files = {"config.json": json.dumps(config).encode(), "model.safetensors": weights}
    hub.add_repo("org/mine", files)
    loaded = fullyconv.load_classifier("hf://org/mine", allow_unverified=True)
    assert (loaded.classes, loaded.input_size, loaded.license) == (["a", "b", "c", "d", "e"], (64, 64), "apache-2.0")
    image = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert_close(loaded(image), network(loaded.preprocessing(image)), varying=(0,))
    assert loaded.preprocessing.mean == (0.5, 0.4, 0.3)
    with pytest.raises(WeightsError, match=r"holds a classifier, not a segmenter: fullyconv\.load_classifier"):
        fullyconv.load("hf://org/mine", allow_unverified=True)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert_same_tensors(fullyconv.load_classifier(tmp_path), loaded)
    with pytest.raises(WeightsError, match="holds a classifier, not a segmenter"):
        fullyconv.load(tmp_path)
    backbone = fullyconv.load_backbone("resnet18", "org/mine")
    assert backbone.preprocessing == loaded.preprocessing
    assert backbone.load_report is not None
    assert set(backbone.load_report.unused) == {"fc.weight", "fc.bias"}


def test_weights_under_caffes_names_load_as_a_classifier(tmp_path: Path) -> None:
    network = build_classifier("caffenet", 6)
    tensors = {key: value.contiguous() for key, value in network.state_dict().items()}
    (tmp_path / "caffenet.safetensors").write_bytes(to_safetensors(tensors))
    loaded = fullyconv.load_classifier(tmp_path / "caffenet.safetensors", classes=list("abcdef"))
    assert (loaded.architecture, loaded.input_size, loaded.preprocessing) == ("caffenet", (227, 227), CAFFE)


def test_names_of_older_files_load_as_a_classifier(tmp_path: Path) -> None:
    """torchvision's published files of DenseNet hold apart what its networks join."""
    own = build_classifier("torchvision/densenet121", 3).state_dict()
    older = {re.sub(r"(denselayer\d+\.(?:norm|conv))(?=[12]\.)", r"\1.", key): value for key, value in own.items()}
    assert older.keys() != own.keys()
    torch.save(older, tmp_path / "mine.pth")
    loaded = fullyconv.load_classifier(tmp_path / "mine.pth", architecture="torchvision/densenet121", classes=CIFAR[:3])
    assert loaded.load_report is not None
    assert loaded.load_report.copied == tuple(older)
    assert all(torch.equal(value, own[key]) for key, value in loaded.network.state_dict().items())


def test_a_network_under_the_names_of_another_library_scores_as_there(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    network = calibrated(timm.create_model("mobilenetv3_small_100", num_classes=3), 64)
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    options = {"architecture": "torchvision/mobilenet_v3_small", "classes": CIFAR[:3]}
    loaded = fullyconv.load_classifier(tmp_path / "mine.pth", **options)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert_close(loaded(images), network(IMAGENET(images)), varying=(0,))
    assert loaded.load_report is not None
    assert {*loaded.load_report.copied, *loaded.load_report.adapted} == set(network.state_dict())


# ---- a real classifier on real images ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cifar(data_root: Path) -> tuple[Path, list[Path], Tensor, Tensor]:
    """The folder of the weights, and 5,000 images (N, 3, 32, 32) in 0..1 with their labels."""
    weights, archive = data_root / "cifar_resnet_weights" / "cifar_resnet", data_root / "cifar10_test_jpg.zip"
    if not weights.is_dir() or not archive.is_file():
        pytest.skip(f"no cifar_resnet_weights and cifar10_test_jpg.zip under FULLYCONV_DATA={data_root}")
    images, labels = [], []
    with zipfile.ZipFile(archive) as photos:
        for name in sorted(name for name in photos.namelist() if name.endswith(".jpg")):
            labels.append(CIFAR.index(name.split("/")[1]))
            with Image.open(io.BytesIO(photos.read(name))) as image:
                images.append(np.array(image.convert("RGB")))
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return weights, sorted(weights.glob("*.th")), stacked, torch.tensor(labels)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("depth", [20, 56])
def test_a_real_classifier_keeps_its_accuracy_image_by_image(
    hub: HubServer, cifar: tuple[Path, list[Path], Tensor, Tensor], tmp_path: Path, depth: int
) -> None:
    _, files, images, labels = cifar
    (file,) = [path for path in files if f"resnet{depth}-" in path.name]
    # as its publisher has it: a pickle with weights_only, "module." before every name
    published = fullyconv.load_classifier(file, architecture=f"cifar_resnet{depth}", classes=CIFAR)
    published.license = "BSD-2-Clause (pytorch_resnet_cifar10)"
    address = fullyconv.publish(
        published.save_pretrained(tmp_path / "whole"), f"someone/cifar-resnet{depth}", token=hub.token
    )
    assert set(hub.files(f"someone/cifar-resnet{depth}")) >= {"model.safetensors", "config.json", "README.md"}

    classifier = fullyconv.load_classifier(address, allow_unverified=True)
    fullyconv.convert(address, tmp_path / "dense")
    dense = fullyconv.load(tmp_path / "dense")
    assert isinstance(dense, DenseScorer)
    chosen = slice(None) if depth == 20 else slice(None, None, 5)
    images, labels = images[chosen], labels[chosen]
    with torch.inference_mode():
        before = torch.cat([classifier(part) for part in images.split(500)])
        after = torch.cat([dense.scores(part)[:, :, 0, 0] for part in images.split(500)])
    assert_close(after, before, varying=(0,))
    assert_same_mask(after.argmax(1), before.argmax(1))
    accuracy = (before.argmax(1) == labels).float().mean().item()
    assert accuracy > 0.8
    print(f"cifar_resnet{depth}: {accuracy:.2%} of {len(labels)} images, before and after conversion")


@pytest.mark.data
@pytest.mark.slow
def test_dense_scores_of_a_real_mosaic_point_at_the_right_places(
    cifar: tuple[Path, list[Path], Tensor, Tensor],
) -> None:
    _, files, images, labels = cifar
    classifier = fullyconv.load_classifier(files[0], architecture="cifar_resnet20", classes=CIFAR)
    dense = classifier.convolutionalize()
    with torch.inference_mode():
        scores = torch.cat([classifier(part) for part in images.split(500)])
    known = (scores.argmax(1) == labels).nonzero().flatten()
    picked = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(0))[:64]]
    # eight by eight images side by side: every image's own window is one of the dense scores
    mosaic = images[picked].view(8, 8, 3, 32, 32).permute(2, 0, 3, 1, 4).reshape(1, 3, 256, 256)
    with torch.inference_mode():
        found = dense.scores(mosaic)
    step = int(32 / dense.geometry.stride[0])
    own = found[0, :, ::step, ::step]
    assert own.shape == (10, 8, 8)
    truth = labels[picked].view(8, 8)
    hit = (own.argmax(0) == truth).float().mean().item()
    # the neighbors are context where the classifier saw zeros, so that not all agree; a shift by half an image or
    # a transposed grid falls to chance
    assert hit > 0.7
    shifted = found[0, :, step // 2 :: step, step // 2 :: step].argmax(0)
    assert (shifted == truth[:7, :7]).float().mean().item() < hit - 0.25
    assert (truth == own.argmax(0).T).float().mean().item() < 0.35
    mask = dense.predict(mosaic[0]).mask
    centers = torch.from_numpy(mask[16::32, 16::32].astype(np.int64))
    assert (centers == truth).float().mean().item() > 0.7
    print(
        f"{hit:.0%} of 64 windows right in place, {(centers == truth).float().mean().item():.0%} of the mask's centers"
    )


def test_an_image_that_does_not_fit_is_cut_into_tiles_without_a_seam(dense: DenseScorer, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (900, 61, 3)).astype(np.uint8)
    whole = dense.predict(pixels, probabilities="all")
    network = dense._network()
    memory = next(
        n * 10**5
        for n in range(500, 1, -1)
        if len(plan(network, (900, 61), Options(n * 10**5, probabilities="all")).tiles) > 3
    )
    cut = dense.predict(pixels, memory=memory, probabilities="all")
    assert_close(cut.probabilities, whole.probabilities)
    assert_same_mask(cut.mask, whole.mask)
    written = dense.predict_to(pixels, tmp_path / "m.png", memory=memory)
    assert_same_mask(read_mask(written.path), whole.mask)
