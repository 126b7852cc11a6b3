"""The cache of decoded pictures: one memory-mapped array of bytes per source and decoding, shared by all processes.

An entry is a folder with `pixels.bin`, `index.json`, and `checksums` of the index and of blocks of the pixels. It is
built under another name and then renamed, so it is always complete. It is built again when a name, size, time or
permission of the source's files has changed, and when the index, the size of the pixels or a sample of their blocks is
not what was written.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from jaxtyping import UInt8
from numpy.typing import NDArray
from platformdirs import user_cache_path

from quickstudy.errors import InputError, RunError
from quickstudy.storage.files import (
    as_path,
    dumps,
    explain_disk_errors,
    open_file,
    read_file,
    remove,
    sync_folder,
    write_atomic,
)
from quickstudy.tasks.images.decode import Decoding, RangedPictures, UnreadablePictureError, decode
from quickstudy.tasks.images.listing import Listing

CACHE_FORMAT = 2
BLOCK_BYTES = 1 << 18
"""Bytes of pixels that share one checksum."""
SAMPLED_BLOCKS = 16
"""How many of these are compared when an entry is opened; `quickstudy data check` compares all."""
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".json")
"""Suffixes of files that list pictures beside them."""
IDX_MARK = "ubyte"
"""Part of the names of idx files, whose labels are in another file beside them."""

CACHE_ADVICE = "Free some space, or name another folder with QUICKSTUDY_CACHE."
Progress = Callable[[int, int], None]
"""Called as `progress(done, total)`: with pictures while they are decoded, with bytes while they are downloaded."""


@dataclass(frozen=True)
class StoredPictures:
    """Decoded pictures.

    Args:
        pixels: `[N, channels, side, side]`, memory-mapped and read-only.
        labels: `[N]`, indices into `classes`.
        classes: Names of the classes.
        names: The name of each picture in messages.
        splits: The indices of each split, if the layout of the source divides the pictures.
        layout: The recognised layout, in words.
        skipped: What the reader left out or what could not be decoded, as (name, reason).
        changed: How many pictures were changed beyond resizing, by the kind of change.
        digest: 12 hexadecimal digits of the SHA-256 of pixels and labels.
    """

    pixels: UInt8[np.ndarray, "n channels side side"]
    labels: NDArray[np.int64]
    classes: Sequence[str]
    names: Sequence[str]
    splits: dict[str, NDArray[np.int64]]
    layout: str
    skipped: Sequence[tuple[str, str]]
    changed: dict[str, int]
    digest: str


def cache_root() -> Path:
    """`QUICKSTUDY_CACHE`, or else the user's cache folder of this operating system."""
    given = os.environ.get("QUICKSTUDY_CACHE")
    return as_path(given) if given else user_cache_path("quickstudy", appauthor=False)


def locate_source(source: Path) -> Path:
    """Where a source is, without links in its folders. A file keeps its own name and folder: pictures are beside it."""
    return source.resolve() if source.is_dir() else source.parent.resolve() / source.name


def source_stamp(source: Path) -> str:
    """A hash of the names, sizes, times and permissions of a file, or of all files under a folder that are not hidden.

    For a table it covers the whole folder, which has the pictures. For an idx file it covers the idx files beside it,
    which have the labels.
    """
    digest = hashlib.sha256()
    try:
        if source.is_dir() or source.suffix.lower() in TABLE_SUFFIXES:
            found = sorted(_files(source if source.is_dir() else source.parent, "", _own_folders()))
        elif IDX_MARK in source.name.lower():
            marked = [path for path in source.parent.iterdir() if IDX_MARK in path.name.lower()]
            found = sorted((path.name, path.stat()) for path in marked if path.is_file())
        else:
            found = [(source.name, source.stat())]
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}): check its permissions.") from error
    for name, about in found:
        line = f"{name}\0{about.st_size}\0{about.st_mtime_ns}\0{about.st_mode}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def _own_folders() -> set[tuple[int, int]]:
    """The cache's own folder, which is no part of a source although it may be in its folder."""
    root = cache_root()
    return {_identity(root.stat())} if os.path.isdir(root) else set()


def _identity(about: os.stat_result) -> tuple[int, int]:
    """What a folder and every link to it have in common."""
    return about.st_dev, about.st_ino


def _files(folder: Path, prefix: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, os.stat_result]]:
    """All files under a folder, in each folder once however many links lead to it. Hidden ones are left out.

    A folder below that cannot be read stands for what is in it: no reader reads it either.
    """
    own = folder.stat()
    if _identity(own) in seen:
        return
    seen.add(_identity(own))
    with os.scandir(folder) as entries:
        listed = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in listed:
        name = f"{prefix}{entry.name}"
        if os.path.isdir(entry.path):
            if os.access(entry.path, os.R_OK | os.X_OK):
                yield from _files(Path(entry.path), f"{name}/", seen)
            else:
                yield name, entry.stat()
        elif os.path.isfile(entry.path):
            yield name, entry.stat()


def load_pictures(
    source: Path, read: Callable[[Path], Listing], how: Decoding, progress: Progress | None = None
) -> StoredPictures:
    """The pictures of a source under a decoding: from the cache, or decoded now.

    Args:
        source: The folder or file.
        read: Lists its pictures. It is not called if the cache has a valid entry.
        how: The decoding.
        progress: Called after each decoded picture.
    """
    source = locate_source(source)
    named = dumps({"source": str(source), **how.key_fields()})
    key = hashlib.sha256(named.encode("utf-8", "surrogateescape")).hexdigest()[:24]
    root = cache_root()
    entry = root / key
    found = _open_entry(entry, _mark(source))
    if found is not None:
        return found
    with _lock_entry(root, key):
        mark = _mark(source)  # again, because the files may have changed while this process waited for the lock
        found = _open_entry(entry, mark)  # again, because another process may have built the entry meanwhile
        if found is None:
            listing = read(source)
            with explain_disk_errors(root, CACHE_ADVICE):
                _build(entry, mark, listing, how, progress, lambda: _check_unchanged(source, mark))
            found = _open_entry(entry, mark)
    if found is None:
        raise RunError(f"The cache entry {entry} was changed while it was being read. Try again.")
    return found


def _mark(source: Path) -> dict[str, Any]:
    return {"format": CACHE_FORMAT, "stamp": source_stamp(source)}


def _check_unchanged(source: Path, mark: dict[str, Any]) -> None:
    """Refuse to keep pixels of files that have changed since they were listed."""
    if _mark(source) != mark:
        raise RunError(
            f"{source} was changed while its pictures were being decoded, so none of them were kept. Try again when "
            "all files are complete."
        )


@contextmanager
def _lock_entry(root: Path, key: str) -> Iterator[None]:
    lock = FileLock(root / f"{key}.lock")
    with explain_disk_errors(root, CACHE_ADVICE):
        root.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _open_entry(entry: Path, mark: dict[str, Any]) -> StoredPictures | None:
    """The entry, or None if there is no valid one: missing, damaged, of another source or format, or just replaced."""
    from quickstudy.tasks.images.store_index import StoreIndex  # it imports pydantic, which a method does without

    try:
        text = read_file(entry / "index.json")
        index = StoreIndex.model_validate_json(text)
        first, *sums = read_file(entry / "checksums").decode("ascii").split()
        with open_file(entry / "pixels.bin") as opened:
            size = os.fstat(opened.fileno()).st_size
        if (
            {name: getattr(index, name) for name in mark} != mark
            or (size, len(sums)) != (int(np.prod(index.shape)), -(-size // BLOCK_BYTES))
            or _checksum(text) != first
        ):
            return None
        sample = np.linspace(0, len(sums) - 1, min(len(sums), SAMPLED_BLOCKS)).astype(int).tolist()
        if _block_checksums(entry / "pixels.bin", sample) != [sums[block] for block in sample]:
            return None
        pixels = np.memmap(entry / "pixels.bin", np.uint8, "r", shape=index.shape)
        # This process holds no lock: another one may have replaced the entry since the index was read.
        if read_file(entry / "index.json") != text:
            return None
    except (OSError, ValueError):  # pydantic's errors and those of texts that are none are ValueErrors
        return None
    return StoredPictures(
        pixels,
        np.array(index.labels, dtype=np.int64),
        index.classes,
        index.names,
        {name: np.array(numbers, dtype=np.int64) for name, numbers in index.splits.items()},
        index.layout,
        index.skipped,
        index.changed,
        index.digest,
    )


def _checksum(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _block_checksums(file: Path, blocks: Iterable[int]) -> list[str]:
    with open_file(file) as opened:
        return [_checksum(opened.read(BLOCK_BYTES)) for block in blocks if opened.seek(block * BLOCK_BYTES) >= 0]


def discard_if_damaged(found: StoredPictures) -> bool:
    """Compare every byte of cached pictures with their digest. If they differ, remove the entry and return True."""
    digest = hashlib.sha256(found.pixels.data)
    digest.update(found.labels.tobytes())
    if digest.hexdigest()[:12] == found.digest:
        return False
    assert isinstance(found.pixels, np.memmap)
    _try_to_remove(Path(str(found.pixels.filename)).parent)
    return True


def _build(
    entry: Path,
    mark: dict[str, Any],
    listing: Listing,
    how: Decoding,
    progress: Progress | None,
    check: Callable[[], None],
) -> None:
    """Decode the pictures into an entry. `check` runs last; if it raises, nothing is kept."""
    with _build_beside(entry) as place:
        digest = hashlib.sha256()
        kept, unreadable, changed = list[int](), dict[int, str](), dict[str, int]()
        pictures = RangedPictures(listing.pictures)
        with (place / "pixels.bin").open("wb") as file:
            for number in range(len(listing.pictures)):
                try:
                    pixels, done = decode(pictures, number, how)
                except UnreadablePictureError as error:
                    unreadable[number] = str(error)
                    continue
                data = pixels.tobytes()
                file.write(data)
                digest.update(data)
                kept.append(number)
                for what in done:
                    changed[what] = changed.get(what, 0) + 1
                if progress is not None:
                    progress(number + 1, len(listing.pictures))
            file.flush()
            os.fsync(file.fileno())
        check_any_readable(listing, kept, unreadable)
        found = listing.keep(kept, unreadable)
        digest.update(found.labels.tobytes())
        index = mark | {
            "shape": [len(kept), how.channels, how.side, how.side],
            "labels": found.labels,
            "classes": found.classes,
            "names": found.names,
            "splits": found.splits,
            "layout": found.layout,
            "skipped": found.skipped,
            "changed": changed,
            "digest": digest.hexdigest()[:12],
        }
        text = dumps(index).encode()
        write_atomic(place / "index.json", text)
        blocks = range(-(-(place / "pixels.bin").stat().st_size // BLOCK_BYTES))
        sums = [_checksum(text), *_block_checksums(place / "pixels.bin", blocks)]
        write_atomic(place / "checksums", "\n".join(sums).encode())
        check()


def check_any_readable(listing: Listing, kept: Sequence[int], unreadable: Mapping[int, str]) -> None:
    """Refuse a source of which no picture could be read."""
    if not kept:
        left = [*listing.skipped, *((listing.names[number], reason) for number, reason in unreadable.items())]
        first = f", first {left[0][0]}: {left[0][1]}" if left else ""
        raise InputError(f"No picture could be read ({len(left)} were tried{first}). Is this the right folder?")


@contextmanager
def _build_beside(entry: Path) -> Iterator[Path]:
    """A temporary folder to build an entry in. It replaces the entry if all goes well, and is deleted if not."""
    place = entry.with_name(f".{entry.name}.{os.getpid()}.tmp")
    for old in entry.parent.glob(f".{entry.name}.*"):  # left by killed processes: this one holds the lock
        _try_to_remove(old)
    place.mkdir()
    try:
        yield place
        remove(entry)  # out of date; a process that still maps it keeps its bytes
        place.rename(entry)
        sync_folder(entry.parent)
    finally:
        _try_to_remove(place)


def _try_to_remove(path: Path) -> None:
    """Remove a folder or a file of the cache. What is in use may stay: the next process that builds tries again."""
    with suppress(OSError):
        remove(path)
