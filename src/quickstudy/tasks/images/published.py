"""Published class splits: which classes a paper trained, validated and tested on.

`published_split("mini_imagenet", "ravi").divide(classes)` gives the class numbers of each split for data with these
classes. A split is stored as a list (`lists/*.json`, package data), or it is a rule over such a list: every other bird,
all alphabets but Latin, a seeded shuffle. Either way the result is class names. So data with only some of the classes
are divided as the complete data would be: a rule never counts the folders on disk.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.tasks.draws import Draws
from quickstudy.tasks.images.readers.idx import EMNIST_CHARACTERS

LIST_FOLDER = files("quickstudy.tasks.images") / "lists"
EMNIST_CLASSES = EMNIST_CHARACTERS["byclass"]
"""The 62 classes of the part of EMNIST that is published for few-shot learning, in the order of their labels."""

ClassesBySplit = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Division:
    """How a published split divides some data.

    Args:
        splits: The class numbers of each split, ascending. A split without any class in the data is empty.
        listed: How many classes the published split names.
        missing: The classes among them that the data lack, in the order of the list.
        unlisted: The classes of the data that are in no split.
    """

    splits: dict[str, list[int]]
    listed: int
    missing: tuple[str, ...]
    unlisted: tuple[str, ...]

    def __str__(self) -> str:
        counts = "/".join(f"{len(numbers)} {split}" for split, numbers in self.splits.items())
        left = f", {len(self.unlisted)} of the data in no split" if self.unlisted else ""
        if not self.missing:
            return f"matches the published set of {self.listed} classes ({counts}){left}"
        return f"{self.listed - len(self.missing)} of the {self.listed} published classes ({counts}){left}"


@dataclass(frozen=True)
class PublishedSplit:
    """A published split.

    Args:
        of: The data set.
        name: The name of the split; a data set may have several.
        source: The paper, and the public repository of the list or rule.
        classes: The class names of "train", "val" and "test". A split that the paper does not have is left out.
    """

    of: str
    name: str
    source: str
    classes: Mapping[str, tuple[str, ...]]

    def divide(self, classes: Sequence[str], *, partial: bool = False) -> Division:
        """The class numbers of each split.

        Args:
            classes: The class names of the data, sorted. The number of a class is its index here.
            partial: Use the listed classes that the data have and leave the others out. The data must have at least one
                of them. A stand-in for the real data needs this.

        Raises:
            InputError: A listed class is not in the data, or two classes of the data match one listed name.
        """
        number = self._numbers(classes)
        listed = [name for members in self.classes.values() for name in members]
        missing = tuple(name for name in listed if self._key(name) not in number)
        if missing and (not partial or len(missing) == len(listed)):
            raise InputError(
                f"The split {self.name!r} of {self.of} names {len(listed)} classes, and the data lack {len(missing)} "
                f"of them ({_first_names(missing)}). The data have {len(classes)} classes ({_first_names(classes)}). "
                + (
                    "None is listed: these are other data, or their classes have other names."
                    if len(missing) == len(listed)
                    else "Complete the data, or use partial=True to divide only the classes that are there."
                )
            )
        splits = {
            split: sorted(number[self._key(name)] for name in members if self._key(name) in number)
            for split, members in self.classes.items()
        }
        used = {place for numbers in splits.values() for place in numbers}
        return Division(
            splits, len(listed), missing, tuple(name for place, name in enumerate(classes) if place not in used)
        )

    def _key(self, name: str) -> str:
        """The part of a class name that is compared. CUB's number is left out: other releases may number otherwise."""
        return re.sub(r"^\d+\.", "", name) if self.of == "cub" else name

    def _numbers(self, classes: Sequence[str]) -> dict[str, int]:
        keys = _emnist_characters(classes) if self.of == "emnist" else [self._key(name) for name in classes]
        number: dict[str, int] = {}
        for place, key in enumerate(keys):
            if number.setdefault(key, place) != place:
                raise InputError(
                    f"Classes {classes[number[key]]!r} and {classes[place]!r} both match {key!r} in the splits of "
                    f"{self.of}. Merge them, or leave one out."
                )
        return number


def _emnist_characters(classes: Sequence[str]) -> list[str]:
    """The character of each class, from its position, or from its name if the names are the labels "0" to "61".

    Releases name the classes in different ways (characters, code points, labels), but keep their order. Only labels are
    sorted as text, "10" before "2", so their position would be wrong.
    """
    if len(classes) != len(EMNIST_CLASSES):
        raise InputError(
            f"The splits of emnist number its {len(EMNIST_CLASSES)} classes in the order 0-9, A-Z, a-z, so none may be "
            f"missing; the data have {len(classes)} ({_first_names(classes)}). Use EMNIST byclass, or your own list."
        )
    labels = set(classes) == {str(label) for label in range(len(EMNIST_CLASSES))}
    return [EMNIST_CLASSES[int(name) if labels else place] for place, name in enumerate(classes)]


def _first_names(names: Sequence[str]) -> str:
    return f"the first: {', '.join(names[:3])}" if names else "none"


@cache
def published_split(of: str, name: str) -> PublishedSplit:
    """The published split of a data set with this name. The error for an unknown name lists the known ones."""
    known = published_names(of)
    if name not in known:
        raise InputError(f"There is no published split {name!r} of {of}. {suggest_nearest(name, known)}")
    if (of, name) in SPLIT_RULES:
        rule, source = SPLIT_RULES[of, name]
        return PublishedSplit(of, name, source, {split: tuple(members) for split, members in rule().items()})
    return _read_list(of, name)


def published_names(of: str) -> list[str]:
    """The names of the published splits of a data set."""
    lists = [path.name.split(".") for path in LIST_FOLDER.iterdir() if path.name.endswith(".json")]
    known = [*SPLIT_RULES, *((data, name) for data, name, _ in lists)]
    found = sorted(name for data, name in known if data == of)
    if not found:
        raise InputError(f"There is no published split of {of!r}. {suggest_nearest(of, {data for data, _ in known})}")
    return found


def _read_list(of: str, name: str) -> PublishedSplit:
    listed = json.loads((LIST_FOLDER / f"{of}.{name}.json").read_text(encoding="utf-8"))
    return PublishedSplit(
        listed["of"],
        listed["name"],
        listed["source"],
        {split: tuple(_expand_members(members)) for split, members in listed["classes"].items()},
    )


def _expand_members(members: list[str] | dict[str, str]) -> list[str]:
    """Expand characters that are listed by alphabet and range to the names of Omniglot's folders; keep other lists.

    >>> _expand_members({"Latin": "1-2,26"})
    ['Latin/character01', 'Latin/character02', 'Latin/character26']
    """
    if isinstance(members, list):
        return members
    characters = []
    for alphabet, ranges in members.items():
        for part in ranges.split(","):
            first, _, last = part.partition("-")
            characters += [f"{alphabet}/character{n:02d}" for n in range(int(first), int(last or first) + 1)]
    return characters


def _alphabet(character: str) -> str:
    return character.split("/")[0]


def _finn_omniglot() -> ClassesBySplit:
    """Characters divided at random, whatever their alphabet.

    The released code shuffles the folders with a fixed seed, but in the order in which the operating system lists them,
    so its exact split is lost. This is another shuffle of the same kind. The "1200 characters for training" of later
    papers are these 1100 and the 100 for validation.
    """
    characters = all_classes("omniglot", "lake_no_val")
    shuffled = [characters[i] for i in Draws(0, "train", 0).order("omniglot finn", len(characters))]
    return {"train": shuffled[:1100], "val": shuffled[1100:1200], "test": shuffled[1200:]}


def _lake_omniglot() -> ClassesBySplit:
    """Splits by alphabet. Five of the 30 background alphabets, by a fixed draw, are for validation."""
    lake = published_split("omniglot", "lake_no_val").classes
    alphabets = sorted({_alphabet(character) for character in lake["train"]})
    kept = {alphabets[i] for i in Draws(0, "train", 0).order("omniglot lake", len(alphabets))[:5]}
    return {
        "train": [c for c in lake["train"] if _alphabet(c) not in kept],
        "val": [c for c in lake["train"] if _alphabet(c) in kept],
        "test": lake["test"],
    }


def _omniglot_without_latin() -> ClassesBySplit:
    """Every alphabet but Latin, for training only: the test is on EMNIST, whose letters are Latin."""
    return {"train": [c for c in all_classes("omniglot", "lake_no_val") if _alphabet(c) != "Latin"]}


def _even_odd_emnist() -> ClassesBySplit:
    """Even labels for validation, odd labels for the test; training is on Omniglot without Latin."""
    return {"val": EMNIST_CLASSES[0::2], "test": EMNIST_CLASSES[1::2]}


def _alternating_cub() -> ClassesBySplit:
    """Every other bird for training; the rest alternates between validation and test."""
    birds = all_classes("cub", "easyfsl")
    return {"train": birds[0::2], "val": birds[1::4], "test": birds[3::4]}


def _all_mini_imagenet() -> ClassesBySplit:
    """Every class for training; the test is on birds."""
    return {"train": all_classes("mini_imagenet", "ravi")}


def all_classes(of: str, name: str) -> list[str]:
    """The classes of every split of a published split, sorted."""
    return sorted(name for members in published_split(of, name).classes.values() for name in members)


_CHEN = "Chen et al., 2019 (wyharveychen/CloserLookFewShot, {})"
SPLIT_RULES: dict[tuple[str, str], tuple[Callable[[], ClassesBySplit], str]] = {
    ("omniglot", "finn"): (
        _finn_omniglot,
        "Finn, Abbeel & Levine, 2017 (cbfinn/maml): 1100/100/423 characters at random, here by our own shuffle",
    ),
    ("omniglot", "lake"): (
        _lake_omniglot,
        "Lake et al., 2015 (brendenlake/omniglot); five background alphabets, drawn here, are for validation",
    ),
    ("omniglot", "no_latin"): (
        _omniglot_without_latin,
        _CHEN.format("filelists/omniglot") + ", as in DKT and HyperMAML",
    ),
    ("emnist", "even_odd"): (_even_odd_emnist, _CHEN.format("filelists/emnist") + ", as in DKT and HyperMAML"),
    ("cub", "alternating"): (_alternating_cub, _CHEN.format("filelists/CUB") + ", as in HyperMAML and Torchmeta"),
    ("mini_imagenet", "all"): (_all_mini_imagenet, _CHEN.format("mini-ImageNet to CUB") + ", as in HyperMAML"),
}
"""The splits that are rules, by data set and name: the rule, and the paper with its public repository."""
