"""JSON lists: file lists that name pictures, and class lists that divide class folders into splits.

File lists are `{base,val,novel}.json` with label_names, image_names and image_labels (Chen et al., 2019, "A Closer Look
at Few-shot Classification"). Their paths are those of the machine that wrote them. So of each path the longest end that
exists under the root is used. Class lists are `{train,val,test}.json` or `split_{train,val,test}.json` with
class_names. They are beside images/ or in splits/ (EasyFSL's CUB).
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quickstudy.errors import InputError
from quickstudy.tasks.draws import SPLITS
from quickstudy.tasks.images.listing import Listing
from quickstudy.tasks.images.readers.folders import read_class_folders
from quickstudy.tasks.images.readers.gather import explain_damage, list_folder, nfc, split_of
from quickstudy.tasks.images.readers.lists import ListEntry, listing_of_entries


def read_file_lists(path: Path) -> Listing | None:
    """JSON file lists: {base,val,novel}.json with label_names, image_names and image_labels."""
    if path.is_file() and path.suffix.lower() == ".json":
        content = _read_json_object(path)
        if "image_names" not in content:
            raise InputError(f"{path} has no image_names: a file list has label_names, image_names and image_labels.")
        files, root = {path: content}, path.parent
    else:
        files, root = _read_lists(path, "image_names"), path
    if not files:
        return None
    entries = [entry for file, content in files.items() for entry in _file_list_entries(file, content)]
    return listing_of_entries(
        f"JSON file lists ({', '.join(file.name for file in files)})", entries, _PathEnds(root), root
    )


def read_class_lists(path: Path) -> Listing | None:
    """Class folders divided by JSON class lists: images/<class>/*.jpg and splits/split_{train,val,test}.json."""
    for folder in (path, path / "splits"):
        files = _read_lists(folder, "class_names")
        if files:
            break
    else:
        return None
    found = read_class_folders(path)
    if found is None:
        raise InputError(
            f"{folder} lists classes ({', '.join(file.name for file in files)}), but {path} has no class folders: put "
            f"the pictures into {path / 'images'}/<class>/."
        )
    home: dict[str, str] = {}
    skipped = [pair for pair in found.skipped if not pair[0].lower().endswith(".json")]
    for file, content in files.items():
        split = _split_of_list(file)
        for name in map(nfc, _get_names(file, content, "class_names")):
            if home.setdefault(name, split) != split:
                raise InputError(
                    f"Class {name!r} is in the lists of {home[name]!r} and {split!r} in {folder}: remove it from one."
                )
            if name not in found.classes:
                skipped.append((name, f"in {file.name}, but there is no such class folder"))
    own = [home.get(name) for name in found.classes]
    splits = {split: np.flatnonzero([own[at] == split for at in found.labels]) for split in SPLITS}
    splits = {split: numbers for split, numbers in splits.items() if len(numbers)}
    if not splits:
        raise InputError(f"None of the {len(home)} classes listed in {folder} has a folder in {path}: is it this data?")
    left = own.count(None)
    layout = f"{found.layout}, divided by {', '.join(file.relative_to(path).as_posix() for file in files)}"
    layout += f"; {left} classes are in none of the lists" if left else ""
    return Listing(nfc(layout), found.pictures, found.names, found.labels, found.classes, splits, skipped)


def _read_lists(folder: Path, key: str) -> dict[Path, Mapping[str, Any]]:
    """The JSON files of a folder that are named after a split and have the key."""
    if not folder.is_dir():
        return {}
    files = [Path(e.path) for e in list_folder(folder) if e.name.lower().endswith(".json") and os.path.isfile(e.path)]
    read = {file: _read_json_object(file) for file in files if split_of(file.stem.removeprefix("split_"))}
    lists = {file: content for file, content in read.items() if key in content}
    if len({_split_of_list(file) for file in lists}) < len(lists):
        names = ", ".join(file.name for file in lists)
        raise InputError(f"Of the lists {names} in {folder} two mean the same split: rename or remove one.")
    return lists


def _split_of_list(file: Path) -> str:
    return split_of(file.stem.removeprefix("split_")) or ""


def _read_json_object(file: Path) -> Mapping[str, Any]:
    with explain_damage(f"{file} is not JSON"):
        content = json.loads(file.read_bytes())
    return content if isinstance(content, dict) else {}


def _get_names(file: Path, content: Mapping[str, Any], key: str) -> list[str]:
    values = content.get(key)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InputError(f"{file}: {key} must be a list of names.")
    return values


def _file_list_entries(file: Path, content: Mapping[str, Any]) -> list[ListEntry]:
    names, paths = _get_names(file, content, "label_names"), _get_names(file, content, "image_names")
    labels = content.get("image_labels")
    if not isinstance(labels, list) or len(labels) != len(paths):
        count = len(labels) if isinstance(labels, list) else "no"
        raise InputError(f"{file} has {len(paths)} image_names and {count} image_labels: each name needs one label.")
    entries = []
    for number, (path, label) in enumerate(zip(paths, labels, strict=True)):
        where = f"image {number} of {file.name}"
        if type(label) is not int or not 0 <= label < len(names):
            raise InputError(f"{file}: the label {label!r} of {where} is not a number from 0 to {len(names) - 1}.")
        if ".." in path.replace("\\", "/").split("/"):
            raise InputError(f"{path!r} ({where}) contains `..`: write the path without it.")
        entries.append(ListEntry(path, names[label], _split_of_list(file) or None, where))
    return entries


class _PathEnds:
    """Finds the longest end of a path that exists under the root or its images/."""

    def __init__(self, root: Path) -> None:
        # An end is tried only if its first folder exists, because a path has many ends and a list many paths.
        self.root = root
        self.tops = {"": set(os.listdir(root))}
        if (root / "images").is_dir():
            self.tops["images/"] = set(os.listdir(root / "images"))

    def __call__(self, entry: ListEntry) -> str | None:
        parts = [part for part in entry.path.replace("\\", "/").split("/") if part not in ("", ".")]
        for cut, top in enumerate(parts):
            for prefix, names in self.tops.items():
                name = prefix + "/".join(parts[cut:])
                if top in names and os.path.isfile(self.root / name):
                    return name
        return None
