"""The classes of public data sets: numbers, order, and what the values of their mask files mean."""

from __future__ import annotations

import numpy as np

from fullyconv import label_sets
from fullyconv.labels import Labels
from fullyconv.palettes import default_palette


def test_sets_have_the_classes_that_the_published_networks_score() -> None:
    sizes = {
        label_sets.VOC: 21,
        label_sets.PASCAL_CONTEXT: 60,
        label_sets.NYUDV2: 40,
        label_sets.SIFT_FLOW_SEMANTIC: 33,
        label_sets.SIFT_FLOW_GEOMETRIC: 3,
    }
    for names, count in sizes.items():
        assert len(set(names)) == len(names) == count
    # the classes of VOC keep their indices in PASCAL-Context, which goes on in the order of its own list
    assert label_sets.PASCAL_CONTEXT[:21] == label_sets.VOC
    assert [label_sets.PASCAL_CONTEXT[i] for i in (21, 42, 52, 59)] == ["bag", "curtain", "bedcloth", "wood"]
    assert [label_sets.NYUDV2[i] for i in (0, 19, 39)] == ["wall", "floor mat", "otherprop"]
    assert list(label_sets.SIFT_FLOW_SEMANTIC) == sorted(label_sets.SIFT_FLOW_SEMANTIC)


def test_files_of_voc_hold_class_indices_and_255_for_void() -> None:
    for labels in (label_sets.voc(), label_sets.pascal_context()):
        mask = np.array([[0, 1, 20, 255]], dtype=np.uint8)
        assert labels.encode(mask).tolist() == mask.tolist()


def test_files_of_nyudv2_and_sift_flow_count_from_one_and_0_is_void() -> None:
    for labels in (label_sets.nyudv2(), label_sets.sift_flow_semantic(), label_sets.sift_flow_geometric()):
        last = labels.num_classes
        assert labels.encode(np.array([[0, 1, last, 255]], dtype=np.uint8)).tolist() == [[255, 0, last - 1, 255]]
        assert Labels.from_dict(labels.to_dict()) == labels


def test_sets_are_drawn_in_colors_that_can_be_told_apart_whatever_their_files_are_stored_in() -> None:
    for labels in (label_sets.camvid(), label_sets.cityscapes(), label_sets.ade20k()):
        assert sorted(labels.palette) == sorted(default_palette(labels.num_classes + 1)[1:])
    assert label_sets.voc().palette == default_palette(21)
    assert label_sets.FILE_COLORS[label_sets.camvid().names]["road"] == (128, 64, 128)
    assert label_sets.FILE_COLORS[label_sets.cityscapes().names]["car"] == (0, 0, 142)
