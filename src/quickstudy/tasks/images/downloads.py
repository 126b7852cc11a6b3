"""Where image sets can be had, and their download: by hash, whole or not there.

Files come into a hidden folder beside the set's own, and this folder is renamed when all of them are there and every
hash is right. What is complete when a download stops is kept for the next; a file that is not begins anew.
"""

import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import ZipFile

from filelock import FileLock, Timeout

from quickstudy.errors import InputError, RunError
from quickstudy.storage.files import explain_disk_errors, sync_folder

Progress = Callable[[int, int], None]
"""Told how many bytes of how many have come."""

CHUNK = 1 << 16
ROOM = "Free some space, or name another folder with --data-root; files that are complete are kept."


@dataclass(frozen=True)
class Remote:
    """One file.

    Args:
        url: Its address.
        hash: As published, with the algorithm: "md5:...".
        size: In bytes.
        unpack: Which members of an archive are taken out, as a pattern; None for a file that stays as it is.
    """

    url: str
    hash: str
    size: int
    unpack: str | None = None

    @property
    def name(self) -> str:
        """What it is called on disk."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Source:
    """An image set that can be downloaded.

    Args:
        folder: Its place under the data root.
        files: All of its files.
        licence: On what terms, in words.
        page: Where the authors present it.
    """

    folder: str
    files: Sequence[Remote]
    licence: str
    page: str

    @property
    def size(self) -> int:
        """What is downloaded, in bytes."""
        return sum(file.size for file in self.files)


def fetch(source: Source, root: Path, progress: Progress | None = None) -> Path:
    """The set's folder under `root`, after what is missing of it has come.

    Args:
        source: What is wanted.
        root: The data root; made if need be.
        progress: Told how far each file is.

    Raises:
        InputError: pooch, which does the downloading, is not installed.
        RunError: A server cannot be reached, a file is not as published, or the disk is full.
    """
    place = root / source.folder
    if not empty(place):
        return place
    with explain_disk_errors(root, ROOM):
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root / f".{source.folder}.lock", place):
            if not empty(place):  # another process may have brought it meanwhile
                return place
            staged = root / f".{source.folder}.part"
            staged.mkdir(exist_ok=True)
            for entry in staged.iterdir():  # of a process that was killed
                if entry.is_dir():
                    shutil.rmtree(entry)
                elif entry.name not in {file.name for file in source.files}:
                    entry.unlink()
            for file in source.files:
                _download(file, staged, progress)
            for file in source.files:
                _unpack(file, staged)
            if place.exists():
                place.rmdir()
            staged.rename(place)
            sync_folder(root)
            for file in source.files:
                if file.unpack is not None:
                    (place / file.name).unlink()
    return place


def empty(place: Path) -> bool:
    """Whether there is nothing at a place yet."""
    return not place.exists() or (place.is_dir() and not any(place.iterdir()))


@contextmanager
def _alone(lock: Path, place: Path) -> Iterator[None]:
    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout as error:
        raise RunError(f"Another process is downloading into {place}. Wait for it.") from error


class _Count:
    """What pooch tells of its progress, handed on."""

    def __init__(self, told: Progress, total: int) -> None:
        self.told, self.total, self.done = told, total, 0

    def update(self, count: int) -> None:
        """So many bytes more."""
        self.done += count
        self.told(min(self.done, self.total), self.total)

    def reset(self) -> None:
        """From the beginning, as pooch does once before it reports the whole."""
        self.done = 0

    def close(self) -> None:
        """No more to come."""


def _download(file: Remote, folder: Path, progress: Progress | None) -> None:
    try:
        import pooch
        import requests
    except ImportError as error:
        raise InputError("Downloads need pooch, which is not installed: pip install quickstudy[data].") from error
    pooch.get_logger().setLevel("WARNING")
    bar: Any = _Count(progress, file.size) if progress else False
    # Packed once more for the way, files would be unpacked on arrival, and the .gz of some servers with them.
    get = pooch.HTTPDownloader(bar, CHUNK, headers={"Accept-Encoding": "identity"})
    try:
        pooch.retrieve(file.url, file.hash, file.name, folder, downloader=get)
    except requests.HTTPError as error:
        raise RunError(
            f"The server refused: {error}. The file may have moved: see whether a later quickstudy knows, or get it by "
            "hand. Files that are complete are kept."
        ) from error
    except requests.RequestException as error:
        raise RunError(
            f"{file.url} did not come ({_cause(error)}). See whether this machine reaches it, and try again: files "
            "that are complete are kept."
        ) from error
    except ValueError as error:  # pooch says a wrong hash so
        raise RunError(
            f"{file.url} is not the file that was published: its hash is not {file.hash}. Nothing of it was kept. Try "
            "again; if it happens again, the file was changed or something between alters it."
        ) from error


def _cause(error: BaseException) -> str:
    """What lies at the bottom of a chain of network errors."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _unpack(file: Remote, folder: Path) -> None:
    """Take the wanted members out of an archive: regular files only, and none that would leave the folder."""
    if file.unpack is None:
        return
    archive = folder / file.name
    if archive.suffix == ".zip":
        with ZipFile(archive) as zipped:
            for name in zipped.namelist():
                if not name.endswith("/") and fnmatch(name, file.unpack):
                    with zipped.open(name) as data:
                        _write(data, folder, name)
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() and fnmatch(member.name, file.unpack) else None
            if content is not None:
                _write(content, folder, member.name)


def _write(content: Any, folder: Path, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise RunError(
            f"An archive has a member {name!r}, which would be written outside of {folder}. Nothing more is unpacked."
        )
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        shutil.copyfileobj(content, file)


def _mnist(folder: str, base: str, md5s: Sequence[str], sizes: Sequence[int], licence: str, page: str) -> Source:
    names = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    files = [Remote(base + name, f"md5:{md5}", size) for name, md5, size in zip(names, md5s, sizes, strict=True)]
    return Source(folder, files, licence, page)


_LAKE = "https://github.com/brendenlake/omniglot/raw/master/python/"

_CIFAR_100 = Source(
    "cifar100",
    (
        Remote(
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            "md5:eb9058c3a382ffc7106e4002c42a8d85",
            169_001_437,
            "cifar-100-python/*",
        ),
    ),
    "no licence is stated; the authors ask that Krizhevsky (2009) is cited",
    "https://www.cs.toronto.edu/~kriz/cifar.html",
)

SOURCES: dict[str, Source] = {
    "omniglot": Source(
        "omniglot",
        (
            Remote(_LAKE + "images_background.zip", "md5:68d2efa1b9178cc56df9314c21c6e718", 9_464_212),
            Remote(_LAKE + "images_evaluation.zip", "md5:6b91aef0f799c5bb55b94e3f2daec811", 6_462_886),
        ),
        "MIT licence",
        "https://github.com/brendenlake/omniglot",
    ),
    "mnist": _mnist(
        "mnist",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        (9_912_422, 28_881, 1_648_877, 4_542),
        "Creative Commons Attribution-ShareAlike 3.0; by LeCun, Cortes and Burges",
        "http://yann.lecun.com/exdb/mnist/",
    ),
    "fashion_mnist": _mnist(
        "fashion_mnist",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        (26_421_880, 29_515, 4_422_102, 5_148),
        "MIT licence",
        "https://github.com/zalandoresearch/fashion-mnist",
    ),
    "kmnist": _mnist(
        "kmnist",
        "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        (
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
        ),
        (18_165_135, 29_497, 3_041_136, 5_120),
        "Creative Commons Attribution-ShareAlike 4.0; by CODH",
        "https://github.com/rois-codh/kmnist",
    ),
    "emnist": Source(
        "emnist",
        (
            Remote(
                "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",
                "md5:58c8d27c78d21e728a6bc7b3cc06412e",
                561_753_746,
                # One part of six: the reader would have to ask which is meant.
                "gzip/emnist-byclass-*-ubyte.gz",
            ),
        ),
        "no licence is stated; from NIST Special Database 19, of the United States government",
        "https://www.nist.gov/itl/products-and-services/emnist-dataset",
    ),
    "cub": Source(
        "cub",
        (
            Remote(
                "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                "md5:97eceeb196236b17998738112f37df78",
                1_150_585_339,
                "CUB_200_2011/images/*",
            ),
        ),
        "for non-commercial research and education; the photographs belong to those who took them",
        "https://www.vision.caltech.edu/datasets/cub_200_2011/",
    ),
    "cifar_fs": _CIFAR_100,
    "fc100": _CIFAR_100,  # the same pictures, divided otherwise
}
"""Sets with a stable public address, by name."""

BY_HAND: dict[str, tuple[str, str]] = {
    "mini_imagenet": (
        "https://github.com/twitter-research/meta-learning-lstm",
        "its photographs are ImageNet's, whose terms do not let others hand them on. Put train.csv, val.csv and "
        "test.csv (filename,label) beside images/, or mini-imagenet-cache-{train,val,test}.pkl, into mini_imagenet/ "
        "under the data root",
    ),
}
"""Sets without one, by name: the page that says how to get it, and why and in which layout."""
