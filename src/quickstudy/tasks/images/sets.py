"""Image sets by name, and one's own folders: where their files are looked for, and which splits they have.

`FAMILIES["omniglot"](ways=20)` is a family of tasks. Nothing is downloaded here: what is missing is an error that says
where it was looked for and how to get it.
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

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.tasks.images.family import ImageEpisodes
from quickstudy.tasks.images.published import names as published_names
from quickstudy.tasks.images.published import published
from quickstudy.tasks.images.readers import recognise
from quickstudy.tasks.images.recipes import preparation_named
from quickstudy.tasks.images.store import Progress, Stored, load_pictures
from quickstudy.tasks.splits import Indices, split_by_class, split_by_image, split_by_list
from quickstudy.tasks.synthetic.options import check_counts

FRACTIONS = (0.6, 0.2, 0.2)
FOLDER = preparation_named("none").decoding(84, 3, None)
"""How one's own pictures are stored when nothing else is asked for."""
GENERAL = ("layout", "class", "image")
"""Splits that any set has: as its files are laid out, seeded by class, seeded by image."""


class LeftOut(UserWarning):
    """Pictures that could not be used."""


def data_root() -> Path:
    """`QUICKSTUDY_DATA`, or the user's data folder."""
    given = os.environ.get("QUICKSTUDY_DATA")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "quickstudy"


@dataclass(frozen=True)
class ImageSet:
    """An image set that is known by name. Calling it gives its tasks.

    Args:
        name: What it is called.
        folders: Names under the data root where its files may be, in the order they are looked for.
        classes: How many the published set has.
        images: How many the published set has.
        about: What it shows.
        size: The size that the papers use.
        channels: Its own.
        ink: "dark" or "light" for drawings, None for photographs.
        recipe: The preprocessing when none is asked for.
        split: The split when none is asked for.
        inks: The ink of those folders that differ, by name.
        stand_ins: Those of the folders that hold other pictures, used in the set's place.
    """

    name: str
    folders: Sequence[str]
    classes: int
    images: int
    about: str
    size: int = 28
    channels: int = 1
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
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        size: int = 0,
        recipe: str = "",
        rotations: str = "none",
        only: Sequence[str] = (),
        seed: int = 0,
        path: str | None = None,
        progress: Progress | None = None,
    ) -> ImageEpisodes:
        """Tasks over this set.

        Args:
            split: One of the published splits by name, or "layout", "class" or "image".
            ways, shots, queries: Classes in a task, and support and query images per class.
            size: Height and width.
            recipe: The preprocessing, by name.
            rotations: "none", "classes" or "augment".
            only: Names of the classes to keep; all by default.
            seed: Of the splits "class" and "image".
            path: Where the files are; by default looked for under the data root.
            progress: Told how far decoding is, where the pictures are decoded for the first time.
        """
        place = Path(path).expanduser().absolute() if path else self.where()
        found = self.read(place, size or self.size, recipe or self.recipe, progress)
        splits, rule, missing = divide(found, split or self.split, self.name, seed, tuple(only))
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
            notes=(*describe_decoding(found, place), *missing),
            digest=found.digest,
        )

    def where(self) -> Path:
        """The folder that holds the set."""
        found = self.held()
        if found is not None:
            return found
        raise InputError(
            f"{self.name!r} is not under the data root {data_root()} (looked for {', '.join(self.folders)}). "
            f"Get it with `quickstudy data prepare {self.name}`, name another root with --data-root or "
            "QUICKSTUDY_DATA, or give its folder as --tasks.path."
        )

    def held(self) -> Path | None:
        """The folder that holds the set or stands in for it, if there is one; nothing in it is looked at."""
        root = data_root()
        return next((root / folder for folder in self.folders if (root / folder).exists()), None)

    def stands_in(self) -> str:
        """The name of the folder that stands in for it; empty where there is none, or the set itself."""
        place = self.held()
        return place.name if place is not None and place.name in self.stand_ins else ""

    def read(self, place: Path, size: int, recipe: str, progress: Progress | None = None) -> Stored:
        """Its pictures, stored for a size and a recipe."""
        if not place.exists():
            raise InputError(f"There is no {place}, where the files of {self.name!r} were to be.")
        how = preparation_named(recipe).decoding(size, self.channels, self.inks.get(place.name, self.ink))
        return load_pictures(place, recognise, how, progress)

    def title(self, place: Path, found: Stored) -> str:
        """The set's name, or what stands in for it: this is printed beside every number."""
        if (len(found.classes), len(found.labels)) == (self.classes, self.images):
            return self.name
        if place.name.lower() == self.name:
            return (
                f"{self.name} with {len(found.classes)} classes and {len(found.labels)} images "
                f"instead of {self.classes} and {self.images}"
            )
        return f"{place.name} in place of {self.name}"


def divide(found: Stored, split: str, of: str, seed: int, only: tuple[str, ...]) -> tuple[Indices, str, list[str]]:
    """The pictures of each split, the rule in words, and what a published list names that the data lack."""
    keep, labels = select_classes(found, only), found.labels
    inside: Mapping[str, Any]
    among = f", of {len(only)} classes" if only else ""
    cut = f"train/val/test {'/'.join(map(str, FRACTIONS))}, seed {seed}{among}"
    if split == "image":
        chosen = {name: keep[images] for name, images in split_by_image(labels[keep], FRACTIONS, seed).items()}
        return chosen, f"by image (classes shared), {cut}", []
    if split == "class":
        chosen = {name: keep[images] for name, images in split_by_class(labels[keep], FRACTIONS, seed).items()}
        return chosen, f"by class (classes disjoint), {cut}", []
    if split == "layout":
        if not found.splits:
            raise InputError(
                f"The files of {of!r} ({found.layout}) are not divided into train, val and test. "
                f"Use split 'class' or 'image', or folders of these names."
            )
        inside = {name: images[np.isin(images, keep)] for name, images in found.splits.items()}
        return {name: images for name, images in inside.items() if len(images)}, f"as laid out{among}", []
    try:
        known = published_names(of)
    except InputError:
        known = []
    if split not in known:
        raise InputError(f"{of!r} has no split {split!r}. {suggest_nearest(split, [*known, *GENERAL])}")
    division = published(of, split).divide(found.classes, partial=True)
    present = set(labels[keep].tolist())
    inside = {name: [c for c in members if c in present] for name, members in division.splits.items()}
    notes = [str(division)] if division.missing or division.unlisted else []
    return split_by_list(labels, inside), f"by class (classes disjoint), {split}{among}", notes


def select_classes(found: Stored, only: tuple[str, ...]) -> NDArray[np.int64]:
    """The pictures of the classes that are named; all, where none is."""
    if not only:
        return np.arange(len(found.labels))
    for name in only:
        if name not in found.classes:
            raise InputError(f"`only` names class {name!r}. {suggest_nearest(name, found.classes)}")
    return np.flatnonzero(np.isin(found.labels, [found.classes.index(name) for name in only]))


def describe_decoding(found: Stored, place: Path) -> list[str]:
    """The layout, what was changed and what was left out, in words; the last is also a warning."""
    notes = [f"layout: {found.layout}"]
    notes += [f"{count} pictures: {what}" for what, count in sorted(found.changed.items())]
    if found.skipped:
        shown = "; ".join(f"{name} ({why})" for name, why in found.skipped[:3])
        rest = f"; and {len(found.skipped) - 3} more" if len(found.skipped) > 3 else ""
        notes.append(f"{len(found.skipped)} left out: {shown}{rest}")
        warnings.warn(f"{notes[-1]}. `quickstudy data check {place} --all` lists them.", LeftOut, stacklevel=2)
    return notes


def folder(
    path: str,
    split: str = "auto",
    ways: int | None = None,
    shots: int = 1,
    queries: int | None = None,
    size: int = FOLDER.side,
    channels: int = FOLDER.channels,
    ink: str | None = None,
    recipe: str = "none",
    rotations: str = "none",
    only: Sequence[str] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> ImageEpisodes:
    """One's own pictures: `path/<class>/*`, `path/{train,val,test}/<class>/*`, a csv, an archive or arrays.

    Args:
        path: The folder or file.
        split: "layout" (as the folders or the csv say), "class" (disjoint classes, seeded), "image" (classes shared),
            or "auto": the layout's, if it has one, else by class when there are enough for every split, else by image.
        ways: Classes in a task; by default 5, or fewer where a split has fewer.
        shots: Support images per class.
        queries: Query images per class; by default 15, or as many as the smallest class leaves.
        size: Height and width, to which pictures are stretched.
        channels: 3 for colour, 1 for grey.
        ink: "dark" or "light" when the pictures are drawings; they are then not augmented.
        recipe: The preprocessing, by name.
        rotations: "none", "classes" or "augment".
        only: Names of the classes to keep; all by default.
        seed: Of the splits "class" and "image".
        progress: Told how far decoding is, where the pictures are decoded for the first time.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise InputError(
            f"There is no folder or file {path!r}. Name one that holds a folder of pictures per class: "
            "--tasks.path DIRECTORY."
        )
    if ink not in (None, "dark", "light"):
        raise InputError(f"ink={ink!r} cannot be used: 'dark' or 'light' for drawings, nothing for photographs.")
    how = preparation_named(recipe)
    found = load_pictures(place, recognise, how.decoding(size, channels, ink), progress)
    if split == "auto":
        split = default_split(found, len(set(only) or found.classes), ways or 5)
    splits, rule, missing = divide(found, split, place.name, seed, tuple(only))
    if ways is None or queries is None:
        check_counts(shots=shots)
        most_ways, most_queries = _room(found, splits, split, shots)
        ways = min(5, most_ways) if ways is None else ways
        queries = min(15, most_queries) if queries is None else queries
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
        notes=(*describe_decoding(found, place), *missing),
        digest=found.digest,
    )


def default_split(found: Stored, classes: int, ways: int = 5) -> str:
    """How one's own pictures are divided when nothing is said, by how many of their classes are used."""
    return "layout" if found.splits else "class" if classes >= 5 * ways else "image"


def find_small_classes(found: Stored, splits: Mapping[str, NDArray[Any]], least: int) -> dict[int, tuple[str, int]]:
    """Classes with fewer than `least` pictures in a split that has some of theirs: that split, and how many."""
    few: dict[int, tuple[str, int]] = {}
    for name, images in splits.items():
        for label, count in zip(*np.unique(found.labels[images], return_counts=True), strict=True):
            if count < least:
                few.setdefault(int(label), (name, int(count)))
    return few


def _room(found: Stored, splits: Mapping[str, NDArray[Any]], split: str, shots: int) -> tuple[int, int]:
    """The most ways and queries that every split has classes and pictures for."""
    counts = {name: np.unique(found.labels[images], return_counts=True) for name, images in splits.items()}
    narrow = min(counts, key=lambda name: len(counts[name][0]))
    scarce = min(counts, key=lambda name: int(counts[name][1].min()))
    classes, (labels, images) = counts[narrow][0], counts[scarce]
    if len(classes) < 2:
        raise InputError(
            f"Split {split!r} leaves {narrow!r} one class, {found.classes[classes[0]]!r}: a task needs 2 or more. "
            "Add classes, or divide the data otherwise."
        )
    least = int(images.min())
    if least <= shots:
        label = labels[images.argmin()]
        small = {int(c) for own, counted in counts.values() for c in own[counted <= shots]}
        others = [name for c, name in enumerate(found.classes) if c not in small]
        advice = (
            f"leave out what is too small: --tasks.only '[{', '.join(others)}]'" if len(others) > 1 else "lower shots"
        )
        raise InputError(
            f"Class {found.classes[label]!r} has {int((found.labels == label).sum())} pictures, {least} of them in "
            f"{scarce!r} (split {split!r}); {shots}-shot needs {shots + 1} there, one of them a query. Add pictures of "
            f"it, or {advice}."
        )
    return len(classes), least - shots


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
"""Image sets by name."""
