"""Image sets by name, and your own folders of pictures: where their files are, and which splits they have.

`FAMILIES["omniglot"](ways=20)` is a family of tasks. Nothing is downloaded here: the error for a missing set says in
which folders it was looked for and how to get it.
"""

import inspect
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_data_path

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.storage.files import as_path
from quickstudy.tasks.draws import as_integer
from quickstudy.tasks.images.family import COPIES, ImageEpisodes
from quickstudy.tasks.images.listing import Listing
from quickstudy.tasks.images.preparations import preparation_named
from quickstudy.tasks.images.published import published_names as published_names
from quickstudy.tasks.images.published import published_split
from quickstudy.tasks.images.readers import recognise
from quickstudy.tasks.images.readers.gather import nfc
from quickstudy.tasks.images.store import Progress, StoredPictures, load_pictures
from quickstudy.tasks.splits import Indices, split_by_class, split_by_image, split_by_list
from quickstudy.types import Integer

SPLIT_FRACTIONS = (0.6, 0.2, 0.2)
FOLDER_DECODING = preparation_named("none").decoding(84, 3, None, "crop")
"""How your own pictures are stored by default."""
GENERAL_SPLITS = ("layout", "class", "image")
"""Splits that any set has: as its files are laid out, random by class, random by image."""


class LeftOutWarning(UserWarning):
    """Some pictures could not be used."""


def data_root() -> Path:
    """`QUICKSTUDY_DATA`, or else the user's data folder of this operating system."""
    given = os.environ.get("QUICKSTUDY_DATA")
    return as_path(given) if given else user_data_path("quickstudy", appauthor=False)


@dataclass(frozen=True)
class ImageSet:
    """An image set that has a name. A call gives its tasks.

    Args:
        name: The name of the set.
        folders: Names of its folder under the data root, in the order in which they are tried.
        classes: The number of classes of the published set.
        images: The number of images of the published set.
        about: What the pictures show.
        size: The size that the papers use.
        channels: The channels of its files.
        ink: "dark" or "light" for drawings, None for photographs.
        recipe: The default preprocessing.
        split: The default split.
        inks: The ink of those folders that differ, by name.
        stand_ins: The folders that hold other pictures, which are used if the set itself is missing.
    """

    name: str
    folders: Sequence[str]
    classes: int
    images: int
    about: str
    size: Integer = 28
    channels: Integer = 1
    ink: str | None = "light"
    recipe: str = "finn"
    split: str = "image"
    inks: Mapping[str, str] = field(default_factory=dict)
    stand_ins: Sequence[str] = ()
    __signature__: inspect.Signature = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        own = {"split": self.split, "size": self.size, "recipe": self.recipe}
        plain = inspect.signature(type(self).__call__)
        listed = [p for p in plain.parameters.values() if p.name != "self"]
        signature = plain.replace(parameters=[p.replace(default=own.get(p.name, p.default)) for p in listed])
        object.__setattr__(self, "__signature__", signature)

    def __call__(
        self,
        *,
        split: str = "",
        ways: Integer = 5,
        shots: Integer = 1,
        queries: Integer = 15,
        size: Integer = 0,
        recipe: str = "",
        rotations: str = "none",
        within: str = "split",
        only: Sequence[str] = (),
        seed: Integer = 0,
        path: str | None = None,
        progress: Progress | None = None,
    ) -> ImageEpisodes:
        """Tasks over this set.

        Args:
            split: The name of a published split, or "layout", "class" or "image".
            ways: Classes in a task.
            shots: Support images per class.
            queries: Query images per class.
            size: Height and width.
            recipe: The name of the preprocessing.
            rotations: "none", "classes", "mirrored" or "augment".
            within: "split", "alphabet" (the classes of a task are of one alphabet) or "mixed".
            only: Names of the classes to use; all by default.
            seed: The seed of the splits "class" and "image".
            path: The folder of the files; by default a folder under the data root.
            progress: Called while pictures are decoded, which is done once.
        """
        place = as_path(path).absolute() if path else self.require_folder()
        found = self.read(place, size or self.size, recipe or self.recipe, progress)
        splits, rule, missing = divide(found, split or self.split, self.name, seed, class_names(only))
        return ImageEpisodes(
            found.pixels,
            found.labels,
            splits,
            ways,
            shots,
            queries,
            self.title(place, found),
            rule,
            names=found.classes,
            recipe=preparation_named(recipe or self.recipe),
            size=size or self.size,
            drawing=self.ink is not None,
            rotations=rotations,
            within=within,
            notes=(*describe_decoding(found, place), *missing),
            digest=found.digest,
        )

    def require_folder(self) -> Path:
        """The folder of the set or of its stand-in; an error if there is none."""
        found = self.find_folder()
        if found is not None:
            return found
        raise InputError(
            f"{self.name!r} is not under the data root {data_root()} (looked for {', '.join(self.folders)}). "
            f"Get it with `quickstudy data prepare {self.name}`, give another root with --data-root or "
            "QUICKSTUDY_DATA, or give the folder of the set with --tasks.path."
        )

    def find_folder(self) -> Path | None:
        """The folder of the set or of its stand-in, or None. The files in it are not read."""
        root = data_root()
        return next((root / folder for folder in self.folders if (root / folder).exists()), None)

    def stand_in_name(self) -> str:
        """The name of the folder that stands in for the set; empty if the set itself is there, or nothing."""
        place = self.find_folder()
        return place.name if place is not None and place.name in self.stand_ins else ""

    def read(self, place: Path, size: Integer, recipe: str, progress: Progress | None = None) -> StoredPictures:
        """The pictures of the set, decoded for a size and a recipe."""
        if not place.exists():
            raise InputError(f"There is no {place}, which was given as the folder of {self.name!r}.")
        how = preparation_named(recipe).decoding(size, self.channels, self.inks.get(place.name, self.ink))
        return load_pictures(place, recognise, how, progress)

    def title(self, place: Path, found: StoredPictures) -> str:
        """The name that is printed with every result. It says if the pictures differ from the published set."""
        if (len(found.classes), len(found.labels)) == (self.classes, self.images):
            return self.name
        if place.name.lower() == self.name:
            return (
                f"{self.name} with {len(found.classes)} classes and {len(found.labels)} images "
                f"instead of {self.classes} and {self.images}"
            )
        return f"{place.name} in place of {self.name}"


Found = StoredPictures | Listing
"""Pictures whose labels, classes and splits are known."""


def class_names(only: Sequence[str]) -> tuple[str, ...]:
    """The names of `only`, each once and in the form in which the names of classes are kept."""
    if isinstance(only, str):
        raise InputError(f"`only` is a list of the names of classes, such as [{only!r}, ...]; given is one text.")
    return tuple(dict.fromkeys(map(nfc, only)))


def divide(found: Found, split: str, of: str, seed: Integer, only: tuple[str, ...]) -> tuple[Indices, str, list[str]]:
    """Divide pictures into splits. Return their indices, the rule in words, and notes on a split that does not fit."""
    keep, labels = select_classes(found, only), found.labels
    inside: Mapping[str, Any]
    among = f", of {len(only)} classes" if only else ""
    cut = f"train/val/test {'/'.join(map(str, SPLIT_FRACTIONS))}, seed {seed}{among}"
    if split == "image":
        chosen = {name: keep[images] for name, images in split_by_image(labels[keep], SPLIT_FRACTIONS, seed).items()}
        return chosen, f"by image (classes shared), {cut}", []
    if split == "class":
        chosen = {name: keep[images] for name, images in split_by_class(labels[keep], SPLIT_FRACTIONS, seed).items()}
        return chosen, f"by class (classes disjoint), {cut}", []
    if split == "layout":
        if not found.splits:
            raise InputError(
                f"The files of {of!r} ({found.layout}) are not divided into train, val and test. "
                f"Use split 'class' or 'image', or sort the files into folders train, val and test."
            )
        inside = {name: images[np.isin(images, keep)] for name, images in found.splits.items()}
        return {name: images for name, images in inside.items() if len(images)}, f"as laid out{among}", []
    try:
        known = published_names(of)
    except InputError:
        known = []
    if split not in known:
        raise InputError(f"{of!r} has no split {split!r}. {suggest_nearest(split, [*known, *GENERAL_SPLITS])}")
    division = published_split(of, split).divide(found.classes, partial=True)
    present = set(labels[keep].tolist())
    inside = {name: [c for c in members if c in present] for name, members in division.splits.items()}
    notes = [str(division)] if division.missing or division.unlisted else []
    return split_by_list(labels, inside), f"by class (classes disjoint), {split}{among}", notes


def select_classes(found: Found, only: tuple[str, ...]) -> NDArray[np.int64]:
    """The indices of the pictures of the given classes; of all, if none is given."""
    if not only:
        return np.arange(len(found.labels))
    for name in only:
        if name not in found.classes:
            raise InputError(f"`only` names class {name!r}. {suggest_nearest(name, found.classes)}")
    return np.flatnonzero(np.isin(found.labels, [found.classes.index(name) for name in only]))


def describe_decoding(found: StoredPictures, place: Path) -> list[str]:
    """Notes on the layout, on changed pictures and on those left out. The last are also a warning."""
    changed = [f"{count} pictures: {what}" for what, count in sorted(found.changed.items())]
    return [f"layout: {found.layout}", *changed, *describe_left_out(found, place)]


def describe_left_out(found: Found, place: Path) -> list[str]:
    """A note on the pictures that were left out, which is also a warning; nothing if there are none."""
    if not found.skipped:
        return []
    shown = "; ".join(f"{name} ({why})" for name, why in found.skipped[:3])
    rest = f"; and {len(found.skipped) - 3} more" if len(found.skipped) > 3 else ""
    note = f"{len(found.skipped)} left out: {shown}{rest}"
    warnings.warn(f"{note}. `quickstudy data check {place} --all` lists them.", LeftOutWarning, stacklevel=3)
    return [note]


def image_folder(
    path: str,
    split: str = "auto",
    ways: Integer | None = None,
    shots: Integer = 1,
    queries: Integer | None = None,
    size: Integer = FOLDER_DECODING.side,
    channels: Integer = FOLDER_DECODING.channels,
    ink: str | None = None,
    recipe: str = "none",
    rotations: str = "none",
    only: Sequence[str] = (),
    seed: Integer = 0,
    fit: str = FOLDER_DECODING.fit,
    progress: Progress | None = None,
) -> ImageEpisodes:
    """Your own pictures: `path/<class>/*`, `path/{train,val,test}/<class>/*`, a csv, an archive or arrays.

    Args:
        path: The folder or file.
        split: "layout" (as the folders or the csv say), "class" (disjoint classes, random), "image" (shared classes,
            random), or "auto": the layout if it divides the pictures, else by class if every split gets enough classes,
            else by image. A layout with one split, such as `train` alone, does not divide them.
        ways: Classes in a task; by default 5, or fewer if a split has fewer.
        shots: Support images per class.
        queries: Query images per class; by default 15, or fewer if a class has too few pictures.
        size: Height and width.
        channels: 3 for colour, 1 for grey.
        ink: "dark" or "light" if the pictures are drawings, which are not augmented.
        recipe: The name of the preprocessing.
        rotations: "none", "classes", "mirrored" or "augment".
        only: Names of the classes to use; all by default.
        seed: The seed of the splits "class" and "image".
        fit: "crop" takes the square in the middle of a picture; "stretch" changes its shape and cuts nothing off.
        progress: Called while pictures are decoded, which is done once.
    """
    place = require_place(path)
    if ink not in (None, "dark", "light"):
        raise InputError(f"ink={ink!r} cannot be used: give 'dark' or 'light' for drawings, nothing for photographs.")
    how = preparation_named(recipe)
    found = load_pictures(place, recognise, how.decoding(size, channels, ink, fit), progress)
    only = class_names(only)
    split, undivided = choose_split(found, split, only, ways)
    splits, rule, missing = divide(found, split, place.name, seed, only)
    copies = COPIES.get(rotations, 1)
    ways, queries = fit_task_size(found, splits, split, ways, shots, queries, copies)
    return ImageEpisodes(
        found.pixels,
        found.labels,
        splits,
        ways,
        shots,
        queries,
        place.resolve().name,
        rule,
        names=found.classes,
        recipe=how,
        size=size,
        drawing=ink is not None,
        rotations=rotations,
        fit=fit,
        notes=(*describe_decoding(found, place), *undivided, *missing),
        digest=found.digest,
    )


def require_place(path: str) -> Path:
    """The folder or file of your own pictures; an error if there is none."""
    place = as_path(path)
    if not os.path.exists(place):
        raise InputError(
            f"There is no folder or file {path!r}. Give a folder that has one folder of pictures per class: "
            "--tasks.path DIRECTORY."
        )
    return place


def default_split(found: Found, classes: int, ways: Integer = 5) -> str:
    """The default split of your own pictures, given how many of their classes are used."""
    return "layout" if len(found.splits) > 1 else "class" if classes >= 5 * ways else "image"


def choose_split(found: Found, split: str, only: Sequence[str], ways: Integer | None) -> tuple[str, list[str]]:
    """The split that "auto" means, and a note where the layout has one split only; any other split as it is given."""
    if split != "auto":
        return split, []
    chosen = default_split(found, len(set(only) or found.classes), ways or 5)
    alone = [f"all pictures are in the split {name!r}; they are divided by {chosen}" for name in found.splits]
    return chosen, alone if len(alone) == 1 else []


def fit_task_size(
    found: Found,
    splits: Mapping[str, NDArray[Any]],
    split: str,
    ways: Integer | None,
    shots: Integer,
    queries: Integer | None,
    copies: int = 1,
) -> tuple[Integer, Integer]:
    """Ways and queries: as given, or at most 5 and 15, and as many as every split allows.

    Of each class there are several `copies` where it is turned or mirrored, and each is a class of its own.
    """
    if ways is not None and queries is not None:
        return ways, queries
    most_ways, most_queries = _largest_task(found, splits, split, as_integer("shots", shots, 1), copies)
    return min(5, most_ways) if ways is None else ways, min(15, most_queries) if queries is None else queries


def find_small_classes(found: Found, splits: Mapping[str, NDArray[Any]], least: int) -> dict[int, tuple[str, int]]:
    """Classes that have pictures in a split, but fewer than `least`: the split, and how many, by class number."""
    few: dict[int, tuple[str, int]] = {}
    for name, images in splits.items():
        for label, count in zip(*np.unique(found.labels[images], return_counts=True), strict=True):
            if count < least:
                few.setdefault(int(label), (name, int(count)))
    return few


def _largest_task(
    found: Found, splits: Mapping[str, NDArray[Any]], split: str, shots: int, copies: int
) -> tuple[int, int]:
    """The largest ways and queries for which every split has enough classes and pictures."""
    counts = {name: np.unique(found.labels[images], return_counts=True) for name, images in splits.items()}
    narrow = min(counts, key=lambda name: len(counts[name][0]))
    scarce = min(counts, key=lambda name: int(counts[name][1].min()))
    classes, (labels, images) = counts[narrow][0], counts[scarce]
    if copies * len(classes) < 2:
        raise InputError(
            f"Split {split!r} leaves {narrow!r} one class, {found.classes[classes[0]]!r}: a task needs 2 or more. "
            "Add classes, or use another split."
        )
    least = int(images.min())
    if least <= shots:
        label = labels[images.argmin()]
        small = {int(c) for own, counted in counts.values() for c in own[counted <= shots]}
        others = [name for c, name in enumerate(found.classes) if c not in small]
        advice = (
            f"leave out the small classes: --tasks.only '[{', '.join(others)}]'"
            if len(others) > 1
            else "lower shots"
            if shots > 1
            else "divide the pictures in another way: --tasks.split"
        )
        raise InputError(
            f"Class {found.classes[label]!r} has {int((found.labels == label).sum())} pictures, {least} of them in "
            f"{scarce!r} (split {split!r}); {shots}-shot needs {shots + 1} there, one of them as a query. Add pictures "
            f"of it, or {advice}."
        )
    return copies * len(classes), least - shots


IMAGE_SETS = {
    one.name: one
    for one in (
        ImageSet("omniglot", ("omniglot",), 1623, 32460, "characters of 50 alphabets", ink="dark", split="finn"),
        ImageSet("mnist", ("mnist", "MNIST"), 10, 70000, "handwritten digits"),
        ImageSet("fashion_mnist", ("fashion_mnist", "FashionMNIST"), 10, 70000, "clothes, laid out as MNIST"),
        ImageSet("kmnist", ("kmnist", "KMNIST"), 10, 70000, "cursive Japanese characters"),
        ImageSet(
            "emnist", ("emnist", "EMNIST", "chars74k_hnd"), 62, 814255, "digits and letters", split="even_odd",
            inks={"chars74k_hnd": "dark"}, stand_ins=("chars74k_hnd",),
        ),
        ImageSet(
            "cub", ("cub", "CUB_200_2011", "CUB", "cub_200_2010_84px"), 200, 11788, "birds (2011)",
            size=84, channels=3, ink=None, recipe="closerlook", split="alternating", stand_ins=("cub_200_2010_84px",),
        ),
        ImageSet(
            "mini_imagenet", ("mini_imagenet", "miniImagenet", "mini-imagenet", "mini_imagenet_tiny64"), 100, 60000,
            "classes of ImageNet", size=84, channels=3, ink=None, recipe="none", split="ravi",
            stand_ins=("mini_imagenet_tiny64",),
        ),
        ImageSet(
            "cifar_fs", ("cifar_fs", "cifar100", "cifar-100-python"), 100, 60000, "the classes of CIFAR-100",
            size=32, channels=3, ink=None, recipe="none", split="bertinetto",
        ),
        ImageSet(
            "fc100", ("fc100", "FC100", "cifar100", "cifar-100-python"), 100, 60000,
            "the classes of CIFAR-100, superclasses apart",
            size=32, channels=3, ink=None, recipe="none", split="oreshkin",
        ),
    )
}  # fmt: skip
"""The image sets by name."""
