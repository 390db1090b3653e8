"""Reference networks out of .caffemodel files against OpenCV, which runs the same files by Caffe's rules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from caffe_nets import CAFFENET, FC, WIDTHS, Net, as_tensor, blob, caffenet, message, thin_caffenet, thin_vgg16
from closeness import assert_close, assert_same_mask
from fullyconv import label_sets
from fullyconv.backbones import BACKBONES
from fullyconv.backbones.fusion import LateFusion
from fullyconv.errors import WeightsError
from fullyconv.fcn import MultiHeadFCN, build_model
from fullyconv.labels import Labels
from fullyconv.training.module import SegmentationModule
from fullyconv.weights.caffe import caffe_classifier, caffe_segmenter
from fullyconv.weights.described import Described

SIZE = (37, 52)


def thin_late(*, in_channels: int = 6, padding: str = "same") -> LateFusion:
    assert in_channels == 6
    return LateFusion("vgg16_late", [thin_vgg16(padding=padding), thin_vgg16(padding=padding)])


@pytest.fixture(autouse=True)
def thin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put thin backbones into the registry: wiring is that of the full networks, and so is every line that maps it."""
    if "slow" not in request.keywords:
        for name, builder in {"vgg16": thin_vgg16, "caffenet": thin_caffenet, "vgg16_late": thin_late}.items():
            monkeypatch.setitem(BACKBONES, name, builder)


# ---- the reference networks, typed in --------------------------------------------------------------------------------


def vgg_net(classes: int, finest: int, *, atonce: bool = False, seed: int = 0, legacy: bool = False) -> Net:
    net = Net(seed, legacy)
    data = net.input("data", 3, SIZE)
    net.head(net.vgg(data, WIDTHS, FC), classes, finest, data, atonce=atonce)
    return net


def early_net() -> Net:
    net = Net()
    color, depth = net.input("color", 3, SIZE), net.input("depth", 1, SIZE)
    data = net.layer("data", "Concat", [color, depth])
    net.channels[data] = 4
    net.head(net.vgg(data, WIDTHS, FC, first="conv1_1_bgrd"), 40, 32, data)
    return net


def late_net() -> Net:
    net = Net(3)
    color, hha = net.input("color", 3, SIZE), net.input("hha", 3, SIZE)
    maps = []
    for data in (color, hha):
        maps.append(net.conv(f"score_fr{data}", net.vgg(data, WIDTHS, FC, suffix=data), 40, 1, relu=False))
    net.crop("score", net.upscore("upscore", net.sum("score_fused", maps, (0.5, 0.5)), 64, 32), color, 19)
    return net


def sift_flow_net(finest: int) -> Net:
    net = Net()
    data = net.input("data", 3, SIZE)
    fc7 = net.vgg(data, WIDTHS, FC)
    net.head(fc7, 33, finest, data, suffix="_sem")
    net.head(fc7, 3, finest, data, suffix="_geo")
    return net


def alexnet_net() -> Net:
    net = Net()
    data = net.input("data", 3, SIZE)
    fc7 = caffenet(net, data, CAFFENET, FC)
    x = net.upscore("upscore", net.conv("score_fr", fc7, 21, 1, relu=False), 63, 32)
    net.crop("score", x, data, 18)
    return net


def build(foreign: Described) -> Any:
    """The model that the translation names, with its tensors."""
    labels = foreign.labels
    classes: Any = labels.num_classes if isinstance(labels, Labels) else {k: v.num_classes for k, v in labels.items()}
    model = build_model(
        foreign.model,
        classes,
        in_channels=foreign.in_channels,
        padding=foreign.padding,
        upsampling=foreign.upsampling,
    )
    assert list(model.state_dict()) == list(foreign.tensors)
    model.load_state_dict(foreign.tensors)
    return model.eval()


def assert_same(ours: Tensor, theirs: np.ndarray[Any, Any], other: Tensor) -> None:
    """Compare logits that depend on the image: `other` are those of another one."""
    assert_close(ours, theirs)
    assert (ours - other).abs().max() > 0.01 * ours.abs().max()


def noise(channels: int, seed: int) -> np.ndarray[Any, Any]:
    """What a network sees of an image: differences to the mean, with large and small structure."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 50, (1, channels, 5, 7)).repeat(8, 2).repeat(8, 3)[..., : SIZE[0], : SIZE[1]]
    return (coarse + rng.normal(0, 20, (1, channels, *SIZE))).astype(np.float32)


@pytest.mark.parametrize(
    ("model", "make"),
    [
        ("fcn32s_vgg16", lambda: vgg_net(21, 32)),
        ("fcn16s_vgg16", lambda: vgg_net(21, 16)),
        ("fcn8s_vgg16", lambda: vgg_net(21, 8)),
        ("fcn8s_atonce_vgg16", lambda: vgg_net(21, 8, atonce=True)),
        ("fcn8s_vgg16", lambda: vgg_net(60, 8)),
        ("fcn32s_caffenet", alexnet_net),
    ],
    ids=["voc32s", "voc16s", "voc8s", "voc8s_atonce", "context8s", "alexnet"],
)
def test_reference_network_gives_the_logits_of_opencv(model: str, make: Callable[[], Net], tmp_path: Path) -> None:
    net = make()
    (expected,) = net.infer(tmp_path, {"data": noise(3, 1)}, ["score"])
    foreign = caffe_segmenter(tmp_path / "net.caffemodel")
    assert (foreign.model, foreign.padding, foreign.upsampling) == (model, "paper", "frozen")
    ours = build(foreign)
    with torch.no_grad():
        assert_same(ours(as_tensor(noise(3, 1))), expected, ours(as_tensor(noise(3, 2))))


def test_early_fusion_sees_the_logarithm_of_depth_as_a_fourth_channel(tmp_path: Path) -> None:
    x, y = noise(4, 1), noise(4, 2)
    x[:, 3] /= 20
    y[:, 3] /= 20
    (expected,) = early_net().infer(tmp_path, {"color": x[:, :3], "depth": x[:, 3:]}, ["score"])
    foreign = caffe_segmenter(tmp_path / "net.caffemodel")
    assert (foreign.model, foreign.in_channels) == ("fcn32s_vgg16", 4)
    model = build(foreign)
    with torch.no_grad():
        assert_same(model(as_tensor(x)), expected, model(as_tensor(y)))
        y[:, :3] = x[:, :3]
        assert (model(as_tensor(y)) - as_tensor(expected)).abs().max() > 0.01 * np.abs(expected).max()
    assert foreign.load_report.copied[0] == "conv1_1_bgrd.weight"


def test_late_fusion_is_one_score_layer_over_both_backbones(tmp_path: Path) -> None:
    x, y = noise(6, 1), noise(6, 2)
    (expected,) = late_net().infer(tmp_path, {"color": x[:, :3], "hha": x[:, 3:]}, ["score"])
    foreign = caffe_segmenter(tmp_path / "net.caffemodel")
    assert (foreign.model, foreign.in_channels) == ("fcn32s_vgg16_late", 6)
    model = build(foreign)
    with torch.no_grad():
        assert_same(model(as_tensor(x)), expected, model(as_tensor(y)))
        for half in (slice(0, 3), slice(3, 6)):  # either backbone is heard
            other = x.copy()
            other[:, half] = y[:, half]
            assert_same(model(as_tensor(x)), expected, model(as_tensor(other)))
    assert foreign.load_report.adapted == tuple(
        f"score_fr{stream}.{kind}" for stream in ("color", "hha") for kind in ("weight", "bias")
    )


@pytest.mark.parametrize("finest", [32, 16, 8])
def test_sift_flow_has_a_semantic_and_a_geometric_head(finest: int, tmp_path: Path) -> None:
    net = sift_flow_net(finest)
    semantic, geometric = net.infer(tmp_path, {"data": noise(3, 1)}, ["score_sem", "score_geo"])
    foreign = caffe_segmenter(tmp_path / "net.caffemodel")
    assert foreign.model == f"fcn{finest}s_vgg16"
    assert isinstance(foreign.labels, dict)
    assert {task: labels.names for task, labels in foreign.labels.items()} == {
        "semantic": label_sets.SIFT_FLOW_SEMANTIC,
        "geometric": label_sets.SIFT_FLOW_GEOMETRIC,
    }
    model = build(foreign)
    assert isinstance(model, MultiHeadFCN)
    with torch.no_grad():
        ours, other = model(as_tensor(noise(3, 1))), model(as_tensor(noise(3, 2)))
    assert_same(ours["semantic"], semantic, other["semantic"])
    assert_same(ours["geometric"], geometric, other["geometric"])
    assert f"head.geometric.score.{finest}.weight" in foreign.tensors


# ---- what goes with the weights --------------------------------------------------------------------------------------


def test_classes_and_means_are_those_of_the_data_set(tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (3, 4, 5)).astype(np.float32)
    bgr = photo[::-1]
    image = as_tensor(photo / 255)

    def check(foreign: Described, names: tuple[str, ...], expected: np.ndarray[Any, Any]) -> None:
        assert isinstance(foreign.labels, Labels)
        assert foreign.labels.names == names
        assert_close(foreign.preprocessing(image), as_tensor(expected))
        assert foreign.score is None
        assert "BVLC" in foreign.license

    def less(mean: tuple[float, ...]) -> np.ndarray[Any, Any]:
        return np.array(mean)[:, None, None]

    imagenet = less((104.00699, 116.66877, 122.67892))
    check(caffe_segmenter(vgg_net(21, 16).save(tmp_path / "a")), label_sets.VOC, bgr - imagenet)
    check(caffe_segmenter(vgg_net(60, 8).save(tmp_path / "b")), label_sets.PASCAL_CONTEXT, bgr - imagenet)
    path = vgg_net(40, 32).save(tmp_path / "nyud-fcn32s-color-heavy.caffemodel")
    check(caffe_segmenter(path), label_sets.NYUDV2, bgr - less((116.190, 97.203, 92.318)))
    # HHA is stored in its own order, which is not turned around
    hha = caffe_segmenter(path.rename(tmp_path / "nyud-fcn32s-hha-heavy.caffemodel"))
    check(hha, label_sets.NYUDV2, photo - less((132.431, 94.076, 118.477)))
    assert hha.training["channels"].startswith("horizontal disparity")
    sift_flow = caffe_segmenter(sift_flow_net(16).save(tmp_path / "c")).preprocessing
    assert_close(sift_flow(image), as_tensor(bgr - less((114.578, 115.294, 108.353))))


def test_preprocessing_of_fused_inputs_turns_the_colors_only(tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (6, 4, 5)).astype(np.float32)
    late = caffe_segmenter(late_net().save(tmp_path / "late")).preprocessing
    mean = np.array([116.190, 97.203, 92.318, 132.431, 94.076, 118.477])[:, None, None]
    assert_close(late(as_tensor(photo / 255)), as_tensor(photo[[2, 1, 0, 3, 4, 5]] - mean))
    early = caffe_segmenter(early_net().save(tmp_path / "early")).preprocessing
    depth = np.full((1, 4, 5), np.log(2500.0))
    image = as_tensor(np.concatenate([photo[:3] / 255, depth]))
    expected = np.concatenate([photo[[2, 1, 0]] - mean[:3], depth - 7.844])
    assert_close(early(image), as_tensor(expected))


def test_its_name_tells_color_from_hha(tmp_path: Path) -> None:
    net = vgg_net(40, 32)
    with pytest.raises(WeightsError, match=r"40 classes of NYUDv2 from three channels.*color or hha in its name"):
        caffe_segmenter(net.save(tmp_path / "net.caffemodel"))
    assert caffe_segmenter(net.save(tmp_path / "nyud-HHA.caffemodel")).preprocessing.channel_order == "rgb"


def test_other_classes_than_those_of_the_released_networks_are_refused(tmp_path: Path) -> None:
    path = vgg_net(4, 16).save(tmp_path / "net.caffemodel")
    with pytest.raises(WeightsError, match=r"scores 4 classes, whose names do not stand"):
        caffe_segmenter(path)


# ---- forms of one and the same ---------------------------------------------------------------------------------------


def test_old_shapes_matrices_and_grouped_kernels_are_the_same_network(tmp_path: Path) -> None:
    new, old = vgg_net(21, 16), vgg_net(21, 16, legacy=True)
    expected = caffe_segmenter(new.save(tmp_path / "new"))
    for name in ("fc6", "fc7"):  # as a classifier's fully connected layers, whose weights were copied over
        layer = old.named(name)
        weight = np.array(layer.blobs[0].data).reshape(FC, -1)
        layer.type = "InnerProduct"
        layer.ClearField("convolution_param")
        layer.blobs[0].CopyFrom(blob(weight, legacy=True))
    kernel = np.array(old.named("upscore2").blobs[0].data).reshape(21, 21, 4, 4)[range(21), range(21)][:, None]
    old.named("upscore2").blobs[0].CopyFrom(blob(kernel))
    read = caffe_segmenter(old.save(tmp_path / "old"))
    assert all(torch.equal(read.tensors[key], value) for key, value in expected.tensors.items())
    assert read.load_report.reshaped == ("fc6.weight", "fc7.weight")
    assert read.load_report.adapted == ("upscore2.weight",)
    assert len(read.load_report.copied) == 13 * 2 + 2 + 2 * 2 + 1
    assert not read.load_report.unused
    assert expected.load_report.reshaped == ()


def test_what_is_not_used_stands_in_the_load_report(tmp_path: Path) -> None:
    net = vgg_net(21, 16)
    net.layer("fc8", "InnerProduct", ["fc7"], [np.ones((5, FC)), np.ones(5)])
    net.named("upscore2").blobs.append(blob(np.zeros(21)))
    assert caffe_segmenter(net.save(tmp_path / "net")).load_report.unused == ("upscore2.bias", "fc8.weight", "fc8.bias")


def test_factors_of_the_skips_are_constants_of_the_model(tmp_path: Path) -> None:
    net = vgg_net(21, 8, atonce=True)
    assert caffe_segmenter(net.save(tmp_path / "net")).load_report.adapted == (
        "scale_pool4.weight",
        "scale_pool3.weight",
    )
    net.named("scale_pool3").blobs[0].data[2] = 0.001
    with pytest.raises(WeightsError, match=r"scale_pool3 multiplies by other numbers than 0.0001"):
        caffe_segmenter(net.save(tmp_path / "net"))


# ---- refusals --------------------------------------------------------------------------------------------------------


def kernel_with(row: int, column: int) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        values = net.named("upscore2").blobs[0].data
        values[(row * 21 + column) * 16 + 5] += 0.01

    return change


def without(name: str) -> Callable[[Net], None]:
    return lambda net: net.named(name).ClearField("blobs")


def setting(name: str, key: str, value: Any) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        params = net.named(name).convolution_param
        if isinstance(value, list):
            params.ClearField(key)
            getattr(params, key).extend(value)
        else:
            setattr(params, key, value)

    return change


def nan_in(name: str) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        net.named(name).blobs[0].data[3] = float("nan")

    return change


def crop_at(name: str, offset: int) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        net.named(name).crop_param.offset[0] = offset

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (kernel_with(2, 2), r"upscore2.weight is not the bilinear kernel"),
        (kernel_with(2, 3), r"upscore2.weight is not the bilinear kernel"),
        (without("conv3_2"), r"conv3_2.weight is missing, conv3_2.bias is missing"),
        (without("upscore16"), r"upscore16.weight is missing"),
        (lambda net: net.named("conv1_2").blobs[0].CopyFrom(blob(np.ones((4, 3, 3, 3)))), r"shape \(4, 3, 3, 3\), not"),
        (lambda net: net.named("score_fr").blobs[1].CopyFrom(blob(np.ones(20)))
         , r"score_fr.bias has shape \(20,\), not \(21,\)"),
        (setting("conv1_1", "pad", [1]), r"conv1_1 has pad=1, not 100"),
        (setting("conv2_1", "stride", [2]), r"conv2_1 has stride=2, not 1"),
        (setting("conv3_1", "dilation", [2]), r"conv3_1 has dilation=2, not 1"),
        (setting("fc6", "kernel_h", 5), r"fc6 has kernel_size=\(5, 0\), not 7"),
        (setting("upscore16", "pad_w", 3), r"upscore16 has pad=\(0, 3\), not 0"),
        (nan_in("conv4_1"), r"conv4_1.weight holds values that are not finite"),
        (crop_at("score", 26), r"score has offset=26, not 27"),
        (crop_at("score_pool4c", 4), r"score_pool4c has offset=4, not 5"),
    ],
)  # fmt: skip
def test_another_network_is_refused_with_all_that_is_wrong(
    change: Callable[[Net], None], words: str, tmp_path: Path
) -> None:
    net = vgg_net(21, 16)
    change(net)
    with pytest.raises(WeightsError, match=rf"net.caffemodel: is not one of the reference networks.*{words}"):
        caffe_segmenter(net.save(tmp_path / "net.caffemodel"))


def test_network_of_another_kind_is_refused(tmp_path: Path) -> None:
    net = Net()
    data = net.input("data", 3, SIZE)
    fc7 = net.vgg(data, WIDTHS, FC)
    net.layer("fc8", "InnerProduct", [fc7], [np.ones((5, FC)), np.ones(5)])
    with pytest.raises(WeightsError, match=r"none of the reference segmenters.*is a classifier: start a backbone"):
        caffe_segmenter(net.save(tmp_path / "classifier"))
    net = Net()
    net.conv("score_fr", net.conv("res2a", net.input("data", 3, SIZE), 8, 3), 21, 1)
    with pytest.raises(
        WeightsError, match=r"neither VGG-16's conv1_1 nor CaffeNet's conv1; its layers are res2a, score"
    ):
        caffe_segmenter(net.save(tmp_path / "resnet"))
    with pytest.raises(WeightsError, match=r"neither VGG-16, VGG-19 nor CaffeNet"):
        caffe_classifier(tmp_path / "resnet")
    net = vgg_net(21, 32)
    net.conv("conv1_1", "data", 4, 3)
    with pytest.raises(WeightsError, match=r"two layers conv1_1 with weights"):
        caffe_segmenter(net.save(tmp_path / "twice"))
    with pytest.raises(FileNotFoundError, match=r"nothing: not found; pass the path of a .caffemodel"):
        caffe_segmenter(tmp_path / "nothing")


def test_combination_that_was_never_released_is_refused(tmp_path: Path) -> None:
    net = vgg_net(21, 16)
    net.layer("scale_pool4", "Scale", ["pool4"], [np.full(WIDTHS[3], 0.01)])
    with pytest.raises(WeightsError, match="scores the strides 32, 16 of vgg16 behind fixed factors, which none of"):
        caffe_segmenter(net.save(tmp_path / "scaled"))
    for make, name in ((alexnet_net, "caffenet"), (late_net, "vgg16_late")):
        net = make()
        net.conv("score_pool4", net.input("pool4", 6, SIZE), 21, 1, relu=False)
        with pytest.raises(WeightsError, match=f"scores the strides 32, 16 of {name}, which none of the reference"):
            caffe_segmenter(net.save(tmp_path / name))


def test_alexnet_is_not_taken_for_caffenet(tmp_path: Path) -> None:
    net = alexnet_net()
    for name, bottom in {"norm1": "conv1", "pool1": "norm1", "conv2": "pool1"}.items():
        net.named(name).bottom[0] = bottom
    for read in (caffe_segmenter, caffe_classifier):
        with pytest.raises(WeightsError, match="normalizes before it pools, which is AlexNet"):
            read(net.save(tmp_path / "net"))


# ---- classifiers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generation", ["layers of 2013", "layers"])
def test_classifier_is_read_under_the_names_of_caffe(generation: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = {"conv1_1": (4, 3, 3, 3), "conv5_3": (8, 8, 3, 3), "fc6": (FC, 392), "fc7": (FC, FC), "fc8": (5, FC)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    net = message("NetParameter", name="VGG_ILSVRC_16_layers")
    for name, weight in weights.items():
        blobs = [blob(weight, legacy=True), blob(weight.reshape(len(weight), -1)[:, 0], legacy=True)]
        matrix = name.startswith("fc")
        if generation == "layers":
            net.layer.add(name=name, type="InnerProduct" if matrix else "Convolution", blobs=blobs)
        else:
            net.layers.add(name=name, type=14 if matrix else 4, blobs=blobs)
    (tmp_path / "net").write_bytes(net.SerializeToString())
    tensors = caffe_classifier(tmp_path / "net")
    assert list(tensors) == [f"{name}.{kind}" for name in shapes for kind in ("weight", "bias")]
    for name, weight in weights.items():
        assert torch.equal(tensors[f"{name}.weight"], as_tensor(weight))
        assert torch.equal(tensors[f"{name}.bias"], as_tensor(weight.reshape(len(weight), -1)[:, 0]))


def test_classifiers_of_other_depths_are_read(tmp_path: Path) -> None:
    tensors = caffe_classifier(alexnet_net().save(tmp_path / "a"))
    assert tensors["conv2.weight"].shape == (12, 4, 5, 5)
    assert not any(key.startswith("upscore") for key in tensors)
    net = Net()
    data = net.input("data", 3, SIZE)
    net.conv("conv5_4", net.conv("conv5_3", data, 4, 3), 4, 3)
    assert "conv5_4.weight" in caffe_classifier(net.save(tmp_path / "b"))


# ---- full size -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["fcn8s_vgg16", "fcn32s_caffenet"])
def test_full_network_gives_the_logits_of_opencv(name: str, tmp_path: Path) -> None:
    net = Net()
    data = net.input("data", 3, SIZE)
    if name == "fcn8s_vgg16":
        net.head(net.vgg(data, (64, 128, 256, 512, 512), 4096), 21, 8, data)
    else:
        fc7 = caffenet(net, data, (96, 256, 384, 384, 256), 4096)
        net.crop("score", net.upscore("upscore", net.conv("score_fr", fc7, 21, 1, relu=False), 63, 32), data, 18)
    (expected,) = net.infer(tmp_path, {"data": noise(3, 1)}, ["score"])
    foreign = caffe_segmenter(tmp_path / "net.caffemodel")
    assert foreign.model == name
    model = build(foreign)
    with torch.no_grad():
        assert_same(model(as_tensor(noise(3, 1))), expected, model(as_tensor(noise(3, 2))))


# ---- the whole path --------------------------------------------------------------------------------------------------


def test_file_becomes_a_module_that_predicts_what_opencv_predicts(tmp_path: Path) -> None:
    image = np.random.default_rng(3).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    seen = image[..., ::-1].transpose(2, 0, 1)[None] - np.array([104.00699, 116.66877, 122.67892])[:, None, None]
    (expected,) = vgg_net(21, 8).infer(tmp_path, {"data": seen}, ["score"])
    module = SegmentationModule.of(caffe_segmenter(tmp_path / "net.caffemodel"))
    assert module.classes == list(label_sets.VOC)
    result = module.predict(image)
    assert len(np.unique(result.mask)) > 1
    assert_same_mask(result.mask, expected[0].argmax(0))
    saved = SegmentationModule.from_pretrained(module.save_pretrained(tmp_path / "model"))
    assert_same_mask(saved.predict(image).mask, result.mask)


def test_file_with_two_heads_becomes_a_module_with_two_heads(tmp_path: Path) -> None:
    image = np.random.default_rng(3).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    seen = image[..., ::-1].transpose(2, 0, 1)[None] - np.array([114.578, 115.294, 108.353])[:, None, None]
    expected = sift_flow_net(16).infer(tmp_path, {"data": seen}, ["score_sem", "score_geo"])
    module = SegmentationModule.of(caffe_segmenter(tmp_path / "net.caffemodel"))
    assert isinstance(module, SegmentationModule)
    for scores, segmentation in zip(expected, module.predict(image).values(), strict=True):
        assert_same_mask(segmentation.mask, scores[0].argmax(0))
    assert module.classes["geometric"] == ["sky", "horizontal", "vertical"]
    module.save_pretrained(tmp_path / "model")
    assert isinstance(SegmentationModule.from_pretrained(tmp_path / "model"), SegmentationModule)


def test_file_with_two_backbones_becomes_a_module_of_six_channels(tmp_path: Path) -> None:
    module = SegmentationModule.of(caffe_segmenter(late_net().save(tmp_path / "net.caffemodel")))
    images = torch.rand(1, 6, *SIZE)
    with torch.no_grad():
        assert module(images).shape == (1, 40, *SIZE)
        assert module(images).std() > 0


@pytest.mark.parametrize("seed", range(40))
def test_damaged_file_is_read_or_refused_and_nothing_else(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    net = vgg_net(21, 16)
    layer = net.proto.layer[int(rng.integers(len(net.proto.layer)))]
    kind = seed % 4
    if kind == 0 and layer.blobs:
        values = layer.blobs[0]
        values.shape.dim[int(rng.integers(len(values.shape.dim)))] += int(rng.integers(-1, 3))
    elif kind == 1:
        layer.name = str(rng.choice(["conv1_1", "score_fr", "x", "", "upscore2\n", "scale_pool3", "score_fr_sem"]))
    elif kind == 2 and layer.blobs:
        shape = tuple(rng.integers(1, 4, int(rng.integers(0, 5))))
        layer.blobs[0].CopyFrom(blob(rng.normal(size=shape)))
    else:
        layer.type = "InnerProduct"
        layer.convolution_param.stride.append(int(rng.integers(0, 2**32)))
    path = net.save(tmp_path / "net.caffemodel")
    try:
        foreign = caffe_segmenter(path)
    except WeightsError:
        return
    build(foreign)
