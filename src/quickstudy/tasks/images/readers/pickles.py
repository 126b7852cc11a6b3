"""Image sets that are published as pickles, read by an unpickler that runs no code (see `unpickle`).

- mini-ImageNet: `mini-imagenet-cache-{train,val,test}.pkl` {image_data, class_dict}, and
  `miniImageNet_category_split_{train_phase_train,val,test}.pickle` {data, labels}
- CIFAR-FS and FC100: `CIFAR_FS_{train,val,test}.pickle`, `FC100_{train,val,test}.pickle` {data, labels}
- tieredImageNet: `{train,val,test}_images_png.pkl` (or `_images.npz`) beside `{train,val,test}_labels.pkl`
- CIFAR-100: `train`, `test` and `meta` of the Python version; its split is by image

The splits of the first three share no class. If each counts its classes from 0, a class is named after its split too.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quickstudy.errors import InputError
from quickstudy.tasks.images.listing import Listing, Pictures
from quickstudy.tasks.images.readers.arrays import (
    EncodedPictures,
    LabelledPictures,
    as_labels,
    as_pictures,
    as_plain_array,
    join_pictures,
)
from quickstudy.tasks.images.readers.gather import SPLIT_NAMES, list_folder, split_of
from quickstudy.tasks.images.readers.npz import load_npz
from quickstudy.tasks.images.readers.unpickle import load_pickle

_SPLITS = "|".join(SPLIT_NAMES)
SPLIT_PICKLE = re.compile(rf"(?P<set>.*?)[_-]?(?P<split>{_SPLITS})\.(?:pkl|pickle)", re.IGNORECASE)
PHASE_PICKLE = re.compile(r"(?P<set>.*)_train_phase_(?P<phase>train|val|test)\.pickle", re.IGNORECASE)
TIERED_PICTURES = re.compile(rf"(?P<split>{_SPLITS})_images(?P<form>_png\.pkl|\.npz)", re.IGNORECASE)


def read_split_pickles(path: Path) -> Listing | None:
    """One pickle per split: mini-imagenet-cache-*.pkl, miniImageNet_category_split_*.pickle, CIFAR_FS_*, FC100_*."""
    names = [path.name] if path.is_file() else [e.name for e in list_folder(path) if os.path.isfile(e.path)]
    folder = path.parent if path.is_file() else path
    found: dict[str, dict[str, str]] = {}
    skipped: list[tuple[str, str]] = []
    for name in names:
        if more := PHASE_PICKLE.fullmatch(name):
            if more["phase"].lower() == "train":
                _add_file(found, more["set"], "train", name, folder)
            else:
                skipped.append((name, "further images of the training classes, which few-shot learning does not use"))
        elif match := SPLIT_PICKLE.fullmatch(name):
            _add_file(found, match["set"], split_of(match["split"]) or "", name, folder)
    if len(found) > 1:
        raise InputError(f"{folder} has several sets ({', '.join(sorted(found))}): put each into a folder of its own.")
    if not found:
        return None
    ((prefix, files),) = found.items()
    parts = [_read_split_pickle(folder / files[split], split) for split in ("train", "val", "test") if split in files]
    return join_pictures(
        f"pickles by split ({prefix or folder.name}: {', '.join(files)})", parts, skipped, disjoint=True
    )


def read_tiered(path: Path) -> Listing | None:
    """Pickles of tieredImageNet: {train,val,test}_images_png.pkl or _images.npz beside {train,val,test}_labels.pkl."""
    if not path.is_dir():
        return None
    found = [
        match for e in list_folder(path) if os.path.isfile(e.path) and (match := TIERED_PICTURES.fullmatch(e.name))
    ]
    parts = []
    for match in sorted(found, key=lambda match: ("train", "val", "test").index(split_of(match["split"]) or "")):
        file, labels = path / match[0], path / f"{match['split']}_labels.pkl"
        if not labels.is_file():
            raise InputError(f"{file} needs {labels.name} beside it, but there is no such file: download it too.")
        pictures: Pictures
        if match["form"].lower() == ".npz":
            pictures = as_pictures(_get_first(load_npz(file), file, "images", "data"), file.name)
        else:
            pictures = EncodedPictures(_encoded_files(load_pickle(file), file))
        content = _text_keys(load_pickle(labels), labels)
        values = _get_first(content, labels, "label_specific", "labels")
        numbers = as_labels(values, labels.name, len(pictures))
        if "label_specific_str" in content:
            numbers = _read_class_names(numbers, content["label_specific_str"], labels)
        parts.append(LabelledPictures(file.name, pictures, numbers, split_of(match["split"])))
    return (
        join_pictures(f"tieredImageNet ({', '.join(match[0] for match in found)})", parts, disjoint=True)
        if parts
        else None
    )


def read_cifar100(path: Path) -> Listing | None:
    """CIFAR-100's Python version: train, test and meta, here or in cifar-100-python/."""
    for folder in (path, path / "cifar-100-python"):
        if not all((folder / name).is_file() for name in ("train", "test", "meta")):
            continue
        names = _get_first(
            _text_keys(load_pickle(folder / "meta"), folder / "meta"), folder / "meta", "fine_label_names"
        )
        parts = []
        for split in ("train", "test"):
            file = folder / split
            content = _text_keys(load_pickle(file), file)
            rows = as_plain_array(_get_first(content, file, "data"), str(file))
            if rows.ndim != 2 or rows.shape[1] != 3072:
                raise InputError(f"{file} has data of the shape {list(rows.shape)}; CIFAR's is [N, 3072].")
            pictures = as_pictures(rows.reshape(-1, 3, 32, 32), str(file))
            labels = as_labels(_get_first(content, file, "fine_labels"), str(file), len(pictures))
            parts.append(LabelledPictures(split, pictures, _read_class_names(labels, names, file), split))
        return join_pictures("CIFAR-100, Python version, fine labels, divided by image", parts, disjoint=False)
    return None


def _add_file(found: dict[str, dict[str, str]], prefix: str, split: str, name: str, folder: Path) -> None:
    other = found.setdefault(prefix, {}).setdefault(split, name)
    if other != name:
        raise InputError(f"{folder} has {other} and {name}, which both mean the split {split!r}: remove one.")


def _read_split_pickle(file: Path, split: str) -> LabelledPictures:
    content = _text_keys(load_pickle(file), file)
    if "class_dict" in content:
        pictures = as_pictures(_get_first(content, file, "image_data"), str(file))
        return LabelledPictures(
            file.name, pictures, _labels_from_classes(content["class_dict"], len(pictures), file), split
        )
    pictures = as_pictures(_get_first(content, file, "data"), str(file))
    labels = as_labels(_get_first(content, file, "labels"), str(file), len(pictures))
    names = content.get("catname2label")
    if isinstance(names, dict) and names:
        known = {number: _to_text(name) for name, number in names.items()}
        labels = np.array([known.get(number, str(number)) for number in labels.tolist()])
    return LabelledPictures(file.name, pictures, labels, split)


def _labels_from_classes(class_dict: object, count: int, file: Path) -> NDArray[Any]:
    """The class name of each image, from {class: indices of images}. Every image must be in exactly one class."""
    labels = np.full(count, "", dtype=object)
    taken = np.zeros(count, dtype=np.int64)
    for name, numbers in _text_keys(class_dict, file).items():
        at = as_plain_array(numbers, str(file)).astype(np.int64).reshape(-1)
        if at.size and not (at.min() >= 0 and at.max() < count):
            raise InputError(f"{file}: class {name!r} has image numbers outside 0 to {count - 1}: download it again.")
        labels[at] = name
        np.add.at(taken, at, 1)
    if not (taken == 1).all():
        wrong = int((taken != 1).sum())
        raise InputError(f"{file}: {wrong} of {count} images are in no class or in several: download it again.")
    return labels.astype(str)


def _read_class_names(numbers: NDArray[Any], names: object, file: Path) -> NDArray[Any]:
    listed = [_to_text(name) for name in np.asarray(names, dtype=object).ravel().tolist()]
    if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(listed)):
        raise InputError(f"{file} has labels from {numbers.min()} to {numbers.max()} and {len(listed)} class names.")
    named: NDArray[Any] = np.array(listed)[numbers]
    return named


def _encoded_files(files: object, file: Path) -> list[Any]:
    if not isinstance(files, list | np.ndarray):
        raise InputError(f"{file} holds a {type(files).__name__}; a list of encoded images was expected.")
    return list(files)


def _text_keys(content: object, file: Path) -> Mapping[str, Any]:
    """The dictionary in a pickle, with its keys as text: Python 2 wrote many of them as bytes."""
    if not isinstance(content, dict):
        raise InputError(f"{file} holds a {type(content).__name__}; a dictionary was expected.")
    return {_to_text(key): value for key, value in content.items()}


def _to_text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _get_first(content: Mapping[str, Any], file: Path, *keys: str) -> Any:
    for key in keys:
        if key in content:
            return content[key]
    raise InputError(
        f"{file} has the keys {', '.join(sorted(content)) or '(none)'}; one of {', '.join(keys)} is needed."
    )
