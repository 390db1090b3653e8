"""The classes of public data sets, in the order in which the published networks score them. Names are facts.

Each set is a tuple of names, and a function makes `Labels` of it, with what the values in the mask files of the data
mean. The palettes are those of `default_palette`: for PASCAL VOC it is the official one, for the others there is none
that everybody uses.
"""

from __future__ import annotations

from fullyconv.labels import IGNORE, Labels

VOC: tuple[str, ...] = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""PASCAL VOC (Everingham et al. 2010): 20 classes behind background."""

PASCAL_CONTEXT: tuple[str, ...] = (
    *VOC,
    "bag",
    "bed",
    "bench",
    "book",
    "building",
    "cabinet",
    "ceiling",
    "clothes",
    "computer",
    "cup",
    "door",
    "fence",
    "floor",
    "flower",
    "food",
    "grass",
    "ground",
    "keyboard",
    "light",
    "mountain",
    "mouse",
    "curtain",
    "platform",
    "sign",
    "plate",
    "road",
    "rock",
    "shelves",
    "sidewalk",
    "sky",
    "snow",
    "bedcloth",
    "track",
    "tree",
    "truck",
    "wall",
    "water",
    "window",
    "wood",
)
"""PASCAL-Context (Mottaghi et al. 2014): the 59 frequent classes behind background, 60 in all."""

NYUDV2: tuple[str, ...] = (
    "wall",
    "floor",
    "cabinet",
    "bed",
    "chair",
    "sofa",
    "table",
    "door",
    "window",
    "bookshelf",
    "picture",
    "counter",
    "blinds",
    "desk",
    "shelves",
    "curtain",
    "dresser",
    "pillow",
    "mirror",
    "floor mat",
    "clothes",
    "ceiling",
    "books",
    "refridgerator",  # spelt so in the data set
    "television",
    "paper",
    "towel",
    "shower curtain",
    "box",
    "whiteboard",
    "person",
    "night stand",
    "toilet",
    "sink",
    "lamp",
    "bathtub",
    "bag",
    "otherstructure",
    "otherfurniture",
    "otherprop",
)
"""NYUDv2 (Silberman et al. 2012) with the 40 classes of Gupta et al. 2014; there is no background."""

SIFT_FLOW_SEMANTIC: tuple[str, ...] = (
    "awning",
    "balcony",
    "bird",
    "boat",
    "bridge",
    "building",
    "bus",
    "car",
    "cow",
    "crosswalk",
    "desert",
    "door",
    "fence",
    "field",
    "grass",
    "moon",
    "mountain",
    "person",
    "plant",
    "pole",
    "river",
    "road",
    "rock",
    "sand",
    "sea",
    "sidewalk",
    "sign",
    "sky",
    "staircase",
    "streetlight",
    "sun",
    "tree",
    "window",
)
"""SIFT Flow (Liu et al. 2011): 33 classes of which cow, desert and moon do not occur in the test images."""

SIFT_FLOW_GEOMETRIC: tuple[str, ...] = ("sky", "horizontal", "vertical")
"""The geometric classes of SIFT Flow (Tighe and Lazebnik 2010)."""


def voc() -> Labels:
    """Give the labels of PASCAL VOC: a value is its class, 255 (borders and difficult regions) is ignored.

    Returns:
        21 classes with the official palette.

    Example:
        >>> voc().names[15], voc().palette[15]
        ('person', (192, 128, 128))
    """
    return Labels.of(VOC)


def pascal_context() -> Labels:
    """Give the labels of PASCAL-Context: a value is its class; background is trained and scored as a class.

    Returns:
        60 classes.
    """
    return Labels.of(PASCAL_CONTEXT)


def nyudv2() -> Labels:
    """Give the labels of NYUDv2: values 1 to 40 are the classes, 0 and 255 are ignored.

    Returns:
        40 classes.

    Example:
        >>> nyudv2().values[0], nyudv2().values[1]
        ('ignore', 'wall')
    """
    return _from_one(NYUDV2)


def sift_flow_semantic() -> Labels:
    """Give the semantic labels of SIFT Flow: values 1 to 33 are the classes, 0 and 255 are ignored.

    Returns:
        33 classes.
    """
    return _from_one(SIFT_FLOW_SEMANTIC)


def sift_flow_geometric() -> Labels:
    """Give the geometric labels of SIFT Flow: values 1 to 3 are the classes, 0 and 255 are ignored.

    The files mark void as -1 too, which no mask can hold: write it as 0.

    Returns:
        3 classes.
    """
    return _from_one(SIFT_FLOW_GEOMETRIC)


def _from_one(names: tuple[str, ...]) -> Labels:
    return Labels.of(names, values={0: IGNORE, **dict(enumerate(names, 1))})
