"""Upsampling and argmax in one, against interpolating all classes in float64."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from closeness import assert_same_mask
from fullyconv.geometry import Geometry
from fullyconv.inference import argmax, kernels
from fullyconv.inference.argmax import Route, scaled_argmax, upsample_argmax
from fullyconv.upsampling import resample

NEAR = 1e-5  # of the range of the scores: two that are closer are a tie up to rounding

# (stride, center): VGG, ResNet and AlexNet, the nets of the paper, fractional, finer than the image
SOURCES = [
    (1, 0),
    (1, 0.3),
    (2, 0.5),
    (4, 0),
    (4, -3.5),
    (8, 3.5),
    (8, 2.2),
    (16, 7.5),
    (32, 15.5),
    (32, 111.5),
    (7.461538, 3.2307),
    (12.3, -5.1),
    (0.5, -0.25),
    (70, 34.5),
]
CELLS = [((1, 1), (40, 9)), ((1, 4), (3, 100)), ((5, 3), (37, 51)), ((9, 11), (70, 80))]


def grid(stride: float, center: float) -> Geometry:
    return Geometry((stride, stride), (center, center), (1, 1))


def smooth(n: int, classes: int, cells: tuple[int, int], seed: int = 0) -> Tensor:
    """Draw maps with regions of several cells, so that uniform and mixed squares both occur."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, classes, -(-cells[0] // 3), -(-cells[1] // 3), generator=generator)
    fine = torch.nn.functional.interpolate(coarse, cells, mode="bilinear")
    return fine + 0.1 * torch.randn(n, classes, *cells, generator=generator)


def noise(n: int, classes: int, cells: tuple[int, int], seed: int = 0) -> Tensor:
    return torch.randn(n, classes, *cells, generator=torch.Generator().manual_seed(seed))


def window(origin: tuple[int, int]) -> Geometry:
    return Geometry((1.0, 1.0), (float(origin[0]), float(origin[1])), (1.0, 1.0))


def near_share(
    labels: Tensor, scores: Tensor, source: Geometry, size: tuple[int, int], origin: tuple[int, int] = (0, 0)
) -> float:
    """Compare labels with those by definition, and give the share of pixels that two classes claim up to rounding."""
    logits = resample(scores.double(), source, window(origin), size)
    span = float(scores.double().max() - scores.double().min())
    # resample may round in another way than this at most by a few 1e-16: ties of its own are near ones, too
    claimed = logits.gather(1, labels.long()[:, None])[:, 0]
    assert bool((claimed >= logits.amax(1) - NEAR * span).all())
    if scores.shape[1] == 1:
        assert not labels.any()
        return 0.0
    top = logits.topk(2, 1).values
    clear = (top[:, 0] - top[:, 1]) > NEAR * span
    assert bool((labels.long() == logits.argmax(1))[clear].all())
    return float((~clear).double().mean())


@pytest.fixture(params=["torch", "compiled"])
def route(request: pytest.FixtureRequest) -> Route:
    if request.param == "compiled":
        pytest.importorskip("numba")
    return request.param


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("draw", [smooth, noise])
def test_labels_are_those_of_interpolating_all_classes(
    source: tuple[float, float],
    draw: Callable[[int, int, tuple[int, int]], Tensor],
    route: Route,
    record_property: Callable[[str, object], None],
) -> None:
    shares = []
    for classes in (1, 2, 5, 21):
        for cells, size in CELLS:
            scores = draw(2, classes, cells)
            labels = upsample_argmax(scores, grid(*source), size, route=route)
            assert labels.shape == (2, *size)
            assert labels.dtype == torch.uint8
            shares.append(near_share(labels, scores, grid(*source), size))
    record_property("share of near ties", max(shares))
    assert max(shares) < 0.01


@pytest.mark.parametrize("classes", [150, 255, 256, 300])
def test_many_classes(classes: int, route: Route) -> None:
    scores = smooth(1, classes, (9, 11))
    scores[:, -1, :4, :4] += 5  # the last class is seen
    labels = upsample_argmax(scores, grid(8, 3.5), (70, 90), route=route)
    assert labels.dtype == (torch.uint8 if classes <= 255 else torch.int32)
    assert int(labels.max()) == classes - 1
    assert near_share(labels, scores, grid(8, 3.5), (70, 90)) < 0.01


def test_axes_may_differ_and_windows_lie_anywhere(route: Route) -> None:
    source = Geometry((8, 5.3), (3.5, -2), (1, 1))
    scores = smooth(1, 6, (9, 14))
    whole = upsample_argmax(scores, source, (80, 90), route=route)
    near_share(whole, scores, source, (80, 90))
    for top, left, height, width in ((0, 0, 1, 1), (13, 7, 31, 40), (79, 89, 1, 1), (40, 0, 40, 90)):
        part = upsample_argmax(scores, source, (height, width), origin=(top, left), route=route)
        assert_same_mask(part, whole[:, top : top + height, left : left + width])
    beyond = upsample_argmax(scores, source, (9, 9), origin=(-300, 500), route=route)
    assert (beyond == scores[0, :, 0, -1].argmax()).all()


def test_a_class_on_top_in_no_corner_may_win_between(route: Route) -> None:
    # classes 0 and 1 have the corners; class 2 is second in all of them, and first in the middle
    scores = torch.tensor([[10.0, 0.0], [0.0, 10.0], [6.0, 6.0]]).view(1, 3, 1, 2)
    labels = upsample_argmax(scores, grid(8, 0), (1, 9), route=route)
    assert labels[0, 0].tolist() == [0, 0, 0, 0, 2, 1, 1, 1, 1]
    near_share(labels, scores, grid(8, 0), (1, 9))
    # four winners, and a fifth class that only the middle of the square sees
    corners = torch.full((1, 5, 2, 2), -8.0)
    for k, (y, x) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        corners[0, k, y, x] = 8.0
    corners[0, 4] = 0.0
    labels = upsample_argmax(corners, grid(8, 0), (9, 9), route=route)
    assert labels[0, 4, 4] == 4
    near_share(labels, corners, grid(8, 0), (9, 9))


def test_a_class_just_above_the_mean_of_the_winners_stays(route: Route) -> None:
    generator = torch.Generator().manual_seed(1)
    for offset in (-1e-3, 0.0, 1e-3):
        scores = 4 * torch.randn(1, 3, 12, 12, generator=generator)
        middle = torch.cat([scores[:, :2].mean(1, keepdim=True) + offset, scores[:, :2]], 1)
        near_share(upsample_argmax(middle, grid(8, 3.5), (96, 96), route=route), middle, grid(8, 3.5), (96, 96))


def test_ties_go_to_the_lowest_class(route: Route) -> None:
    assert not upsample_argmax(torch.zeros(2, 7, 5, 6), grid(4, 1.5), (20, 24), route=route).any()
    scores = smooth(1, 4, (6, 7)).repeat_interleave(2, 1)  # every class twice
    labels = upsample_argmax(scores, grid(8, 3.5), (48, 56), route=route)
    assert not (labels % 2).any()
    # whole numbers, and positions at quarters: every tie is exact
    numbers = torch.randint(0, 3, (3, 4, 9, 9), generator=torch.Generator().manual_seed(2)).float()
    labels = upsample_argmax(numbers, grid(4, 0), (33, 33), route=route)
    expected = resample(numbers.double(), grid(4, 0), Geometry.IDENTITY, (33, 33))
    assert torch.equal(labels.long(), expected.argmax(1))


def test_layout_and_type_of_the_scores_do_not_matter(route: Route) -> None:
    scores, source, size = smooth(2, 9, (8, 10)).half().float(), grid(8, 3.5), (64, 80)
    expected = upsample_argmax(scores, source, size, route=route)
    wide = torch.empty(2, 18, 16, 10)[:, ::2, ::2]
    wide.copy_(scores)
    forms = [scores.to(memory_format=torch.channels_last), wide, scores.half(), scores.clone().requires_grad_()]
    forms += [scores.flip(3).flip(3), scores[:1].expand(2, -1, -1, -1)]
    for form in forms[:-1]:
        assert_same_mask(upsample_argmax(form, source, size, route=route), expected)
    again = upsample_argmax(forms[-1], source, size, route=route)
    assert_same_mask(again, expected[:1].expand(2, -1, -1))
    rough = scores.bfloat16()
    near_share(upsample_argmax(rough, source, size, route=route), rough.float(), source, size)
    assert near_share(upsample_argmax(scores.double(), source, size), scores, source, size) < 0.01


def test_small_bands_and_many_threads_change_nothing(route: Route) -> None:
    scores, source, size = smooth(2, 12, (20, 15)), grid(4, 1.5), (80, 60)
    whole = upsample_argmax(scores, source, size, route=route)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        for band_bytes in (1, 5000, 40000):
            labels = upsample_argmax(scores, source, size, route=route, band_bytes=band_bytes)
            assert_same_mask(labels, whole)
            with torch.inference_mode():
                labels = upsample_argmax(scores, source, size, route=route, band_bytes=band_bytes)
            assert_same_mask(labels, whole)
    finally:
        torch.set_num_threads(threads)


def test_one_class_is_everywhere(route: Route) -> None:
    assert not upsample_argmax(torch.randn(1, 1, 3, 3), grid(4, 0), (9, 9), route=route).any()


def test_nan_is_refused_and_infinity_is_a_large_number(route: Route) -> None:
    scores = smooth(1, 4, (5, 5))
    for dtype in (torch.float32, torch.float16):
        bad = scores.to(dtype, copy=True)
        bad[0, 2, 1, 1] = float("nan")
        with pytest.raises(ValueError, match=r"NaN in 4 % of the cells"):
            upsample_argmax(bad, grid(8, 3.5), (40, 40), route=route)
    barred = scores.clone()
    barred[:, 1] = float("-inf")
    labels = upsample_argmax(barred, grid(8, 3.5), (40, 40), route=route)
    rest = scores[:, [0, 2, 3]]
    near_share(torch.where(labels > 1, labels - 1, labels), rest, grid(8, 3.5), (40, 40))
    partly = scores.clone()
    partly[0, 1, 2, 2], partly[0, 3, 4, 4] = float("-inf"), float("inf")
    labels = upsample_argmax(partly, grid(8, 3.5), (40, 40), route=route)
    assert labels[0, 36:, 36:].unique().tolist() == [3]
    assert not (labels[0, 19:21, 19:21] == 1).any()


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        (torch.zeros(3, 4, 4), {}, r"must be floating numbers \(N, K, h, w\)"),
        (torch.zeros(1, 0, 4, 4), {}, "at least one class and one cell"),
        (torch.zeros(1, 3, 4, 0), {}, "at least one class and one cell"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.int64), {}, "must be floating numbers"),
        (torch.zeros(1, 3, 4, 4), {"size": (0, 4)}, "positive height and width"),
        (torch.zeros(1, 3, 4, 4), {"route": "fast"}, "Choose 'auto', 'torch' or 'compiled'"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.float64), {"route": "compiled"}, "runs on the CPU in float32"),
    ],
)
def test_what_cannot_be_is_refused(scores: Tensor, options: dict[str, object], message: str) -> None:
    arguments = {"size": (8, 8), **options}
    with pytest.raises(ValueError, match=message):
        upsample_argmax(scores, grid(4, 0), **arguments)  # type: ignore[arg-type]


def test_without_numba_plain_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels.label_blocks.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr(argmax, "_WORTH_COMPILING", 0)
    try:
        scores = smooth(1, 4, (5, 5))
        near_share(upsample_argmax(scores, grid(8, 3.5), (40, 40)), scores, grid(8, 3.5), (40, 40))
        with pytest.raises(ValueError, match=r"fullyconv\[fast\]"):
            upsample_argmax(scores, grid(8, 3.5), (40, 40), route="compiled")
    finally:
        kernels.label_blocks.cache_clear()


def test_a_large_map_is_compiled_where_numba_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    calls = []
    real = kernels.label_blocks()
    assert real is not None
    monkeypatch.setattr(kernels, "label_blocks", lambda: lambda *a: (calls.append(1), real(*a)))
    upsample_argmax(torch.zeros(1, 2, 4, 4), grid(8, 3.5), (32, 32))
    assert not calls
    upsample_argmax(smooth(1, 21, (64, 64)), grid(8, 3.5), (512, 512))
    assert calls


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("seen", "size"), [((30, 41), (17, 23)), ((40, 30), (40, 29)), ((8, 9), (31, 12))])
def test_a_scaled_image_has_the_labels_of_interpolating_twice(
    source: tuple[float, float], seen: tuple[int, int], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = torch.randn(2, 7, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits = resample(scores, grid(*source), Geometry.IDENTITY, seen)
    logits = torch.nn.functional.interpolate(logits, size, mode="bilinear", align_corners=False)
    best = logits.topk(2, 1)
    clear = best.values[:, 0] - best.values[:, 1] > NEAR * float(scores.max() - scores.min())
    for rows in (1, 16):  # in an image
        monkeypatch.setattr(argmax, "SCALED_BYTES", 4)
        monkeypatch.setattr(argmax, "_SCALED_ROWS", rows)
        labels = scaled_argmax(scores.float(), grid(*source), seen, size)
        assert labels.dtype == torch.uint8
        assert bool((labels == best.indices[:, 0])[clear].all())
    assert float(clear.double().mean()) > 0.95


def test_ties_and_numbers_that_are_none_of_a_scaled_image() -> None:
    scores = torch.zeros(1, 3, 4, 4)
    assert not scaled_argmax(scores, grid(2, 0.5), (8, 8), (5, 7)).any()
    scores[:, 1:] = 1.0
    assert bool((scaled_argmax(scores, grid(2, 0.5), (8, 8), (5, 7)) == 1).all())
    scores[0, 2, 2, 2] = float("inf")
    assert scaled_argmax(scores, grid(2, 0.5), (8, 8), (8, 8))[0, 5, 5] == 2
    scores[0, 2, 2, 2] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        scaled_argmax(scores, grid(2, 0.5), (8, 8), (8, 8))


def test_the_full_logits_are_never_made() -> None:
    scores, size = smooth(1, 64, (32, 32)), (256, 256)
    whole = 4 * 64 * size[0] * size[1]
    with torch.profiler.profile(profile_memory=True) as watched:
        upsample_argmax(scores, grid(8, 3.5), size, route="torch", band_bytes=2**18)
    assert max(event.cpu_memory_usage for event in watched.events()) < whole / 8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("source", SOURCES)
def test_the_same_on_a_gpu(source: tuple[float, float]) -> None:
    for classes in (2, 21, 300):
        scores = smooth(2, classes, (9, 11))
        labels = upsample_argmax(scores.cuda(), grid(*source), (70, 80))
        near_share(labels.cpu(), scores, grid(*source), (70, 80))
        half = scores.half()
        near_share(upsample_argmax(half.cuda(), grid(*source), (70, 80)).cpu(), half, grid(*source), (70, 80))
