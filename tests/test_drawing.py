from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fullyconv.drawing import color_mask, legend_order, overlay
from fullyconv.labels import Labels

LABELS = Labels.of(["background", "a rather long class name", "cat"], [(0, 0, 0), (200, 30, 30), (30, 30, 200)])
PICTURE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
MASK = np.zeros((60, 80), dtype=np.uint8)
MASK[:, 40:60] = 1
MASK[:, 60:] = 255


def test_colors_are_those_of_the_palette_and_void_beyond_it():
    painted = color_mask(MASK, LABELS.palette)
    assert painted[0, 0].tolist() == [0, 0, 0]
    assert painted[0, 50].tolist() == [200, 30, 30]
    assert painted[0, 70].tolist() == [224, 224, 192]
    assert color_mask(np.array([[-1]]), LABELS.palette).tolist() == [[[224, 224, 192]]]


def test_overlay_without_legend_is_the_blend_at_the_images_size():
    result = np.asarray(overlay(PICTURE, MASK, LABELS, alpha=0.25, legend=False))
    assert result.shape == PICTURE.shape
    expected = 0.75 * PICTURE[:, 41:59] + 0.25 * np.array([200, 30, 30])
    np.testing.assert_allclose(result[:, 41:59], expected, atol=0.51)


def test_a_black_background_leaves_the_image_visible():
    result = np.asarray(overlay(PICTURE, MASK, LABELS, alpha=0.5, legend=False, borders=False))
    np.testing.assert_allclose(result[:, :40], 0.875 * PICTURE[:, :40], atol=0.51)


def test_ignored_pixels_show_the_image_as_it_is():
    result = np.asarray(overlay(PICTURE, MASK, LABELS, legend=False))
    np.testing.assert_array_equal(result[:, 60:], PICTURE[:, 60:])


def test_alpha_of_0_is_the_image_and_of_1_the_mask():
    bare = overlay(PICTURE, MASK, LABELS, alpha=0.0, legend=False)
    np.testing.assert_array_equal(np.asarray(bare), PICTURE)
    full = overlay(PICTURE, MASK, LABELS, alpha=1.0, legend=False)
    np.testing.assert_array_equal(np.asarray(full)[:, :60], color_mask(MASK, LABELS.palette)[:, :60])


def test_borders_change_only_pixels_where_classes_meet():
    mask = np.kron(MASK[::20, ::20], np.ones((100, 100), np.uint8))
    image = np.full((*mask.shape, 3), 90, np.uint8)
    plain = np.asarray(overlay(image, mask, LABELS, legend=False, borders=False))
    lined = np.asarray(overlay(image, mask, LABELS, legend=False))
    columns = np.unique(np.nonzero((plain != lined).any(-1))[1])
    assert columns.tolist() == [199, 299]


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 3), (40, 60), (360, 480), (1200, 900)])
def test_legend_is_readable_beside_any_size(size):
    mask = np.zeros(size, np.uint8)
    mask.reshape(-1)[::2] = 1
    result = overlay(np.zeros((*size, 3), np.uint8), mask, LABELS)
    assert result.width >= size[1]
    assert result.width >= 150  # swatch, name and share in letters of 12 pixels
    legend = np.asarray(result)[size[0] :]
    assert len(legend) >= 18
    assert (legend == 255).mean() > 0.3  # paper
    assert (legend == LABELS.palette[1]).all(-1).sum() >= 100  # a swatch
    assert not (legend == LABELS.palette[0]).all(-1).any()  # and none for what is not drawn


def test_legend_lists_only_classes_that_occur():
    with_cat = MASK.copy()
    with_cat[0, 0] = 2
    narrow = [overlay(PICTURE, mask, LABELS).height for mask in (MASK, with_cat)]
    assert narrow[1] > narrow[0]


def swatches(legend: np.ndarray, labels: Labels) -> list[int]:
    """Give the classes whose swatches a legend of one column has, from the top down."""
    rows = [(np.flatnonzero((legend == color).all(-1).any(1)), k) for k, color in enumerate(labels.palette)]
    return [k for _, k in sorted((found[0], k) for found, k in rows if found.size)]


def test_a_legend_lists_classes_in_their_own_order_and_a_black_one_last():
    labels = Labels.of(["small", "background", "large", "a name that leaves room for one column"])
    mask = np.full((200, 200), 2, np.uint8)
    mask[:5], mask[5:50], mask[50:52, :9] = 0, 1, 3
    legend = np.asarray(overlay(np.full((200, 200, 3), 90, np.uint8), mask, labels))[200:]
    assert swatches(legend, labels) == [0, 2, 3]
    assert legend_order(labels) == [0, 2, 3, 1]
    assert (np.diff(np.flatnonzero((legend < 128).any((1, 2)))) > 1).sum() >= 3  # four lines of text


def test_of_many_classes_the_largest_are_listed_and_the_others_are_one_line():
    labels = Labels.of([f"class number {i} with a name that is rather long" for i in range(1, 31)])
    mask = np.repeat(np.arange(30), np.arange(30) + 1)[None].repeat(300, 0).astype(np.uint8)
    legend = np.asarray(overlay(np.full((*mask.shape, 3), 90, np.uint8), mask, labels))[300:]
    assert set(swatches(legend, labels)) == set(range(6, 30))


def test_borders_grow_with_the_image():
    mask = np.zeros((2000, 2000), np.uint8)
    mask[:, 1000:] = 1
    image = np.full((2000, 2000, 3), 90, np.uint8)
    plain = np.asarray(overlay(image, mask, LABELS, legend=False, borders=False))
    lined = np.asarray(overlay(image, mask, LABELS, legend=False))
    assert np.unique(np.nonzero((plain != lined).any(-1))[1]).tolist() == [996, 997, 998, 999]


def test_many_classes_are_listed_in_columns():
    labels = Labels.of([f"class {i}" for i in range(150)])
    mask = (np.arange(300 * 300) % 150).reshape(300, 300).astype(np.uint8)
    result = overlay(np.zeros((300, 300, 3), np.uint8), mask, labels)
    assert result.height < 300 + 150 * 18


def test_overlay_takes_a_path_and_a_pillow_image(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    expected = np.asarray(overlay(PICTURE, MASK, LABELS))
    for source in (tmp_path / "a.png", Image.fromarray(PICTURE)):
        np.testing.assert_array_equal(np.asarray(overlay(source, MASK, LABELS)), expected)


@pytest.mark.parametrize(
    ("mask", "alpha", "message"),
    [
        (MASK, 1.5, "alpha=1.5"),
        (MASK[:-1], 0.5, r"mask has shape \(59, 80\) and the image \(60, 80\)"),
        (np.full_like(MASK, 7), 0.5, r"mask holds 7, and labels has the classes 0\.\.2"),
        (MASK.astype(float), 0.5, "integers"),
    ],
)
def test_what_does_not_fit_is_named(mask, alpha, message):
    with pytest.raises(ValueError, match=message):
        overlay(PICTURE, mask, LABELS, alpha)


def test_palette_that_is_none_is_refused():
    with pytest.raises(ValueError, match="palette has shape"):
        color_mask(MASK, [1, 2, 3])


def test_a_steady_legend_has_one_size_and_order_whatever_occurs() -> None:
    labels = Labels.of([f"class {number}" for number in range(11)])
    image = np.zeros((200, 300, 3), np.uint8)
    one = overlay(image, np.zeros((200, 300), np.uint8), labels, legend="steady")
    mask = (np.arange(300) // 28 % 11).astype(np.uint8)[None].repeat(200, 0)
    all_of_them = overlay(image, mask, labels, legend="steady")
    assert one.size == all_of_them.size
    assert one.height > 200
    many = Labels.of([f"class {'with a longer name ' * (number > 140)}{number}" for number in range(150)])
    sizes = {overlay(image, mask * last, many, legend="steady").size for last in (0, 1, 14)}
    assert len(sizes) == 1


def test_a_steady_legend_of_very_many_classes_lists_the_same_ones_in_every_image() -> None:
    labels = Labels.of([f"class {number}" for number in range(30)])
    image = np.zeros((200, 300, 3), np.uint8)
    legends = [overlay(image, np.full((200, 300), k, np.uint8), labels, legend="steady") for k in (28, 29)]
    first, second = (np.asarray(legend)[200:] for legend in legends)
    np.testing.assert_array_equal(first, second)  # both classes are beyond those that are listed
