"""Small trees of public sets, in exactly the layout in which they are published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.io import savemat

from fullyconv.data.public.siftflow import SCENES
from fullyconv.images import write_image, write_mask
from fullyconv.palettes import voc_palette

Array = npt.NDArray[Any]

SIZE = (12, 16)
VOC_IDS = {"train": ["2007_000032", "2008_000033"], "val": ["2007_000039", "2009_000064", "2010_000241"]}


def image(seed: int = 0, channels: int = 3) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, channels), dtype=np.uint8)


def spread(values: Sequence[int], dtype: Any = np.uint8) -> Array:
    """A mask in which all the values occur."""
    return np.resize(np.array(values), SIZE).astype(dtype)


def listing(path: Path, names: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def mat(path: Path, **variables: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables, do_compression=True)


def voc(root: Path, ids: dict[str, list[str]] | None = None, values: Sequence[int] = (0, 1, 20, 255)) -> Path:
    """ROOT/JPEGImages, SegmentationClass with a palette, ImageSets/Segmentation."""
    ids = VOC_IDS if ids is None else ids
    for split, names in ids.items():
        for name in names:
            write_image(root / "JPEGImages" / f"{name}.jpg", image())
            write_mask(root / "SegmentationClass" / f"{name}.png", spread(values), voc_palette(256))
        listing(root / "ImageSets" / "Segmentation" / f"{split}.txt", names)
    return root


def sbd(root: Path, train: Sequence[str], val: Sequence[str]) -> Path:
    """ROOT/img, cls/*.mat with the structure GTcls, train.txt, val.txt."""
    for name in [*train, *val]:
        write_image(root / "img" / f"{name}.jpg", image())
        boundaries = np.empty((20, 1), dtype=object)
        for index in range(20):
            boundaries[index, 0] = np.zeros(SIZE, np.uint8)
        content = {"Boundaries": boundaries, "Segmentation": spread([0, 1, 20]), "CategoriesPresent": np.array([1, 20])}
        mat(root / "cls" / f"{name}.mat", GTcls=content)
    listing(root / "train.txt", train)
    listing(root / "val.txt", val)
    return root


def context(root: Path, form: str, values: Sequence[int]) -> Path:
    """VOC2010 with the lists of ImageSets/Main, and masks of PASCAL-Context in one of their forms in ROOT."""
    folder = root / "VOC2010"
    names = {"train": ["2008_000002"], "val": ["2008_000003", "2010_000001"]}
    for split, listed in names.items():
        listing(folder / "ImageSets" / "Main" / f"{split}.txt", listed)
        for name in listed:
            write_image(folder / "JPEGImages" / f"{name}.jpg", image())
            if form == "trainval":
                mat(root / form / f"{name}.mat", LabelMap=spread(values, np.uint16))
            else:
                write_mask(root / form / f"{name}.png", spread(values))
    return root


def nyud(root: Path, numbers: dict[str, list[str]] | None = None) -> Path:
    """The layout of Gupta et al.: data/images, data/depth, data/hha, segmentation/*.mat."""
    numbers = {"train": ["5003"], "val": ["5001", "5002"], "test": ["5004"]} if numbers is None else numbers
    for split, listed in numbers.items():
        for index, number in enumerate(listed):
            name = f"img_{number}.png"
            write_image(root / "data" / "images" / name, image(index))
            write_image(root / "data" / "hha" / name, image(index + 100))
            (root / "data" / "depth").mkdir(parents=True, exist_ok=True)
            depth = spread([0, 403, 2550, 13360], np.uint16)
            Image.fromarray(depth).save(root / "data" / "depth" / name)
            mat(root / "segmentation" / f"img_{number}.mat", segmentation=spread([0, 1, 2, 40]))
        listing(root / f"{split}.txt", listed)
    return root


SCENE_NAMES = ["coast_n1", "forest_n2", "highway_bost181", "street_urb506", "mountain_n3"]


def siftflow(root: Path, test: Sequence[str] = ("mountain_n3",)) -> Path:
    """Images, SemanticLabels and GeoLabels, each with one folder of scenes in it; two scenes have no annotation."""
    for name in SCENE_NAMES:
        write_image(root / "Images" / SCENES / f"{name}.jpg", image())
        if name in ("highway_bost181", "street_urb506"):
            continue
        names = np.array(["awning", "balcony"], dtype=object)
        mat(root / "SemanticLabels" / SCENES / f"{name}.mat", S=spread([0, 1, 33]), names=names, metaData="")
        mat(root / "GeoLabels" / SCENES / f"{name}.mat", S=spread([-1, 0, 1, 3, 2], np.int16), names=names)
    listing(root / "test.txt", test)
    return root


def cityscapes(root: Path, kind: str = "labelIds", values: Sequence[int] = (0, 3, 7, 9, 33)) -> Path:
    for split, city in (("train", "aachen"), ("train", "bochum"), ("val", "lindau"), ("test", "berlin")):
        stem = f"{city}_000000_000019"
        write_image(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", image())
        write_mask(root / "gtFine" / split / city / f"{stem}_gtFine_{kind}.png", spread(values))
        write_mask(root / "gtFine" / split / city / f"{stem}_gtFine_instanceIds.png", spread([26001, 7], np.uint16))
        (root / "gtFine" / split / city / f"{stem}_gtFine_polygons.json").write_text("{}")
    return root


def ade20k(root: Path) -> Path:
    for split, name in (("training", "ADE_train_0000000%d"), ("validation", "ADE_val_0000000%d")):
        for index in (1, 2):
            write_image(root / "images" / split / f"{name % index}.jpg", image(index))
            write_mask(root / "annotations" / split / f"{name % index}.png", spread([0, 1, 150]))
    (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tStuff\tName\n")
    return root


def oxford_pet(root: Path) -> Path:
    for split, names in (("trainval", ["Abyssinian_100", "american_bulldog_10"]), ("test", ["Birman_1"])):
        for name in names:
            write_image(root / "images" / f"{name}.jpg", image())
            write_mask(root / "annotations" / "trimaps" / f"{name}.png", spread([1, 2, 3]))
            (root / "annotations" / "trimaps" / f"._{name}.png").write_bytes(b"\0\5\x16\7")  # as in the archive
        listing(root / "annotations" / f"{split}.txt", [f"{name} 1 1 1" for name in names])
    return root


def coco_stuff(root: Path) -> Path:
    for split, names in (("train2017", ["000000000009", "000000000025"]), ("val2017", ["000000000139"])):
        for name in names:
            write_image(root / "images" / split / f"{name}.jpg", image())
            write_mask(root / "stuffthingmaps" / split / f"{name}.png", spread([0, 10, 12, 89, 91, 181, 255]))
            write_mask(root / "stuffthingmaps" / split / f"{name}_labelTrainIds.png", spread([0, 170, 255]))
    return root


def camvid(root: Path) -> Path:
    for split in ("train", "val", "test"):
        write_image(root / split / f"0001TP_{split}.png", image())
        write_mask(root / f"{split}annot" / f"0001TP_{split}.png", spread(range(12)))
    return root
