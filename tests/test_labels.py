from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fullyconv.errors import DatasetError
from fullyconv.label_sets import CAMVID
from fullyconv.labels import NO_COLOR, Labels, count_values_of, packed
from fullyconv.palettes import default_palette, voc_palette


def test_voc_palette_is_computed_as_published():
    published = {0: (0, 0, 0), 1: (128, 0, 0), 7: (128, 128, 128), 15: (192, 128, 128), 20: (0, 64, 128)}
    palette = voc_palette(256)
    assert {index: palette[index] for index in published} == published
    assert palette[255] == (224, 224, 192)


# Linear sRGB as people see it who lack the cones for red or for green (Machado et al. 2009, severity 1).
VISION = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}
LMS = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
LAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


def distances(palette, vision):
    """Give the OKLab distances (n, n) between colors; black to white is 1."""
    values = np.array(palette) / 255
    light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    seen = (light @ np.array(VISION[vision]).T).clip(0, 1)
    lab = np.cbrt(seen @ np.array(LMS).T) @ np.array(LAB).T
    return np.linalg.norm(lab[:, None] - lab, axis=-1)


@pytest.mark.parametrize(
    ("vision", "least"),
    [
        ("all cones", {4: 0.34, 9: 0.23, 13: 0.14, 21: 0.12, 41: 0.08, 64: 0.06}),
        ("protanopia", {4: 0.28, 9: 0.13, 13: 0.09, 21: 0.07, 41: 0.045, 64: 0.035}),
        ("deuteranopia", {4: 0.27, 9: 0.13, 13: 0.09, 21: 0.07, 41: 0.045, 64: 0.035}),
    ],
)
def test_default_colors_can_be_told_apart_also_without_the_cones_for_red_or_green(vision, least):
    far = distances(default_palette(64), vision) + np.eye(64)
    for n, bound in least.items():
        assert far[:n, :n].min() > bound
    twins = distances([CAMVID["road"], CAMVID["fence"], CAMVID["car"]], vision) + np.eye(3)
    assert twins.min() < 0.12  # what the colors of CamVid's files are drawn with is no better than this
    assert distances([(0, 0, 0), (255, 255, 255)], vision)[0, 1] == pytest.approx(1, abs=0.01)


def test_a_background_is_black_and_the_first_of_two_classes_and_nothing_else():
    black = (0, 0, 0)

    def blacks(*names):
        return [name for name, color in zip(names, Labels.of(names).palette, strict=True) if color == black]

    assert blacks("sky", "Background", "road") == ["Background"]
    assert blacks("foreground", "background") == ["background"]
    assert blacks("road", "crack") == ["road"]
    assert blacks("sky", "road", "car") == []
    assert Labels.of(["background", "sky", "road"]).palette[1:] == Labels.of(["sky", "road", "car"]).palette[:2]


def test_palettes_stay_distinct_beyond_one_byte_of_classes():
    assert len(set(voc_palette(1000))) == 1000
    assert len(set(default_palette(1000))) == 1000


def test_default_map_is_identity_and_255_is_ignored():
    labels = Labels.of(["a", "b"])
    mask = np.array([[0, 1], [255, 1]], dtype=np.uint8)
    np.testing.assert_array_equal(labels.encode(mask), mask)
    assert labels.encode(mask).dtype == np.uint8


def test_encoding_equals_a_dictionary_look_up_of_every_pixel():
    rng = np.random.default_rng(0)
    values = {3: "b", 7: "a", 9: "ignore", 200: "b", 40_000: "a"}
    labels = Labels.of(["a", "b"], values=values)
    mask = rng.choice(list(values), size=(37, 53)).astype(np.uint16)
    index = {"a": 0, "b": 1, "ignore": 255}
    expected = [[index[values[int(value)]] for value in row] for row in mask]
    np.testing.assert_array_equal(labels.encode(mask), expected)


def test_encoding_does_not_touch_its_input():
    mask = np.array([[7]], dtype=np.uint8)
    Labels.of(["a", "b"], values={7: "b"}).encode(mask)
    assert mask.tolist() == [[7]]


def test_more_than_255_classes_are_encoded_in_16_bits():
    labels = Labels.of([f"c{i}" for i in range(300)])
    encoded = labels.encode(np.array([[255, 299, 65535]], dtype=np.uint16))
    assert encoded.dtype == np.uint16
    assert encoded.tolist() == [[255, 299, 65535]]
    assert labels.ignore_index == 65535


def test_the_last_class_and_the_ignored_pixels_decide_the_bits_of_a_mask():
    many = Labels.of([f"c{i}" for i in range(256)])
    assert (many.ignore_index, many.dtype) == (65535, np.uint16)
    assert many.encode(np.array([[0, 255, 65535]], np.uint16)).tolist() == [[0, 255, 65535]]
    assert Labels.of([f"c{i}" for i in range(255)]).dtype is np.uint8
    for values in (None, {1: "a", 2: "b", 3: "ignore"}, {"#000001": "a", "#000002": "b", "#000003": "ignore"}):
        far = Labels.of(["a", "b"], values=values, ignore_index=256)
        encoded = far.encode(np.array([[0, 1, 256]] if values is None else [[1, 2, 3]], np.uint16))
        assert encoded.tolist() == [[0, 1, 256]]
        assert encoded.dtype == far.dtype == np.uint16
    assert Labels.of(["a", "b"], ignore_index=255).dtype is np.uint8


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_stray_value_names_file_value_and_remedy(dtype):
    mask = np.array([[0, 17], [1, 17]], dtype=dtype)
    with pytest.raises(
        DatasetError, match=r"street_7.png: label value 17 \(2 pixels\) is not in the label map .*values="
    ):
        Labels.of(["a", "b"]).encode(mask, Path("street_7.png"))


@pytest.mark.parametrize("value", [-1, 300, 70_000])
def test_value_beyond_the_table_is_stray(value):
    with pytest.raises(DatasetError, match=f"label value {value} "):
        Labels.of(["a", "b"]).encode(np.array([[value]]))


def test_antialiased_mask_is_called_by_its_name():
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    with pytest.raises(DatasetError, match="antialiased"):
        Labels.of(["a", "b"]).encode(mask, "x.png")


@pytest.mark.parametrize("mask", [np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.float32)])
def test_mask_that_is_no_label_image_is_refused(mask):
    with pytest.raises(ValueError, match=r"a mask is \(H, W\) integers"):
        Labels.of(["a"]).encode(mask)


def test_plain_json_round_trip_gives_equal_labels():
    labels = Labels.of(["sky", "road"], [(1, 2, 3), (4, 5, 6)], {4: "road", 2: "sky", 0: "ignore"})
    entry = json.loads(json.dumps(labels.to_dict()))
    assert Labels.from_dict(entry) == labels


def test_labels_serve_as_dictionary_keys():
    assert len({Labels.of(["a", "b"]), Labels.of(["a", "b"]), Labels.of(["a", "c"])}) == 2


def test_ignored_index_of_ones_own_is_kept():
    with pytest.raises(ValueError, match=r"ignore_index=-1: .* no class, 2\.\.65535"):
        Labels.of(["a", "b"], ignore_index=-1)
    assert Labels.of(["a", "b"], ignore_index=9).values == {0: "a", 1: "b", 9: "ignore"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": []}, "names holds 0 classes"),
        ({"names": "road"}, "give a list of class names"),
        ({"names": ["a", "a"]}, "'a' twice"),
        ({"names": ["a", ""]}, "one printable line of 1 to 200 letters"),
        ({"names": ["a", "ignore"]}, "rename the class"),
        ({"names": ["a", 3]}, "names holds '3': a class name is"),
        ({"names": ["a"], "palette": [(0, 0, 0), (1, 1, 1)]}, "for each of the 1 classes"),
        ({"names": ["a"], "palette": [(0, 0, 300)]}, r"integers in 0\.\.255"),
        ({"names": ["a"], "palette": [(0, 0)]}, "three integers"),
        ({"names": ["road"], "values": {0: "raod"}}, "Did you mean road"),
        ({"names": ["a"], "values": {-1: "a"}}, r"integers in 0\.\.65535"),
        ({"names": ["a"], "values": {"0": "a"}}, r"integers in 0\.\.65535"),
        ({"names": ["a", "b"], "ignore_index": 1}, r"ignore_index=1: .* no class, 2\.\."),
        ({"names": ["a", "b"], "ignore_index": 70_000}, r"ignore_index=70000: "),
    ],
)
def test_broken_rule_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Labels.of(**arguments)


def test_ignored_pixels_need_not_be_named_among_the_values_and_may_have_a_class():
    own = Labels.of(["a", "b"], values={1: "a", 2: "b"})
    assert own.encode(np.array([[1, 2, 255]], np.uint8)).tolist() == [[0, 1, 255]]
    assert Labels.of(["a", "b"], values={1: "a", 255: "b"}).encode(np.array([[1, 255]], np.uint8)).tolist() == [[0, 1]]


def test_a_class_is_found_by_its_name_or_number_and_no_number_beyond_the_last():
    own = Labels.of(["cat", "dog", "1"])
    assert [own.index(label) for label in ("dog", 0, "2", np.int64(2), "1")] == [1, 0, 2, 2, 2]  # a name comes first
    for label in (3, "3", -1, True, 1.0):
        with pytest.raises(ValueError, match=rf"^label={label!r}: "):
            own.index(label)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, "lacks 'names'"),
        ({"names": "road"}, "give a list"),
        ({"names": ["a"], "palete": []}, "Did you mean palette"),
        ({"names": ["a"], "values": {"x": "a"}}, "mapping of integers"),
        ({"names": []}, "names holds 0 classes"),
    ],
)
def test_broken_entry_is_named(entry, message):
    with pytest.raises(ValueError, match=message):
        Labels.from_dict(entry)


def test_palette_of_no_color_is_refused():
    with pytest.raises(ValueError, match="n=0"):
        default_palette(0)


class TestColors:
    LABELS = Labels.of(["road", "sky"], values={"#808080": "road", "#0000FF": "sky", "#000000": "ignore"})

    def test_a_value_may_be_a_color_and_others_are_ignored(self):
        assert self.LABELS.by_color
        assert self.LABELS.values == {"#808080": "road", "#0000ff": "sky", "#000000": "ignore", "other": "ignore"}
        assert not Labels.of(["road", "sky"]).by_color

    def test_pixels_and_packed_numbers_encode_alike(self):
        pixels = np.array([[[128, 128, 128], [0, 0, 255]], [[0, 0, 0], [0, 0, 255]]], np.uint8)
        expected = [[0, 1], [255, 1]]
        assert self.LABELS.encode(pixels).tolist() == expected
        assert self.LABELS.encode(packed(pixels)).tolist() == expected
        assert self.LABELS.encode(np.array([[NO_COLOR]])).tolist() == [[255]]

    def test_a_color_like_none_may_have_a_class(self):
        labels = Labels.of(["road", "rest"], values={"#808080": "road", "other": "rest"})
        assert labels.encode(np.array([[0x808080, NO_COLOR]])).tolist() == [[0, 1]]

    def test_messages_name_colors(self):
        with pytest.raises(DatasetError, match=r'a\.png: color #010203 \(1 pixels\) .*#000000=ignore.*"#010203": "ig'):
            self.LABELS.encode(np.array([[[1, 2, 3], [0, 0, 255]]], np.uint8), "a.png")

    def test_they_survive_json(self):
        again = Labels.from_dict(json.loads(json.dumps(self.LABELS.to_dict())))
        assert again == self.LABELS

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"#ff0000": "road", 0: "sky"}, "mixes numbers and colors"),
            ({"#ff0000": "road", "#FF0000": "sky"}, "holds the color #ff0000 twice"),
            ({"red": "road"}, 'or colors written "#rrggbb"'),
            ({"other": "road"}, "names no color"),
            ({"#ff0000": "rod"}, "Did you mean road"),
        ],
    )
    def test_values_that_break_a_rule_are_refused(self, values, message):
        with pytest.raises(ValueError, match=message):
            Labels.of(["road", "sky"], values=values)


def test_runs_and_counts_of_an_empty_mask_are_empty():
    assert count_values_of(np.zeros((0, 4), np.int32)) == {}
