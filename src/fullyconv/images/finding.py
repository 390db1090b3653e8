"""Find the image files of a folder, and say what else lies in it."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from fullyconv.errors import near_path

# fmt: off
EXTENSIONS = (
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
)
"""What counts as an image or a mask in a folder, whatever the case of its letters."""

UNREAD = (
    ".arw", ".cr2", ".cr3", ".dcm", ".dng", ".exr", ".fits", ".heic", ".heif", ".hdr", ".jxl", ".nef", ".nii", ".npy",
    ".orf", ".psd", ".raf", ".rw2", ".svg", ".czi", ".nd2", ".lif", ".svs", ".ndpi", ".tga",
)
"""What people call images, and is not read."""
# fmt: on

MASK_EXTENSIONS = (*EXTENSIONS, ".mat", ".seg")
"""What counts as a mask: images, MATLAB files, and the run lengths of the Berkeley segmentation data set."""


def find_images(source: str | Path, *, recursive: bool = False, extensions: Sequence[str] = EXTENSIONS) -> list[Path]:
    """List the images of a folder, a file or a pattern, sorted by name.

    Args:
        source: a folder, one file, or a pattern with `*`, `?`, `[...]`; `**` goes through sub-folders.
        recursive: of a folder, list the images of its sub-folders too.
        extensions: what counts as one, in small letters.

    Returns:
        At least one path, sorted.

    Raises:
        FileNotFoundError: if there is nothing, or no image in it.
    """
    path = Path(source)
    if not str(source):  # an unset variable of a shell; Path would take it for the folder where one stands
        raise FileNotFoundError("'': no file or folder; give a name, or . for this folder")
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [entry for entry in (path.rglob("*") if recursive else path.iterdir()) if _is_image(entry, extensions)]
        where = f"no image in the folder {path}"
    elif any(sign in str(source) for sign in "*?["):
        names = glob.glob(str(source), recursive=True)  # noqa: PTH207 - a pattern may begin at the root
        found = [Path(name) for name in names if _is_image(Path(name), extensions)]
        where = f"no image matches {source}"
    else:
        found = []
        refuse_address(source)
        where = f"{source}: no such file or folder{near_path(path)}"
    if not found:
        raise FileNotFoundError(f"{where}; give a file, a folder or a pattern of {', '.join(extensions)} files")
    return sorted(found)


def unread_images(folder: str | Path) -> dict[str, int]:
    """Count the files below a folder that are images by their names and are not read.

    Args:
        folder: the folder.

    Returns:
        Extension -> how many, the most first.
    """
    counts: dict[str, int] = {}
    for path in Path(folder).rglob("*"):
        suffix = path.suffix.lower()
        if suffix in UNREAD and not path.name.startswith(".") and path.is_file():
            counts[suffix] = counts.get(suffix, 0) + 1
    return dict(sorted(counts.items(), key=lambda entry: -entry[1]))


def _is_image(path: Path, extensions: Sequence[str]) -> bool:
    return path.suffix.lower() in extensions and not path.name.startswith(".") and path.is_file()


def refuse_address(source: str | Path) -> None:
    """Refuse what is no path and is not meant to be one: addresses and cameras.

    Args:
        source: what was given where an image is expected.

    Raises:
        ValueError: if it is an address, or the number of a camera, and no file is called so.
    """
    if Path(source).exists():
        return
    if "://" in str(source):
        raise ValueError(f"{source}: is an address, and images are read from files alone; download it first")
    if str(source).isdecimal():
        raise ValueError(f"{source}: no file is called so, and cameras are not read; record a video, and give its file")
