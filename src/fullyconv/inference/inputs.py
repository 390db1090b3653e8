"""Which files of images and videos there are to predict, and where their masks go. It needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fullyconv.images import EXTENSIONS, find_images
from fullyconv.inference.outputs import ONE_HEAD, FolderOptions
from fullyconv.inference.video import VIDEO_EXTENSIONS, require_av


@dataclass(frozen=True)
class Input:
    """A file to predict.

    Args:
        source: the image or video.
        target: its mask; of a video the folder of its masks.
        index: its place among all inputs.
    """

    source: Path
    target: Path
    index: int = 0

    @property
    def is_video(self) -> bool:
        """Whether it is a video, by its name."""
        return self.source.suffix.lower() in VIDEO_EXTENSIONS


def find_inputs(given: Sequence[str | Path], out: Path, mask_format: str) -> list[Input]:
    """Find all images, and then all videos, each once.

    Args:
        given: files, folders and patterns.
        out: folder of the masks.
        mask_format: of the masks of images, "png" or "tif".

    Raises:
        FileNotFoundError: if there is no input.
        ImportError: if a video is given by name, and PyAV is not installed.
    """
    found = {one: None for each in given for one in _find(Path(each), str(each), out, mask_format)}
    return [replace(one, index=index) for index, one in enumerate(sorted(found, key=lambda one: one.is_video))]


def _find(root: Path, given: str, out: Path, mask_format: str) -> Iterator[Input]:
    for path in find_images(given, recursive=True, extensions=(*EXTENSIONS, *VIDEO_EXTENSIONS)):
        if root.is_dir() and out.resolve() != root.resolve() and out.resolve() in path.resolve().parents:
            continue  # a mask of an earlier run, where the masks go into a folder inside that of the images
        # Folders keep their inner structure, so that two images of one name do not overwrite each other.
        one = Input(path, out / (path.relative_to(root) if root.is_dir() else path.name))
        if one.is_video and root.is_file():
            require_av(path)  # one that is asked for by name cannot be left out
        yield replace(one, target=one.target.with_suffix("" if one.is_video else f".{mask_format}"))


def written(inputs: Sequence[Input], options: FolderOptions, heads: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    """Give every file that is written, behind the file that it is made of."""
    for one in inputs:
        files = options.of_video if one.is_video else options.of_image
        yield from ((one.source, target) for target in files(one.target, heads))


def refuse_collisions(inputs: Sequence[Input], options: FolderOptions, heads: Sequence[str] = ONE_HEAD) -> None:
    """Refuse to write a file twice, or over what is to be predicted.

    Args:
        inputs: all of a run.
        options: which files are written.
        heads: of the model.

    Raises:
        ValueError: if a file would be lost; the message names both.
    """
    claimed: dict[Path, Path] = {}
    folders = {one.target: one.source for one in inputs if one.is_video and options.masks}
    sources = {_place(one.source) for one in inputs}
    for source, target in written(inputs, options, heads):
        # the mask of an image that is called like the frame of a video
        frame_of = folders.get(target.parent) if target.stem.isdecimal() else None
        other = frame_of or claimed.setdefault(target, source)
        if other != source:
            raise ValueError(f"{other} and {source} would both be written to {target}: predict them into two folders")
        if target.exists() and _place(target) in sources:
            raise ValueError(
                f"out: {target} would be overwritten by its own mask or that of another image; choose another folder"
            )


def _place(path: Path) -> tuple[int, int]:
    """Tell a file from all others, whatever names lead to it."""
    found = path.stat()
    return found.st_dev, found.st_ino
