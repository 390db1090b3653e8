"""Archives of public sets: checked, unpacked with nothing outside their folder, moved into place when whole."""

from __future__ import annotations

import hashlib
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from fullyconv.data.documents import safe_parts
from fullyconv.data.public.description import Archive
from fullyconv.download import download
from fullyconv.errors import DatasetError, DownloadError, WeightsError, tell
from fullyconv.files import aside

MAX_BYTES = 2**38
"""How much one archive may unpack to: 256 GiB, several times the largest of the sets."""

MAX_RATIO = 100
"""How many times its own size: images hardly shrink, and label maps by a factor of 10 or so."""

MAX_FILES = 2_000_000

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
"""What archives are called."""

_SLACK = 2**24  # bytes that are admitted whatever the ratio: tiny archives of flat masks
_BLOCK = 2**20


def extract(archive: Path, target: Path, *, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES) -> None:
    """Unpack an archive into a folder: plain files and folders, none of them outside it, and no more than bounds say.

    Times, owners and permissions are not taken over.

    Args:
        archive: a `.zip`, or a `.tar` as it is or packed by gzip, bzip2 or xz.
        target: the folder; it is made if there is none. What is in it stays.
        max_bytes: how much is unpacked at most.
        max_files: how many files are unpacked at most.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if the archive is damaged, or holds links, devices, names that lead out of the folder, the same
            file twice, or more than the bounds admit. What was unpacked so far remains: give a folder that can go.
    """
    if not archive.is_file():
        raise FileNotFoundError(f"{archive}: no such file")
    bound = min(max_bytes, MAX_RATIO * archive.stat().st_size + _SLACK)
    total = files = 0
    target.mkdir(parents=True, exist_ok=True)
    try:
        for name, size, stream in _members(archive):
            place = target.joinpath(*safe_parts(name, str(archive), "do not use this archive"))
            if stream is None:
                place.mkdir(parents=True, exist_ok=True)
                continue
            files, total = files + 1, total + max(size, 0)
            if files > max_files:
                raise DatasetError(f"{archive}: holds more than {max_files} files; nothing of it is used")
            if total > bound:  # neither library gives more of a member than its header says
                raise DatasetError(f"{archive}: unpacks to more than {bound} bytes; no published set does")
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.exists():
                raise DatasetError(f"{archive}: holds {name!r} twice, or it is there; unpack it by hand")
            with stream, place.open("xb") as file:
                shutil.copyfileobj(stream, file, _BLOCK)
    except DatasetError:
        raise
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise DatasetError(f"{archive}: holds a file where it also holds a folder ({error.filename})") from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
        raise DatasetError(f"{archive}: damaged, or not whole ({error}); fetch it again") from error
    if not files:
        raise DatasetError(f"{archive}: holds no files; fetch it again")


def _members(archive: Path) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    """Give name, size and content of every member; no content for folders."""
    if not archive.name.lower().endswith(ENDINGS):
        raise DatasetError(f"{archive}: no archive that is understood; accepted are {', '.join(ENDINGS)}")
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as packed:
            for entry in packed.infolist():
                kind = entry.external_attr >> 28  # the type of a file under Unix, where the archive was made there
                if kind not in (0, 0o4, 0o10):
                    raise DatasetError(f"{archive}: {entry.filename!r} is a link or a device, and not unpacked")
                if entry.flag_bits & 1:
                    raise DatasetError(f"{archive}: {entry.filename!r} is encrypted; unpack the archive by hand")
                yield entry.filename, entry.file_size, None if entry.is_dir() else packed.open(entry)
        return
    with tarfile.open(archive, "r:*") as tape:
        for member in tape:
            if not (member.isdir() or member.isreg()):
                raise DatasetError(f"{archive}: {member.name!r} is a link or a device, and not unpacked")
            yield member.name, member.size, tape.extractfile(member)  # no stream for folders


def check_md5(path: Path, md5: str) -> None:
    """See that a file is the published one. The digest proves it whole, not that nobody meant harm.

    Args:
        path: the file.
        md5: 32 hexadecimal digits.

    Raises:
        DatasetError: if it is another file.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise DatasetError(f"{path}: md5 {found}, published {md5}: not whole, or another release. Fetch it again")


def fetch_archive(archive: Archive, folder: Path) -> Path:
    """Fetch a published file, from the first of its addresses that gives the published bytes.

    A connection that breaks is taken up again where the server proves that the file is still the same. The digest is
    an md5, the only one that is published.

    Args:
        archive: the file.
        folder: where it goes.

    Returns:
        Its path.

    Raises:
        DownloadError: if no address gives it; the message has the reason of each.
    """
    problems = []
    for url in archive.urls if archive.md5 else ():
        with _beside(folder) as place:
            part = place / archive.file
            try:
                download(url, part)
                check_md5(part, archive.md5 or "")
            except (DownloadError, DatasetError, WeightsError) as error:
                problems.append(str(error).replace(str(part), url))
                continue
            part.replace(folder / archive.file)
            return folder / archive.file
    why = "; ".join(problems) or "it has to be fetched by hand"
    raise DownloadError(f"{archive.file}: no address gives it: {why}. Fetch it by hand and put it into {folder}")


def install(archives: Sequence[tuple[Archive, Path]], target: Path) -> None:
    """Unpack the archives of a set into its folder: all of them, or none.

    Args:
        archives: what each is, and where it lies.
        target: the set's folder; where it is there already, what is unpacked goes beside what is in it.

    Raises:
        DatasetError: if an archive is damaged or hostile, or would overwrite something.
    """
    for archive, path in archives:
        if archive.md5 is not None and path.name == archive.file:
            check_md5(path, archive.md5)
    with _beside(target.parent) as place:
        for archive, path in archives:
            tell(f"unpacking {path} into {target}")
            extract(path, place / archive.into)
        if not target.exists():
            try:
                place.rename(target)  # all of it in one step
                return
            except OSError:
                if not target.is_dir():
                    raise
        entries = sorted(place.iterdir())
        if there := [entry.name for entry in entries if (target / entry.name).exists()]:
            raise DatasetError(f"{target / there[0]}: is there already, and the set is not whole; move it away")
        for entry in entries:
            entry.rename(target / entry.name)


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """Make a folder that is gone afterwards, on the disk where its contents are to be moved to."""
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            place = stack.enter_context(aside(folder))
        except OSError as error:
            remedy = "unpack the set by hand elsewhere (FULLYCONV_DATA)"
            raise DatasetError(f"{folder}: cannot be written ({error}); {remedy}") from error
        place.chmod(0o755)
        yield place
