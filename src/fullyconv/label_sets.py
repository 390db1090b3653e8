"""The classes of public data sets, in the order in which the published networks score them. Names are facts.

Each set is a tuple of names, and a function makes `Labels` of it, with what the values in the mask files of the data
mean. They are drawn in the colors of `default_palette`, which can be told apart. The colors in which the files of a set
are stored are another thing: those of CamVid and Cityscapes stand in `FILE_COLORS`, all others are PASCAL VOC's.
"""

from __future__ import annotations

from fullyconv.labels import IGNORE, Labels
from fullyconv.palettes import Color, default_palette

# fmt: off
VOC: tuple[str, ...] = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
"""PASCAL VOC (Everingham et al. 2010): 20 classes behind background."""

PASCAL_CONTEXT: tuple[str, ...] = (
    *VOC, "bag", "bed", "bench", "book", "building", "cabinet", "ceiling", "clothes", "computer", "cup", "door",
    "fence", "floor", "flower", "food", "grass", "ground", "keyboard", "light", "mountain", "mouse", "curtain",
    "platform", "sign", "plate", "road", "rock", "shelves", "sidewalk", "sky", "snow", "bedcloth", "track", "tree",
    "truck", "wall", "water", "window", "wood",
)
"""PASCAL-Context (Mottaghi et al. 2014): the 59 frequent classes behind background, 60 in all."""

NYUDV2: tuple[str, ...] = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture", "counter",
    "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes", "ceiling", "books",
    "refridgerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard", "person", "night stand",
    "toilet", "sink", "lamp", "bathtub", "bag", "otherstructure", "otherfurniture", "otherprop",
)
"""NYUDv2 (Silberman et al. 2012) with the 40 classes of Gupta et al. 2014, spelt as there; there is no background."""

SIFT_FLOW_SEMANTIC: tuple[str, ...] = (
    "awning", "balcony", "bird", "boat", "bridge", "building", "bus", "car", "cow", "crosswalk", "desert", "door",
    "fence", "field", "grass", "moon", "mountain", "person", "plant", "pole", "river", "road", "rock", "sand", "sea",
    "sidewalk", "sign", "sky", "staircase", "streetlight", "sun", "tree", "window",
)
"""SIFT Flow (Liu et al. 2011): 33 classes of which cow, desert and moon do not occur in the test images."""

SIFT_FLOW_GEOMETRIC: tuple[str, ...] = ("sky", "horizontal", "vertical")
"""The geometric classes of SIFT Flow (Tighe and Lazebnik 2010)."""


CITYSCAPES: dict[str, tuple[int, Color]] = {
    "road": (7, (128, 64, 128)), "sidewalk": (8, (244, 35, 232)), "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)), "fence": (13, (190, 153, 153)), "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)), "traffic sign": (20, (220, 220, 0)), "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)), "sky": (23, (70, 130, 180)), "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)), "car": (26, (0, 0, 142)), "truck": (27, (0, 0, 70)), "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)), "motorcycle": (32, (0, 0, 230)), "bicycle": (33, (119, 11, 32)),
}
"""Cityscapes (Cordts et al. 2016): the 19 classes that are scored -> their value in `labelIds` files and color."""

ADE20K: tuple[str, ...] = (
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass", "cabinet", "sidewalk",
    "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair", "car", "water", "painting", "sofa",
    "shelf", "house", "sea", "mirror", "rug", "field", "armchair", "seat", "fence", "desk", "rock", "wardrobe", "lamp",
    "bathtub", "railing", "cushion", "base", "box", "column", "signboard", "chest of drawers", "counter", "sand",
    "sink", "skyscraper", "fireplace", "refrigerator", "grandstand", "path", "stairs", "runway", "case", "pool table",
    "pillow", "screen door", "stairway", "river", "bridge", "bookcase", "blind", "coffee table", "toilet", "flower",
    "book", "hill", "bench", "countertop", "stove", "palm", "kitchen island", "computer", "swivel chair", "boat", "bar",
    "arcade machine", "hovel", "bus", "towel", "light", "truck", "tower", "chandelier", "awning", "streetlight",
    "booth", "television receiver", "airplane", "dirt track", "apparel", "pole", "land", "bannister", "escalator",
    "ottoman", "bottle", "buffet", "poster", "stage", "van", "ship", "fountain", "conveyer belt", "canopy", "washer",
    "plaything", "swimming pool", "stool", "barrel", "basket", "waterfall", "tent", "bag", "minibike", "cradle", "oven",
    "ball", "food", "step", "tank", "trade name", "microwave", "pot", "animal", "bicycle", "lake", "dishwasher",
    "screen", "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray", "ashcan", "fan", "pier",
    "crt screen", "plate", "monitor", "bulletin board", "shower", "radiator", "glass", "clock", "flag",
)
"""ADE20K (Zhou et al. 2017): the 150 classes of the scene parsing benchmark, each by the first of its names."""

COCO_STUFF: tuple[str, ...] = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator",
    "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush", "banner", "blanket", "branch",
    "bridge", "building-other", "bush", "cabinet", "cage", "cardboard", "carpet", "ceiling-other", "ceiling-tile",
    "cloth", "clothes", "clouds", "counter", "cupboard", "curtain", "desk-stuff", "dirt", "door-stuff", "fence",
    "floor-marble", "floor-other", "floor-stone", "floor-tile", "floor-wood", "flower", "fog", "food-other", "fruit",
    "furniture-other", "grass", "gravel", "ground-other", "hill", "house", "leaves", "light", "mat", "metal",
    "mirror-stuff", "moss", "mountain", "mud", "napkin", "net", "paper", "pavement", "pillow", "plant-other", "plastic",
    "platform", "playingfield", "railing", "railroad", "river", "road", "rock", "roof", "rug", "salad", "sand", "sea",
    "shelf", "sky-other", "skyscraper", "snow", "solid-other", "stairs", "stone", "straw", "structural-other", "table",
    "tent", "textile-other", "towel", "tree", "vegetable", "wall-brick", "wall-concrete", "wall-other", "wall-panel",
    "wall-stone", "wall-tile", "wall-wood", "water-other", "waterdrops", "window-blind", "window-other", "wood",
)
"""COCO-Stuff (Caesar et al. 2018): the 80 things of COCO and 91 kinds of stuff."""

OXFORD_PET: tuple[str, ...] = ("background", "pet")
"""Oxford-IIIT Pet (Parkhi et al. 2012): the trimaps without the border between the two."""

CAMVID: dict[str, Color] = {
    "sky": (128, 128, 128), "building": (128, 0, 0), "pole": (192, 192, 128), "road": (128, 64, 128),
    "pavement": (60, 40, 222), "tree": (128, 128, 0), "sign": (192, 128, 128), "fence": (64, 64, 128),
    "car": (64, 0, 128), "pedestrian": (64, 64, 0), "bicyclist": (0, 128, 192),
}
"""CamVid as SegNet labels it (Badrinarayanan et al. 2017): 11 classes with their colors."""
# fmt: on

FILE_COLORS: dict[tuple[str, ...], dict[str, Color]] = {
    tuple(CAMVID): CAMVID,
    tuple(CITYSCAPES): {name: color for name, (_, color) in CITYSCAPES.items()},
}
"""Class names of a set -> the color of each in masks that are stored in colors."""

_COCO_GAPS = frozenset([11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90])  # ids that COCO planned and never used, less 1


def voc() -> Labels:
    """Give the labels of PASCAL VOC: a value is its class, 255 (borders and difficult regions) is ignored.

    Returns:
        21 classes.

    Example:
        >>> voc().names[15], voc().values[255]
        ('person', 'ignore')
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


def cityscapes() -> Labels:
    """Give the labels of Cityscapes: values are label ids 0 to 33, of which 19 are classes and the others ignored.

    Returns:
        19 classes with the official palette, in the order of their train ids.

    Example:
        >>> cityscapes().values[7], cityscapes().values[9], cityscapes().names.index("bicycle")
        ('road', 'ignore', 18)
    """
    values = dict.fromkeys(range(34), IGNORE) | {value: name for name, (value, _) in CITYSCAPES.items()}
    return Labels.of(tuple(CITYSCAPES), values=values)


def ade20k() -> Labels:
    """Give the labels of the scene parsing benchmark of ADE20K: values 1 to 150 are the classes, 0 is ignored.

    Returns:
        150 classes.
    """
    return _from_one(ADE20K)


def coco_stuff() -> Labels:
    """Give the labels of COCO-Stuff: values are ids less 1, with 11 gaps in 0 to 181; 255 is ignored.

    Returns:
        171 classes.

    Example:
        >>> coco_stuff().values[0], coco_stuff().values[181], 11 in coco_stuff().values
        ('person', 'wood', False)
    """
    values = [value for value in range(182) if value not in _COCO_GAPS]
    return Labels.of(COCO_STUFF, values=dict(zip(values, COCO_STUFF, strict=True)))


def camvid() -> Labels:
    """CamVid: the 11 classes in the order of the mask values 0..10; 11 is void and ignored.

    Example:
        >>> camvid().values[11]
        'ignore'
    """
    colors = default_palette(12)
    palette = [colors[k] for k in (1, 2, 7, 6, 5, 4, 10, 8, 9, 3, 11)]  # a blue sky, light green trees, a dark road
    return Labels.of(tuple(CAMVID), palette, {**dict(enumerate(CAMVID)), len(CAMVID): IGNORE})


def oxford_pet(*, border: bool = False) -> Labels:
    """Give the labels of the trimaps of Oxford-IIIT Pet: 1 is the pet, 2 the background, 3 the border between them.

    Args:
        border: whether the border is a class of its own; else it is ignored.

    Returns:
        2 classes, or 3.
    """
    names = (*OXFORD_PET, "border") if border else OXFORD_PET
    return Labels.of(names, values={1: "pet", 2: "background", 3: "border" if border else IGNORE})


def _from_one(names: tuple[str, ...]) -> Labels:
    return Labels.of(names, values={0: IGNORE, **dict(enumerate(names, 1))})
