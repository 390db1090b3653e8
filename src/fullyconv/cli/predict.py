"""``predict``: images, videos and folders of them."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from fullyconv.cli.opening import open_model, progress_bar
from fullyconv.cli.options import MODEL_HELP, add_unverified, halo, positive
from fullyconv.errors import DatasetError

if TYPE_CHECKING:
    from fullyconv.classifier import DenseScorer
    from fullyconv.cli.options import Commands
    from fullyconv.inference.heatmap import Heatmap
    from fullyconv.inference.segmentation import Segmentation
    from fullyconv.module import SegmentationModule
    from fullyconv.runtime import ExportedSegmenter


PREDICTING_HELP = f"{MODEL_HELP}, or .onnx file that export wrote"


def add(commands: Commands) -> None:
    predict = commands.add_parser("predict", help="segment images, videos and folders of them")
    predict.add_argument(
        "input",
        nargs="+",
        metavar="INPUT",
        help="image, video, folder or quoted glob; a first FILE.onnx is the model",
    )
    predict.add_argument("--model", default="street", help=f"{PREDICTING_HELP} (default: %(default)s)")
    add_unverified(predict)
    predict.add_argument("--out", default="masks", metavar="DIR", help="folder of the masks (default: %(default)s)")
    predict.add_argument(
        "--overlay", action="store_true", help="write NAME.overlay.png beside each mask; of a video NAME.overlay.mp4"
    )
    predict.add_argument(
        "--probabilities",
        choices=("top", "all"),
        help="write NAME.npz beside each mask: that of the winning class, or those of all classes, float16",
    )
    predict.add_argument(
        "--polygons", choices=("geojson", "coco"), help="write NAME.geojson or NAME.coco.json beside each mask"
    )
    predict.add_argument(
        "--heatmap",
        action="append",
        default=[],
        metavar="WORD",
        help="of a classifier, write NAME.heatmap.WORD.png beside each mask: where it sees this class (name or "
        "number); may be given several times",
    )
    predict.add_argument("--flip", action="store_true", help="average with the mirrored image")
    predict.add_argument(
        "--scales",
        type=float,
        nargs="+",
        metavar="S",
        help="average over the image at these sizes, such as 0.75 1 1.25 (default: 1; heat maps have their own)",
    )
    predict.add_argument(
        "--memory",
        metavar="AMOUNT",
        help="what a prediction may take beside the model, such as 2GB; larger images are cut into tiles without "
        "seams (default: half of what is free)",
    )
    predict.add_argument(
        "--halo",
        type=halo,
        default="exact",
        metavar="PIXELS",
        help="pixels around a tile that are read; fewer than exact may leave seams (default: %(default)s)",
    )
    predict.add_argument(
        "--compile",
        action="store_true",
        help="compile the network first, half a minute for each size: for many images of few sizes",
    )
    predict.add_argument(
        "--threads", type=positive, metavar="N", help="of the network (default: as many as there are cores for it)"
    )
    predict.add_argument(
        "--every", type=positive, default=1, metavar="N", help="of a video, every Nth frame (default: %(default)s)"
    )
    predict.add_argument(
        "--no-masks", action="store_true", help="of a video, write no mask a frame: the overlay and the table of shares"
    )
    predict.add_argument("--overwrite", action="store_true", help="segment images again whose masks are there")
    predict.set_defaults(run=_predict)


def _predict(arguments: argparse.Namespace) -> int:
    from fullyconv.images import EXTENSIONS, find_images
    from fullyconv.inference.budget import parse_memory
    from fullyconv.inference.video import VIDEO_EXTENSIONS, require_av

    if len(arguments.input) > 1 and Path(arguments.input[0]).suffix.lower() == ".onnx":
        arguments.model = arguments.input.pop(0)
    images: list[tuple[Path, Path]] = []
    films: list[tuple[Path, Path]] = []  # videos, and the folders of their masks
    out = Path(arguments.out)
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {out}: is a file; give the folder of the masks")
    for given in arguments.input:
        root = Path(given)
        for path in find_images(given, recursive=True, extensions=(*EXTENSIONS, *VIDEO_EXTENSIONS)):
            inside_out = out.resolve() in path.resolve().parents
            if inside_out and out.resolve() != root.resolve() and root.is_dir():
                continue  # a mask of an earlier run, where the masks go into a folder inside that of the images
            # Folders keep their inner structure, so that two images of one name do not overwrite each other.
            inside = path.relative_to(root) if root.is_dir() else Path(path.name)
            if path.suffix.lower() in VIDEO_EXTENSIONS:
                if root.is_file():
                    require_av(path)  # one that is asked for by name cannot be left out
                films.append((path, out / inside.with_suffix("")))
            else:
                images.append((path, out / inside.with_suffix(".png")))
    if arguments.heatmap and films:
        raise ValueError(f"--heatmap: is made of images, and {films[0][0]} is a video; predict its frames")
    files = [_heatmap(Path("x.png"), word) for word in arguments.heatmap]
    if len(set(files)) < len(files):
        raise ValueError(f"--heatmap {' --heatmap '.join(arguments.heatmap)}: two would have one file; give each once")
    if arguments.no_masks and (arguments.probabilities or arguments.polygons):
        raise ValueError(
            "--no-masks: leaves out all that is written frame by frame; give no --probabilities, --polygons"
        )
    claimed: dict[Path, Path] = {}
    targets = [(path, each) for path, target in images for each in _beside(target, arguments)]
    targets += [(path, each) for path, folder in films for each in _of_film(folder, arguments)]
    folders = {} if arguments.no_masks else {folder: path for path, folder in films}
    for path, target in targets:
        # the mask of an image that is called like the frame of a video
        frame_of = folders.get(target.parent) if target.stem.isdecimal() else None
        other = frame_of or claimed.setdefault(target, path)
        if other != path:
            raise ValueError(
                f"{other} and {path} would both be written to {target}: predict them into two folders (--out)"
            )
        if target.exists() and target.samefile(path):
            raise ValueError(
                f"--out {arguments.out}: {path} would be overwritten by its own mask; choose another folder"
            )
    if arguments.memory is not None:
        parse_memory(arguments.memory)  # a wrong word is said before the model is loaded
    if Path(arguments.model).suffix.lower() == ".onnx":
        plain: dict[str, Any] = {
            "memory": None,
            "halo": "exact",
            "flip": False,
            "scales": None,
            "probabilities": None,
            "heatmap": [],
            "compile": False,
        }
        beyond = [f"--{key}" for key, value in plain.items() if getattr(arguments, key) != value]
        if beyond:
            raise ValueError(f"{', '.join(beyond)}: an exported model predicts whole images once; use the model itself")
    if not all(0 < scale <= 16 for scale in arguments.scales or ()):
        raise ValueError(f"--scales {arguments.scales}: give one or more numbers above 0, such as 0.75 1 1.25")
    return _predict_all(arguments, out, images, films)


SETTINGS = ".fullyconv-predict.json"
"""File in the folder of the masks that says how they were made."""

LARGE = 2**23
"""Pixels from which on a TIFF is read window by window, and its mask written band by band, if no overlay is wanted."""


def _beside(target: Path, arguments: argparse.Namespace, heads: Sequence[str] = ("",)) -> list[Path]:
    """Name all files that are written for one image, the mask last; of several heads those of each."""
    if tuple(heads) != ("",):
        from fullyconv.inference.segmentation import of_head

        return [path for head in heads for path in _beside(of_head(target, head), arguments)]
    overlay = [target.with_suffix(".overlay.png")] if arguments.overlay else []
    probabilities = [target.with_suffix(".npz")] if arguments.probabilities else []
    polygons = [_polygons(target, arguments.polygons)] if arguments.polygons else []
    heatmaps = [_heatmap(target, word) for word in arguments.heatmap]
    return [*overlay, *probabilities, *polygons, *heatmaps, target]


def _polygons(target: Path, kind: str) -> Path:
    return target.with_suffix(".geojson" if kind == "geojson" else ".coco.json")


def _heatmap(target: Path, word: str) -> Path:
    plain = re.sub(r"[^\w-]+", "_", word).strip("_")
    return target.with_suffix(f".heatmap.{plain}.png")


def _of_film(folder: Path, arguments: argparse.Namespace, heads: Sequence[str] = ("",)) -> list[Path]:
    """Name the files that are written for a video beside the folder of its masks, tables last."""
    from fullyconv.inference.video import folder_of

    folders = [folder_of(folder, head) for head in heads]
    overlays = [each.with_name(f"{each.name}.overlay.mp4") for each in folders] if arguments.overlay else []
    return [*overlays, *(each.with_name(f"{each.name}.csv") for each in reversed(folders))]


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Give what masks depend on, beside their images."""
    model = Path(arguments.model)
    written = next((each for each in (model / "config.json", model) if each.exists()), None)
    return {
        "model": arguments.model if written is None else str(model.resolve()),
        "model_changed": None if written is None else written.stat().st_mtime_ns,
        "flip": arguments.flip,
        "scales": arguments.scales or [1.0],
        "halo": arguments.halo,
        "probabilities": arguments.probabilities,
    } | ({} if arguments.every == 1 else {"every": arguments.every})


def _done_before(
    arguments: argparse.Namespace, out: Path, images: list[tuple[Path, Path]], films: list[tuple[Path, Path]]
) -> set[Path] | None:
    """Find the images and videos that an earlier run has done; None where there was none with these settings."""
    from fullyconv.inference.video import frames_in

    file = out / SETTINGS
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        heads = before.pop("heads", [""])  # what a model has is known when it is loaded, which then may not be needed
    except (OSError, ValueError, AttributeError):
        return None
    if arguments.overwrite or before != _settings(arguments):
        return None
    done: set[Path] = set()
    for path, target in images:
        # Files are put in place whole and the mask last, so that one that is there is complete.
        if _is_done(path, file, _beside(target, arguments, heads)):
            done.add(path)
    for path, folder in films:
        files = _of_film(folder, arguments, heads)
        frames = frames_in(files[-1]) if _is_done(path, file, files) else None
        if frames is None:
            continue
        if arguments.no_masks or all(
            _is_done(path, file, _of_frame(folder, each, arguments, heads)) for each in frames
        ):
            done.add(path)
    return done


def _is_done(path: Path, settings: Path, files: list[Path]) -> bool:
    """Tell whether all files are there, and the last is newer than what they come from and than the settings."""
    if not all(each.is_file() for each in files):
        return False
    return files[-1].stat().st_mtime_ns >= max(path.stat().st_mtime_ns, settings.stat().st_mtime_ns)


def _of_frame(folder: Path, number: int, arguments: argparse.Namespace, heads: Sequence[str] = ("",)) -> list[Path]:
    from fullyconv.inference.video import folder_of, mask_of

    targets = [mask_of(folder_of(folder, head), number) for head in heads]
    overlays = {target.with_suffix(".overlay.png") for target in targets}
    return [each for target in targets for each in _beside(target, arguments) if each not in overlays]


def _predict_all(
    arguments: argparse.Namespace, out: Path, images: list[tuple[Path, Path]], films: list[tuple[Path, Path]]
) -> int:
    """Segment images: the next one is decoded and the last one written while the network runs on this one."""
    from collections import deque
    from concurrent.futures import Future, ThreadPoolExecutor

    before = _done_before(arguments, out, images, films)
    done = before or set()
    todo = [(path, target) for path, target in images if path not in done]
    todo_films = [(path, folder) for path, folder in films if path not in done]
    total, left = len(images) + len(films), len(todo) + len(todo_films)
    called = " and ".join(name for name, some in (("images", images), ("videos", films)) if some)
    if done:
        print(f"{total - left} of {total} {called} were done before; --overwrite segments them again")
    if not left:
        return 0
    segmenter: SegmentationModule | DenseScorer | ExportedSegmenter
    exported = Path(arguments.model).suffix.lower() == ".onnx"
    if exported:
        from fullyconv.inference.budget import available_processors
        from fullyconv.runtime import load  # which needs no torch

        segmenter = load(arguments.model, threads=arguments.threads or available_processors())
    else:
        segmenter = open_model(arguments)
    if arguments.heatmap and not hasattr(segmenter, "heatmap"):
        raise ValueError(
            f"--heatmap: {arguments.model} is a segmenter, whose masks say where a class is; --probabilities all gives "
            "the probability of each"
        )
    for word in arguments.heatmap:
        segmenter.labels.index(word)
    heads = list(segmenter.classes) if isinstance(segmenter.classes, dict) else [""]
    if heads != [""]:
        _refuse_own(arguments, images, films, heads)
    if before is None:
        # From now on only masks that are newer than this file count, so that a run that is cut short can go on.
        out.mkdir(parents=True, exist_ok=True)
        settings = _settings(arguments) | ({} if heads == [""] else {"heads": heads})
        (out / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    options = {"memory": arguments.memory, "halo": arguments.halo, "flip": arguments.flip}
    options["scales"] = arguments.scales or [1.0]
    if arguments.compile:
        if not hasattr(segmenter, "hparams") or heads != [""]:
            what = "has several heads" if heads != [""] else "is a converted classifier"
            raise ValueError(f"--compile: {arguments.model} {what}; only segmenters of one head are compiled")
        options["compile"] = True
    options = {} if exported else options | {"probabilities": arguments.probabilities}
    failed = 0
    written: deque[tuple[int, Path, Path, Future[str]]] = deque()
    bar = progress_bar(len(todo))

    def say(text: str, stream: TextIO) -> None:
        if bar is None:
            print(text, file=stream, flush=True)
            return
        bar.write(text, file=stream)
        bar.update()

    def skip(error: Exception) -> None:
        nonlocal failed
        failed += 1
        say(f"fullyconv: skipped: {error}", sys.stderr)

    def finish(most: int) -> None:
        while len(written) > most:
            number, path, target, future = written.popleft()
            say(f"[{number}/{total}] {path} -> {target}  ({future.result()})", sys.stdout)

    with bar or nullcontext(), ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        reads = deque(reader.submit(_read_image, segmenter, path, arguments) for path, _ in todo[:1])
        for index, (path, target) in enumerate(todo):
            for following, _ in todo[index + 1 : index + 2]:
                reads.append(reader.submit(_read_image, segmenter, following, arguments))
            number = total - left + index + 1
            future: Future[str]
            try:
                pixels = reads.popleft().result()
                if pixels is None:  # too large to be held as a whole
                    future = Future()
                    future.set_result(_predict_large(segmenter, path, target, arguments, options))
                else:
                    result = segmenter.predict(pixels, **options)
                    heatmaps = _heatmaps(segmenter, pixels, arguments)
                    future = writer.submit(_write_result, result, heatmaps, path, target, arguments)
            except (DatasetError, OSError) as error:
                finish(0)
                skip(error)
                continue
            written.append((number, path, target, future))
            finish(1)
        finish(0)
    bar = None
    for index, (path, folder) in enumerate(todo_films):
        try:
            said = _predict_film(segmenter, path, folder, arguments, options, out / SETTINGS, heads)
        except (DatasetError, OSError, ImportError) as error:
            skip(error)
            continue
        say(f"[{total - left + len(todo) + index + 1}/{total}] {path} -> {said}", sys.stdout)
    if failed:
        print(f"fullyconv: {failed} of {total} {called} could not be read", file=sys.stderr)
    return 1 if failed else 0


def _heatmaps(classifier: Any, pixels: Any, arguments: argparse.Namespace) -> dict[str, Heatmap]:
    options = {"scales": arguments.scales, "memory": arguments.memory}
    return {word: classifier.heatmap(pixels, word, **options) for word in arguments.heatmap}


def _predict_film(
    segmenter: Any,
    path: Path,
    folder: Path,
    arguments: argparse.Namespace,
    options: dict[str, Any],
    settings: Path,
    heads: Sequence[str],
) -> str:
    """Segment a video; the frames that a run before this one has done are taken from its masks."""
    from fullyconv.inference.video import folder_of, mask_of, predict_video

    *overlays, table = _of_film(folder, arguments)
    overlay = overlays[0] if overlays else None
    bar = progress_bar(None, "frame", path.name)

    def also(frame: Any, result: Segmentation, head: str) -> None:
        target = mask_of(folder_of(folder, head), frame.number)
        _write_beside(result, f"{path.name}/{frame.number:06}", target, arguments)

    def known(number: int) -> bool:
        return not arguments.overwrite and _is_done(path, settings, _of_frame(folder, number, arguments, heads))

    def progress(frames: int, expected: int | None) -> None:
        if bar is not None:
            bar.total = expected
            bar.update()

    with bar or nullcontext():
        film = predict_video(
            segmenter,
            path,
            masks=None if arguments.no_masks else folder,
            overlay=overlay,
            table=table,
            every=arguments.every,
            also=also if arguments.probabilities or arguments.polygons else None,
            known=None if arguments.no_masks else known,
            progress=progress,
            **options,
        )
    films = film if isinstance(film, dict) else {"": film}
    where = table if arguments.no_masks else folder
    return f"{overlay or where}  ({next(iter(films.values())).frames} frames; {_shares(films)})"


def _shares(results: Mapping[str, Any]) -> str:
    """Say which three classes are the largest, for each head."""
    return "; ".join(
        (f"{head}: " if head else "")
        + ", ".join(f"{name} {share:.0%}" for name, share in list(result.shares().items())[:3])
        for head, result in results.items()
    )


def _refuse_own(
    arguments: argparse.Namespace,
    images: list[tuple[Path, Path]],
    films: list[tuple[Path, Path]],
    heads: Sequence[str],
) -> None:
    """Refuse to write what the heads of a model give over what was to be segmented."""
    given = {path.resolve() for path, _ in [*images, *films]}
    targets = [each for _, target in images for each in _beside(target, arguments, heads)]
    targets += [each for _, folder in films for each in _of_film(folder, arguments, heads)]
    for target in targets:
        if target.resolve() in given:
            raise ValueError(
                f"--out {arguments.out}: {target} would be overwritten by a mask of another image; choose another "
                "folder"
            )


def _read_image(segmenter: Any, path: Path, arguments: argparse.Namespace) -> Any:
    """Decode an image; None for one that is to be read window by window."""
    if Path(arguments.model).suffix.lower() == ".onnx":
        return path  # the runtime reads it, without torch
    from fullyconv.images import MAX_PIXELS
    from fullyconv.inference.predict import most_pixels, read_pixels
    from fullyconv.inference.windows import open_windows

    channels = segmenter.preprocessing.in_channels
    windows = open_windows(path, channels)
    if windows is not None:
        with windows:
            whole = arguments.overlay or arguments.polygons or arguments.heatmap
            if windows.size[0] * windows.size[1] > (MAX_PIXELS if whole else LARGE):
                return None
    return read_pixels(path, channels, most_pixels(arguments.memory, channels))


def _write_result(
    result: Segmentation | Mapping[str, Segmentation],
    heatmaps: Mapping[str, Heatmap],
    path: Path,
    target: Path,
    arguments: argparse.Namespace,
) -> str:
    from fullyconv.images import write_image
    from fullyconv.inference.segmentation import of_head

    results = result if isinstance(result, Mapping) else {"": result}
    target.parent.mkdir(parents=True, exist_ok=True)
    for head, one in results.items():
        place = of_head(target, head)
        if arguments.overlay:
            write_image(place.with_suffix(".overlay.png"), one.overlay())
        _write_beside(one, path.name, place, arguments)
        for word, heatmap in heatmaps.items():
            heatmap.save(_heatmap(place, word))
        one.save(place)
    return "; ".join([_shares(results), *(f"{one.label} {one.most}" for one in heatmaps.values())])


def _write_beside(result: Segmentation, name: str, target: Path, arguments: argparse.Namespace) -> None:
    """Write the probabilities and polygons of an image or frame that are asked for."""
    from fullyconv.polygons import coco, geojson, write_json

    target.parent.mkdir(parents=True, exist_ok=True)
    if arguments.probabilities:
        result.save_probabilities(target.with_suffix(".npz"))
    if arguments.polygons:
        by_geojson = arguments.polygons == "geojson"
        content = geojson(result.mask, result.labels) if by_geojson else coco(result.mask, result.labels, name)
        write_json(_polygons(target, arguments.polygons), content)


def _predict_large(
    segmenter: Any,
    path: Path,
    target: Path,
    arguments: argparse.Namespace,
    options: dict[str, Any],
) -> str:
    """Segment an image that is read in windows and written in bands."""
    beside = (arguments.probabilities, target.with_suffix(".npz")) if arguments.probabilities else None
    from fullyconv.images import write_image
    from fullyconv.inference.segmentation import of_head

    for option, what in (("polygons", "polygons"), ("heatmap", "heat maps")):
        if getattr(arguments, option):
            raise DatasetError(
                f"{path}: too large for {what}, which need all of it in memory; predict it without --{option}"
            )
    done = segmenter.predict_to(path, target, preview=arguments.overlay, **(options | {"probabilities": beside}))
    results = done if isinstance(done, dict) else {"": done}
    for head, one in results.items():
        if one.preview is not None:
            write_image(of_head(target, head).with_suffix(".overlay.png"), one.preview.overlay())
            shown = " x ".join(str(n) for n in one.preview.mask.shape[::-1])
            print(f"fullyconv: {path}: its overlay is thinned to {shown} pixels", file=sys.stderr)
    return _shares(results)
