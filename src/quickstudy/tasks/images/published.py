"""Published class splits: which classes a paper trained, validated and tested on.

`published("mini_imagenet", "ravi").divide(classes)` gives the class numbers of each split for data with these classes.
A split is stored as a list (`lists/*.json`, package data), or it is a rule over one: every other bird, all alphabets
but Latin, a seeded shuffle. Both come out as class names, so data that hold only some of the classes are divided as
the complete data would be: a rule never counts the folders that happen to be there.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from string import ascii_lowercase, ascii_uppercase, digits

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.tasks.draws import Draws

LISTS = files("quickstudy.tasks.images") / "lists"
EMNIST = digits + ascii_uppercase + ascii_lowercase
"""The 62 classes of EMNIST's "byclass" in the order of their labels."""


@dataclass(frozen=True)
class Division:
    """How a published split falls on some data.

    Args:
        splits: Class numbers of the data by split, ascending. A split of which the data have no class is empty.
        listed: How many classes the published split names.
        missing: Those of them that the data lack, in the order of the list.
        unlisted: Classes of the data that are in no split.
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
class Published:
    """A published split.

    Args:
        of: The data set.
        name: The split's name; a data set may have several.
        source: The paper, and the public repository whose list or rule it is.
        classes: Class names by "train", "val" and "test". A split the paper does not have is left out.
    """

    of: str
    name: str
    source: str
    classes: Mapping[str, tuple[str, ...]]

    def divide(self, classes: Sequence[str], *, partial: bool = False) -> Division:
        """The class numbers of each split.

        Args:
            classes: The data's class names, sorted; a class's number is its place here.
            partial: Take the listed classes that are there and leave the others out, as a stand-in for the real data
                needs. It must have at least one of them.

        Raises:
            InputError: A listed class is not in the data, or two classes of the data go by one listed name.
        """
        number = self._numbers(classes)
        listed = [name for members in self.classes.values() for name in members]
        missing = tuple(name for name in listed if self._key(name) not in number)
        if missing and (not partial or len(missing) == len(listed)):
            raise InputError(
                f"The split {self.name!r} of {self.of} names {len(listed)} classes, and the data lack {len(missing)} "
                f"of them ({_first(missing)}). The data have {len(classes)} classes ({_first(classes)}). "
                + (
                    "None is listed: these are other data, or their classes have other names."
                    if len(missing) == len(listed)
                    else "Complete the data, or ask for partial=True to use the classes that are there."
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
        """What of a class name is compared: of CUB's, not the number, which other releases may count otherwise."""
        return re.sub(r"^\d+\.", "", name) if self.of == "cub" else name

    def _numbers(self, classes: Sequence[str]) -> dict[str, int]:
        keys = _emnist_characters(classes) if self.of == "emnist" else [self._key(name) for name in classes]
        number: dict[str, int] = {}
        for place, key in enumerate(keys):
            if number.setdefault(key, place) != place:
                raise InputError(
                    f"Classes {classes[number[key]]!r} and {classes[place]!r} both go by {key!r} in the splits of "
                    f"{self.of}. Merge them, or leave one out."
                )
        return number


def _emnist_characters(classes: Sequence[str]) -> list[str]:
    """The character of each class by its place, or by its label where the names are the labels "0" to "61".

    Class names differ from release to release (characters, code points, labels), the order does not. Labels sort as
    text, "10" before "2", so there the place would be wrong.
    """
    if len(classes) != len(EMNIST):
        raise InputError(
            f"The splits of emnist count through its {len(EMNIST)} classes in the order 0-9, A-Z, a-z, so none may be "
            f"absent; the data have {len(classes)} ({_first(classes)}). Use EMNIST byclass, or your own list."
        )
    labels = set(classes) == {str(label) for label in range(len(EMNIST))}
    return [EMNIST[int(name) if labels else place] for place, name in enumerate(classes)]


def _first(names: Sequence[str]) -> str:
    return f"the first: {', '.join(names[:3])}" if names else "none"


@cache
def published(of: str, name: str) -> Published:
    """The split of a data set by name; an unknown name is an InputError that tells the known ones."""
    known = names(of)
    if name not in known:
        raise InputError(f"There is no published split {name!r} of {of}. {suggest_nearest(name, known)}")
    return RULES[of, name]() if (of, name) in RULES else _read(of, name)


def names(of: str) -> list[str]:
    """The published splits of a data set."""
    lists = [path.name.split(".") for path in LISTS.iterdir() if path.name.endswith(".json")]
    known = [*RULES, *((data, name) for data, name, _ in lists)]
    found = sorted(name for data, name in known if data == of)
    if not found:
        raise InputError(f"No split of {of!r} is published here. {suggest_nearest(of, {data for data, _ in known})}")
    return found


def _read(of: str, name: str) -> Published:
    listed = json.loads((LISTS / f"{of}.{name}.json").read_text(encoding="utf-8"))
    return Published(
        listed["of"],
        listed["name"],
        listed["source"],
        {split: tuple(_spelled_out(members)) for split, members in listed["classes"].items()},
    )


def _spelled_out(members: list[str] | dict[str, str]) -> list[str]:
    """A list as it is; characters by alphabet and ranges spelled out, as Omniglot's folders are named.

    >>> _spelled_out({"Latin": "1-2,26"})
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


def _finn() -> Published:
    """Characters dealt out at random, whatever their alphabet.

    The released code shuffles with a fixed seed what the operating system lists, in whatever order that is, so its very
    split cannot be had again; this shuffle is another of the same kind. "1200 characters for training" in later papers
    are these 1100 and the 100 for validation.
    """
    lake = published("omniglot", "lake_no_val").classes
    characters = sorted(lake["train"] + lake["test"])
    shuffled = tuple(characters[i] for i in Draws(0, "train", 0).order("omniglot finn", len(characters)))
    return Published(
        "omniglot",
        "finn",
        "Finn, Abbeel & Levine, 2017 (cbfinn/maml): 1100/100/423 characters at random, here by our own shuffle",
        {"train": shuffled[:1100], "val": shuffled[1100:1200], "test": shuffled[1200:]},
    )


def _lake() -> Published:
    """Alphabets never seen: five of the background set's thirty, drawn once and for all, are kept to validate."""
    lake = published("omniglot", "lake_no_val")
    alphabets = sorted({_alphabet(character) for character in lake.classes["train"]})
    kept = {alphabets[i] for i in Draws(0, "train", 0).order("omniglot lake", len(alphabets))[:5]}
    return Published(
        "omniglot",
        "lake",
        f"{lake.source}; five background alphabets, drawn here, are kept to validate",
        {
            "train": tuple(c for c in lake.classes["train"] if _alphabet(c) not in kept),
            "val": tuple(c for c in lake.classes["train"] if _alphabet(c) in kept),
            "test": lake.classes["test"],
        },
    )


def _no_latin() -> Published:
    """Every alphabet but Latin, to be tested on EMNIST, whose letters are Latin: it has no other split."""
    lake = published("omniglot", "lake_no_val").classes
    return Published(
        "omniglot",
        "no_latin",
        "Chen et al., 2019 (wyharveychen/CloserLookFewShot, filelists/omniglot), as in DKT and HyperMAML",
        {"train": tuple(c for c in sorted(lake["train"] + lake["test"]) if _alphabet(c) != "Latin")},
    )


def _even_odd() -> Published:
    """Even labels to validate, odd ones to test; trained on Omniglot without Latin."""
    return Published(
        "emnist",
        "even_odd",
        "Chen et al., 2019 (wyharveychen/CloserLookFewShot, filelists/emnist), as in DKT and HyperMAML",
        {"val": tuple(EMNIST[0::2]), "test": tuple(EMNIST[1::2])},
    )


def _alternating() -> Published:
    """Every other bird to train; of the rest, every other one to validate and to test."""
    birds = sorted(name for members in published("cub", "easyfsl").classes.values() for name in members)
    return Published(
        "cub",
        "alternating",
        "Chen et al., 2019 (wyharveychen/CloserLookFewShot, filelists/CUB), as in HyperMAML and Torchmeta",
        {"train": tuple(birds[0::2]), "val": tuple(birds[1::4]), "test": tuple(birds[3::4])},
    )


def _all() -> Published:
    """Every class to train, to be tested on birds."""
    ravi = published("mini_imagenet", "ravi").classes
    return Published(
        "mini_imagenet",
        "all",
        "Chen et al., 2019 (wyharveychen/CloserLookFewShot, mini-ImageNet to CUB), as in HyperMAML",
        {"train": tuple(sorted(name for members in ravi.values() for name in members))},
    )


RULES: dict[tuple[str, str], Callable[[], Published]] = {
    ("omniglot", "finn"): _finn,
    ("omniglot", "lake"): _lake,
    ("omniglot", "no_latin"): _no_latin,
    ("emnist", "even_odd"): _even_odd,
    ("cub", "alternating"): _alternating,
    ("mini_imagenet", "all"): _all,
}
