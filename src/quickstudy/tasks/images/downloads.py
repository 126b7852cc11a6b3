"""Downloads of image sets: every file is checked by its hash, and a set is there completely or not at all.

Files are downloaded by pooch into a hidden folder beside the folder of the set. It is renamed when all files are there
with the right hash. Complete files are kept when a download stops; a file that was cut off is downloaded again.
"""

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import ZipFile

from filelock import FileLock, Timeout

from quickstudy.errors import InputError, RunError
from quickstudy.storage.files import explain_disk_errors, remove, sync_folder
from quickstudy.tasks.images.store import Progress

CHUNK_BYTES = 1 << 16
DOWNLOAD_ADVICE = "Free some space, or give another folder with --data-root; files that are complete are kept."


@dataclass(frozen=True)
class Remote:
    """One file to download.

    Args:
        url: Its address.
        hash: The published hash with its algorithm: "md5:...".
        size: In bytes.
        unpack: A pattern for the members of an archive that are unpacked; None for a file that is kept as it is.
    """

    url: str
    hash: str
    size: int
    unpack: str | None = None

    @property
    def name(self) -> str:
        """Its name on disk."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Source:
    """An image set that can be downloaded.

    Args:
        folder: Its folder under the data root.
        files: All of its files.
        licence: The terms of use, in words.
        page: The page of the authors.
    """

    folder: str
    files: Sequence[Remote]
    licence: str
    page: str

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(file.size for file in self.files)


def fetch(source: Source, root: Path, progress: Progress | None = None) -> Path:
    """Download what is missing of a set, and return its folder under `root`.

    Args:
        source: The set.
        root: The data root, which is made if it does not exist.
        progress: Called with the bytes of each file while it is downloaded.

    Raises:
        InputError: pooch is not installed.
        RunError: A server cannot be reached, a file is not the published one, or the disk is full.
    """
    place = root / source.folder
    if not is_empty(place):
        return place
    with explain_disk_errors(root, DOWNLOAD_ADVICE):
        root.mkdir(parents=True, exist_ok=True)
        with _lock_downloads(root / f".{source.folder}.lock", place):
            if not is_empty(place):  # another process may have downloaded the set meanwhile
                return place
            staged = root / f".{source.folder}.part"
            staged.mkdir(exist_ok=True)
            for entry in staged.iterdir():  # a killed process may have left folders and incomplete files
                if not entry.is_file() or entry.name not in {file.name for file in source.files}:
                    remove(entry)
            for file in source.files:
                _download_file(file, staged, progress)
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


def is_empty(place: Path) -> bool:
    """Whether there is nothing at a path, or an empty folder."""
    return not place.exists() or (place.is_dir() and not any(place.iterdir()))


@contextmanager
def _lock_downloads(lock: Path, place: Path) -> Iterator[None]:
    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout as error:
        raise RunError(f"Another process is downloading into {place}. Wait for it.") from error


class _ProgressBar:
    """The progress bar that pooch updates: it calls `progress`."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def update(self, count: int) -> None:
        """Add `count` bytes."""
        self.done += count
        self.progress(min(self.done, self.total), self.total)

    def reset(self) -> None:
        """Begin at 0 again. pooch calls this at the end, before it reports the whole file."""
        self.done = 0

    def close(self) -> None:
        """End. Nothing is left to do."""


def _download_file(file: Remote, folder: Path, progress: Progress | None) -> None:
    try:
        import pooch
        import requests
    except ImportError as error:
        raise InputError("Downloads need pooch, which is not installed: pip install 'quickstudy[data]'.") from error
    pooch.get_logger().setLevel("WARNING")
    bar: Any = _ProgressBar(progress, file.size) if progress else False
    # Without this header some servers compress .gz files once more, and requests would then unpack both layers.
    downloader = pooch.HTTPDownloader(bar, CHUNK_BYTES, headers={"Accept-Encoding": "identity"})
    try:
        pooch.retrieve(file.url, file.hash, file.name, folder, downloader=downloader)
    except requests.HTTPError as error:
        raise RunError(
            f"The server refused: {error}. The file may have moved: try a later version of quickstudy, or get the file "
            "by hand. Files that are complete are kept."
        ) from error
    except requests.RequestException as error:
        raise RunError(
            f"{file.url} could not be downloaded ({_describe_cause(error)}). Check that this machine can reach it, and "
            "try again: files that are complete are kept."
        ) from error
    except ValueError as error:  # pooch raises it for a wrong hash
        raise RunError(
            f"{file.url} is not the file that was published: its hash is not {file.hash}. Nothing of it was kept. Try "
            "again; if it happens again, the file was changed on the server or on the way."
        ) from error


def _describe_cause(error: BaseException) -> str:
    """The first error in a chain of network errors."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _unpack(file: Remote, folder: Path) -> None:
    """Unpack the wanted members of an archive: regular files only, and none outside of the folder."""
    if file.unpack is None:
        return
    archive = folder / file.name
    try:
        _extract(archive, file.unpack, folder)
    except Exception as error:  # which one depends on which byte is wrong
        if isinstance(error, RunError) or (isinstance(error, OSError) and error.errno is not None):  # the disk's own
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise RunError(f"{archive} cannot be unpacked ({reason}). Delete it, and download it again.") from error


def _extract(archive: Path, wanted: str, folder: Path) -> None:
    if archive.suffix == ".zip":
        with ZipFile(archive) as zipped:
            for name in zipped.namelist():
                if not name.endswith("/") and fnmatch(name, wanted):
                    _check_member(name, folder)
                    zipped.extract(name, folder)
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isreg() and fnmatch(member.name, wanted):
                _check_member(member.name, folder)
                tar.extract(member, folder, set_attrs=False, filter="data")


def _check_member(name: str, folder: Path) -> None:
    """Refuse a name that leads out of the folder. zipfile and tarfile would change some of these names silently."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise RunError(
            f"An archive has a member {name!r}, which would be written outside of {folder}. Nothing more is unpacked."
        )


def _read_registry() -> dict[str, tuple[str, str]]:
    """Hash and address by `folder/name`, from pooch's registry file. pooch is not needed to list the sets."""
    lines = (files("quickstudy.tasks.images") / "registry.txt").read_text(encoding="utf-8").splitlines()
    entries = [line.split() for line in lines if line and not line.startswith("#")]
    return {name: (digest, url) for name, digest, url in entries}


def _registered_source(
    folder: str, sizes: Mapping[str, int], licence: str, page: str, unpack: str | None = None
) -> Source:
    """A source whose files are in the registry, by their sizes in bytes."""
    listed = [(*_REGISTRY[f"{folder}/{name}"], size) for name, size in sizes.items()]
    return Source(folder, [Remote(url, digest, size, unpack) for digest, url, size in listed], licence, page)


_REGISTRY = _read_registry()

_CIFAR_100 = _registered_source(
    "cifar100",
    {"cifar-100-python.tar.gz": 169_001_437},
    "no licence is stated; the authors ask that Krizhevsky (2009) is cited",
    "https://www.cs.toronto.edu/~kriz/cifar.html",
    unpack="cifar-100-python/*",
)

SOURCES: dict[str, Source] = {
    "omniglot": _registered_source(
        "omniglot",
        {"images_background.zip": 9_464_212, "images_evaluation.zip": 6_462_886},
        "MIT licence",
        "https://github.com/brendenlake/omniglot",
    ),
    "mnist": _registered_source(
        "mnist",
        {
            "train-images-idx3-ubyte.gz": 9_912_422,
            "train-labels-idx1-ubyte.gz": 28_881,
            "t10k-images-idx3-ubyte.gz": 1_648_877,
            "t10k-labels-idx1-ubyte.gz": 4_542,
        },
        "Creative Commons Attribution-ShareAlike 3.0; by LeCun, Cortes and Burges",
        "http://yann.lecun.com/exdb/mnist/",
    ),
    "fashion_mnist": _registered_source(
        "fashion_mnist",
        {
            "train-images-idx3-ubyte.gz": 26_421_880,
            "train-labels-idx1-ubyte.gz": 29_515,
            "t10k-images-idx3-ubyte.gz": 4_422_102,
            "t10k-labels-idx1-ubyte.gz": 5_148,
        },
        "MIT licence",
        "https://github.com/zalandoresearch/fashion-mnist",
    ),
    "kmnist": _registered_source(
        "kmnist",
        {
            "train-images-idx3-ubyte.gz": 18_165_135,
            "train-labels-idx1-ubyte.gz": 29_497,
            "t10k-images-idx3-ubyte.gz": 3_041_136,
            "t10k-labels-idx1-ubyte.gz": 5_120,
        },
        "Creative Commons Attribution-ShareAlike 4.0; by CODH",
        "https://github.com/rois-codh/kmnist",
    ),
    "emnist": _registered_source(
        "emnist",
        {"gzip.zip": 561_753_746},
        "no licence is stated; from NIST Special Database 19, of the United States government",
        "https://www.nist.gov/itl/products-and-services/emnist-dataset",
        unpack="gzip/emnist-byclass-*-ubyte.gz",  # one part of six: with several, the reader would ask which is meant
    ),
    "cub": _registered_source(
        "cub",
        {"CUB_200_2011.tgz": 1_150_585_339},
        "for non-commercial research and education; the photographs belong to those who took them",
        "https://www.vision.caltech.edu/datasets/cub_200_2011/",
        unpack="CUB_200_2011/images/*",
    ),
    "cifar_fs": _CIFAR_100,
    "fc100": _CIFAR_100,  # the same pictures with another split
}
"""The sets that can be downloaded from a stable public address, by name."""

MANUAL_SOURCES: dict[str, tuple[str, str]] = {
    "mini_imagenet": (
        "https://github.com/twitter-research/meta-learning-lstm",
        "its photographs are ImageNet's, whose terms do not let others hand them on. Put train.csv, val.csv and "
        "test.csv (filename,label) beside images/, or mini-imagenet-cache-{train,val,test}.pkl, into mini_imagenet/ "
        "under the data root",
    ),
}
"""The sets that you get by hand, by name: the page that says how, and the reason with the layout that is needed."""
