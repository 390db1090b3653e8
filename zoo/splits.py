"""Write the lists of names that the recipes split by: images of one scene are in one split.

Images belong together, in one group, where their names say so (one tile, one stretch of a field), where they are alike
or touch (`leaks.py`), or where they are one of the few of their kind. Of many orders of the groups, each drawn from a
digest of their names, the one is kept whose test and val are closest to the whole set in images, kinds of images and
pixels of every class. A test part that was published stays, less the images that train has too.

The lists in `zoo/splits` are what counts: libraries that decode or correlate by another rounding could group a pair
that lies on a limit differently. A blank line in them parts groups.

    FULLYCONV_DATA=FOLDER python zoo/splits.py [NAME ...]
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from leaks import LIMITS, Limit, likeness, thumbnails, touching

from fullyconv.data.pairs import Pair
from fullyconv.data.sources import Source, count_values, open_source

ORDERS = 2000
LEFT_OUT = {
    "nuclei": {"images/8f94a80b95a8"}  # a person sees that it overlaps images/5e263abff938, which is in train
}
ZOO = Path(__file__).parent

Group = list[Pair]


def one_kind(pair: Pair) -> str:
    """Put all images in one kind."""
    return ""


def nuclei_kind(pair: Pair) -> str:
    """Tell the series of a micrograph by its size and stain."""
    with Image.open(pair.image) as image:
        size = f"{image.width}x{image.height}"
        pixels = np.asarray(image.convert("RGB"))
    red, _, blue = pixels.reshape(-1, 3).mean(0)
    if abs(red - blue) < 2:
        return f"{size} gray"
    if red > blue:
        return f"{size} pink"
    return f"{size} {'white' if np.percentile(pixels[..., 1], 90) > 190 else 'violet'}"


def hundred(pair: Pair) -> str:
    """Tell the part of the field by the hundreds of the image's number."""
    return f"{int(pair.image.stem) // 100}"


def by_folder(pair: Pair) -> str:
    """Tell the kind by the folder."""
    return Path(pair.key).parts[0]


def no_places(pairs: Sequence[Pair], kinds: Mapping[Pair, str]) -> list[str]:
    """Let nothing but the content join images."""
    return [pair.key for pair in pairs]


def rare_kinds(pairs: Sequence[Pair], kinds: Mapping[Pair, str]) -> list[str]:
    """Keep together the images of a kind with fewer than eight of them: frames of one film, shots of one slide."""
    counts = Counter(kinds.values())
    return [kinds[pair] if counts[kinds[pair]] < 8 else pair.key for pair in pairs]


def stretches(pairs: Sequence[Pair], kinds: Mapping[Pair, str]) -> list[str]:
    """Keep together ten images by their numbers: neighbors were taken one after the other along the rows."""
    return [f"{(int(pair.image.stem) - 1) // 10}" for pair in pairs]


def tiles(pairs: Sequence[Pair], kinds: Mapping[Pair, str]) -> list[str]:
    """Keep together the shots of a tile: their numbers are at most 400 apart, those of different tiles are more."""
    place: dict[Pair, str] = {}
    before = -401
    for number, pair in sorted(
        ((int(pair.image.stem.rpartition("_")[2]), pair) for pair in pairs), key=lambda item: item[0]
    ):
        if number - before > 400:
            start = number
        place[pair], before = str(start), number
    return [place[pair] for pair in pairs]


@dataclass(frozen=True)
class Rule:
    """Say how a set is split.

    Args:
        kind: image -> the kind whose share is kept.
        places: images and their kinds -> a word for each; images of one word are a group.
        test: share of the images for test.
        val: share of the images for val.
        published: the set has a test part that stays.
    """

    kind: Callable[[Pair], str] = one_kind
    places: Callable[[Sequence[Pair], Mapping[Pair, str]], list[str]] = no_places
    test: float = 0.15
    val: float = 0.15
    published: bool = False


RULES = {
    "nuclei": Rule(nuclei_kind, rare_kinds),
    "weeds": Rule(hundred, stretches, test=0.2),
    "magnetic_tile": Rule(by_folder, tiles, test=0.2),
    "pets128": Rule(val=0.1, published=True),
    "clothes_voc": Rule(test=0.2),
}
"""What a recipe was trained for -> how its set is split."""


def groups_of(pairs: Sequence[Pair], places: Sequence[str], limit: Limit) -> list[Group]:
    """Join images of one place, alike images, and images that touch.

    Args:
        pairs: the images, sorted by key.
        places: a word for each of them.
        limit: how they are compared.

    Returns:
        The groups, each sorted, in the order of their first images.
    """
    top = list(range(len(pairs)))

    def root(number: int) -> int:
        while top[number] != number:
            number = top[number]
        return number

    def join(one: int, two: int) -> None:
        low, high = sorted((root(one), root(two)))
        top[high] = low

    first: dict[str, int] = {}
    for number, place in enumerate(places):
        join(number, first.setdefault(place, number))
    files = [pair.image for pair in pairs]
    thumbs = thumbnails(files)
    for start in range(0, len(files), 64):
        alike = likeness(thumbs[start : start + 64], thumbs[start:], turned=limit.turned)
        for one, two in (alike > limit.likeness).nonzero().tolist():
            join(start + one, start + two)
    for one, two in touching(files):
        join(one, two)
    joined: dict[int, Group] = defaultdict(list)
    for number, pair in enumerate(pairs):
        joined[root(number)].append(pair)
    return list(joined.values())


def draw(
    groups: Sequence[Group], shares: Mapping[str, float], counts: Mapping[Pair, Counter[str]]
) -> dict[str, list[Group]]:
    """Fill the splits with whole groups, so that each is as the whole set is.

    Args:
        groups: all groups.
        shares: split -> share of the images that it gets; "train" gets the rest.
        counts: image -> what is to be shared out evenly, with how much of it the image has.

    Returns:
        Split -> groups.
    """
    of_group = [sum((counts[pair] for pair in group), Counter[str]()) for group in groups]
    whole = sum(of_group, Counter[str]())
    images = sum(map(len, groups))
    best: tuple[float, dict[str, list[int]]] | None = None
    for order in range(ORDERS):
        names = [hashlib.blake2b(f"{order}/{group[0].key}".encode()).digest() for group in groups]
        split: dict[str, list[int]] = {name: [] for name in (*shares, "train")}
        room = {name: round(share * images) for name, share in shares.items()}
        for number in sorted(range(len(groups)), key=names.__getitem__):
            name = next((name for name in shares if len(groups[number]) <= room[name]), "train")
            split[name].append(number)
            if name in room:
                room[name] -= len(groups[number])
        off = 0.0
        for name, share in shares.items():
            held = sum((of_group[number] for number in split[name]), Counter[str]())
            off += sum(abs(held[what] / (share * total) - 1.0) for what, total in whole.items())
        if best is None or off < best[0]:
            best = off, split
    assert best is not None
    return {name: [groups[number] for number in sorted(numbers)] for name, numbers in best[1].items()}


def split(name: str, rule: Rule) -> None:
    """Write the lists that a recipe names, and print what is in them."""
    options = yaml.safe_load((ZOO / f"ladder_efficientnet_lite0.{name}" / "recipe.yaml").read_text())["data"]
    source = open_source(options["data"], classes=options.get("classes"), values=options["values"])
    folder = ZOO.parent / options["lists"]
    # Keys are alike across folders; the path inside the set names an image for good.
    for part, found in source.splits.items():
        source.splits[part] = [replace(pair, key=_inside(source.root, pair.image)) for pair in found]
    pairs = sorted((pair for found in source.splits.values() for pair in found), key=lambda pair: pair.key)
    count_values(source, pairs)
    kinds = {pair: rule.kind(pair) for pair in pairs}
    groups = groups_of(pairs, rule.places(pairs, kinds), LIMITS.get(options["data"], Limit()))
    counts = {pair: _contents(source, pair, kinds[pair]) for pair in pairs}
    if rule.published:
        published = set(source.splits["test"])
        mixed = [group for group in groups if 0 < len(published.intersection(group)) < len(group)]
        left = [[pair for pair in group if pair not in published] for group in groups]
        splits = draw([group for group in left if group], {"val": rule.val}, counts)
        splits["test"] = [group for group in groups if group not in mixed and published.issuperset(group)]
    else:
        splits = draw(groups, {"test": rule.test, "val": rule.val}, counts)
    print(f"{name}: {len(pairs)} images in {len(groups)} groups, the largest of {max(map(len, groups))}")
    folder.mkdir(parents=True, exist_ok=True)
    whole = sum(counts.values(), Counter[str]())
    for part in ("train", "val", "test"):
        out = LEFT_OUT.get(name, set())
        kept = ([pair for pair in group if pair.key not in out] for group in splits[part])
        splits[part] = [group for group in kept if group]
        blocks = ["\n".join(pair.key for pair in group) for group in splits[part]]
        (folder / f"{part}.txt").write_text("\n\n".join(blocks) + "\n")
        held = sum((counts[pair] for group in splits[part] for pair in group), Counter[str]())
        print(f"  {part}: {sum(map(len, splits[part]))} images in {len(splits[part])} groups")
        print("    " + ", ".join(f"{what} {held[what] / total:.1%}" for what, total in sorted(whole.items())))


def _inside(root: Path, image: Path) -> str:
    return image.relative_to(root).with_suffix("").as_posix()


def _contents(source: Source, pair: Pair, kind: str) -> Counter[str]:
    """Count the image as one of its kind, and the pixels of its classes."""
    held: Counter[str] = Counter({f"[{kind}]": 1})
    for value, pixels in source.counts[pair.mask].items():
        held[source.labels.meaning[value]] += pixels
    return held


def main() -> None:
    """Split the sets of the recipes named on the command line, or of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RULES)}; all by default")
    for name in parser.parse_args().names or RULES:
        split(name, RULES[name])


if __name__ == "__main__":
    main()
