"""Where on the earth an image lies: read from GeoTIFF tags or a world file, kept with its mask.

The tags are those of OGC's GeoTIFF standard 1.1 (ogc.org/standard/geotiff): a pixel's place is an affine function of
its column and row, and the coordinate system is an EPSG code.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import TiffTags

from fullyconv.errors import DatasetError
from fullyconv.files import write
from fullyconv.images.opening import NotOpened, as_file, opened, tiff_tag

SCALE, TIEPOINT, MATRIX, KEYS, DOUBLES, TEXTS, NODATA = 33550, 33922, 34264, 34735, 34736, 34737, 42113
_TYPES = {SCALE: 12, TIEPOINT: 12, MATRIX: 12, KEYS: 3, DOUBLES: 12, TEXTS: TiffTags.ASCII}  # of what is kept

_MODEL, _RASTER, _GEOGRAPHIC, _PROJECTED = 1024, 1025, 2048, 3072  # keys
_POINT, _OWN = 2, 32767  # a pixel is its center; a coordinate system of its own
_WORLD = {".tif": ".tfw", ".tiff": ".tfw", ".png": ".pgw", ".jpg": ".jgw", ".jpeg": ".jgw", ".jp2": ".j2w"}
_ANY = 2**62  # pixels: nothing but the header is read
_MAX_NOTE = 2**20  # bytes
_DEGREES = "EPSG:4326"  # WGS 84, the one that GeoJSON (RFC 7946) has


@dataclass(frozen=True)
class Georeference:
    """The place of an image on the earth.

    Args:
        transform: a, b, c, d, e, f: the upper left corner of the pixel in a column and a row lies at
            (a column + b row + c, d column + e row + f); None where the tags give points alone.
        crs: coordinate system, "EPSG:32632"; None where it is not known.
        tags: of the TIFF file: number, type and values.

    Example:
        >>> Georeference((0.5, 0, 10.0, 0, -0.5, 50.0), "EPSG:4326").at(2, 4)
        (11.0, 48.0)
    """

    transform: tuple[float, float, float, float, float, float] | None
    crs: str | None = None
    tags: tuple[tuple[int, int, tuple[Any, ...]], ...] = ()

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Give the place of a point of the image; (0, 0) is the upper left corner of its first pixel."""
        assert self.transform is not None
        a, b, c, d, e, f = self.transform
        return a * x + b * y + c, d * x + e * y + f

    def world_file(self) -> str:
        """Write the six lines of a world file, which speak of the center of the first pixel."""
        assert self.transform is not None
        a, b, _, d, e, _ = self.transform
        return "".join(f"{number!r}\n" for number in (a, d, b, e, *self.at(0.5, 0.5)))

    def save_beside(self, image: Path) -> None:
        """Write a world file beside an image that holds no tags, and the coordinate system as GDAL reads it."""
        if self.transform is not None:
            write(image.with_suffix(_WORLD[image.suffix.lower()]), self.world_file())
        if self.crs is not None:
            text = f"<PAMDataset>\n  <SRS>{self.crs}</SRS>\n</PAMDataset>\n"
            write(image.with_name(f"{image.name}.aux.xml"), text)

    def tags_of_mask(self, nodata: int | None) -> list[tuple[int, int, tuple[Any, ...]]]:
        """Give the tags of a TIFF mask: those of the image, and the value of pixels without data, if there are such."""
        return [*self.tags, *([] if nodata is None else [(NODATA, 2, (str(nodata).encode(),))])]

    def to_degrees(self, points: list[tuple[int, int]], name: str) -> list[tuple[float, float]]:
        """Give longitude and latitude of points of the image.

        Args:
            points: (x, y) in pixels.
            name: of the image, for messages.

        Raises:
            DatasetError: if the coordinate system is not known, or needs pyproj and it is not installed.
        """
        pixels = "; polygons as COCO are in pixels (--polygons coco)"
        if self.transform is None or self.crs is None:
            what = "its coordinate system (CRS) is not named" if self.transform else "its tags give points alone"
            raise DatasetError(f"{name}: GeoJSON is in longitude and latitude, and {what}{pixels}")
        places = [self.at(x, y) for x, y in points]
        if self.crs == _DEGREES:
            return places
        try:
            transformer = _transformer(self.crs)
        except ImportError as error:
            raise DatasetError(
                f"{name}: GeoJSON is in longitude and latitude, and from {self.crs} pyproj computes them: "
                f"pip install 'fullyconv[geo]'{pixels}"
            ) from error
        except Exception as error:  # pyproj's own, for a code that is none
            raise DatasetError(f"{name}: {self.crs} is no coordinate system that pyproj knows{pixels}") from error
        xs, ys = transformer.transform([x for x, _ in places], [y for _, y in places])
        if not all(map(math.isfinite, (*xs, *ys))):
            raise DatasetError(f"{name}: lies outside of where {self.crs} is defined{pixels}")
        return list(zip(xs, ys, strict=True))


@cache
def _transformer(crs: str) -> Any:
    """Make what gives degrees, once for all polygons of a run: it takes as long as thousands of points."""
    from pyproj import Transformer

    return Transformer.from_crs(crs, _DEGREES, always_xy=True)


def georeference_of(source: object) -> Georeference | None:
    """Read where an image lies: from the tags of a GeoTIFF, or a world file beside it.

    Args:
        source: what an image is read from; other things than files lie nowhere.
    """
    if not isinstance(source, str | Path):
        return None
    path = Path(source)
    found = _from_tags(path) if path.suffix.lower() in (".tif", ".tiff") else None
    return found or _from_world_file(path)


def nodata_in(value: Any) -> float | None:
    """Read the number that GDAL's tag says is no data; None where it is none."""
    try:
        return float(str(value).strip("\0 "))
    except ValueError:
        return None


def _from_tags(path: Path) -> Georeference | None:
    try:
        with opened(as_file(path), _ANY) as image:
            found = {tag: tiff_tag(image, tag) for tag in _TYPES} if image.format == "TIFF" else {}
    except NotOpened:
        found = _by_tifffile(path)
    return _made({tag: _listed(value) for tag, value in found.items() if value is not None})


def _listed(value: Any) -> tuple[Any, ...]:
    if isinstance(value, str):
        value = value.encode("latin-1", "replace")  # as Pillow reads it
    return value if isinstance(value, tuple) else (value,)


def _by_tifffile(path: Path) -> dict[int, Any]:
    """Read the tags of a file that Pillow does not open; none where it is damaged: who reads its pixels says so."""
    try:
        import tifffile

        with tifffile.TiffFile(path) as file:
            found: Any = file.pages[0].tags  # type: ignore[union-attr]
            return {tag: found[tag].value for tag in _TYPES if tag in found}
    except Exception:
        return {}


def _made(tags: dict[int, tuple[Any, ...]]) -> Georeference | None:
    keys = _keys(tags.get(KEYS, ()))
    transform = None
    try:
        if len(tags.get(MATRIX, ())) >= 16:
            m = [float(number) for number in tags[MATRIX]]
            transform = (m[0], m[1], m[3], m[4], m[5], m[7])
        elif SCALE in tags and len(tags.get(TIEPOINT, ())) == 6:
            (dx, dy), (i, j, _, x, y, _) = tags[SCALE][:2], tags[TIEPOINT]
            transform = (float(dx), 0.0, float(x - i * dx), 0.0, -float(dy), float(y + j * dy))
    except (TypeError, ValueError):
        return None
    if transform is None and TIEPOINT not in tags:
        return None
    if transform is not None:
        if not all(map(math.isfinite, transform)):
            return None
        if keys.get(_RASTER) == _POINT:  # the place of the center is given
            a, b, c, d, e, f = transform
            transform = (a, b, c - (a + b) / 2, d, e, f - (d + e) / 2)
    code = keys.get(_PROJECTED) if keys.get(_MODEL) == 1 else keys.get(_GEOGRAPHIC)
    kept = tuple((tag, _TYPES[tag], values) for tag, values in tags.items())
    return Georeference(transform, f"EPSG:{code}" if code and code != _OWN else None, kept)


def _keys(values: tuple[Any, ...]) -> dict[int, int]:
    """Give the keys whose values stand in the directory itself."""
    numbers = [int(value) for value in values if isinstance(value, int)]
    entries = [numbers[start : start + 4] for start in range(4, len(numbers) - 3, 4)]
    return {key: value for key, place, _, value in entries if place == 0}


def _from_world_file(path: Path) -> Georeference | None:
    suffix = path.suffix.lower()
    names = [path.with_suffix(_WORLD[suffix])] if suffix in _WORLD else []
    names += [path.with_name(f"{path.name}w"), path.with_suffix(".wld")]
    for name in names:
        try:
            if not name.is_file() or name.stat().st_size > 4096:
                continue
            a, d, b, e, x, y = (float(word) for word in name.read_text("ascii").split()[:6])
        except (OSError, ValueError):
            continue
        if all(map(math.isfinite, (a, b, d, e, x, y))):
            return Georeference((a, b, x - (a + b) / 2, d, e, y - (d + e) / 2), _crs_beside(path))
    return None


def _crs_beside(path: Path) -> str | None:
    """Read the EPSG code that GDAL notes beside an image."""
    try:
        note = path.with_name(f"{path.name}.aux.xml")
        text = note.read_text("utf-8") if note.stat().st_size <= _MAX_NOTE else ""
    except (OSError, UnicodeDecodeError):
        return None
    found = re.search(r"<SRS[^>]*>\s*EPSG:(\d{4,6})\s*</SRS>", text)
    return f"EPSG:{found[1]}" if found else None
