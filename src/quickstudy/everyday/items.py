"""A user's X: rows of numbers, pictures (paths, images, bytes) or texts; and folders with a folder for each class."""

import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from quickstudy.errors import InputError
from quickstudy.storage.files import as_path
from quickstudy.tasks.arrays import as_array
from quickstudy.tasks.images.limits import check_pixels
from quickstudy.tasks.images.listing import FilePictures, open_picture
from quickstudy.tasks.images.readers import recognise
from quickstudy.tasks.images.readers.gather import is_picture

Items = Tensor | list[Any]
"""What `read_items` makes of an X: numbers as a tensor, or a list of pictures or texts."""


DATASET_ITEMS = ("image", "img", "text", "sentence", "x", "input")
DATASET_LABELS = ("label", "labels", "y", "target")
"""What the examples of datasets call an input and its label."""


class Taught(NamedTuple):
    """The examples of a folder: pictures, their labels, and remarks on what was not used."""

    items: list[Any]
    labels: list[Hashable]
    notes: list[str]


def is_folder(values: Any) -> bool:
    """Whether a user's X is the path of a folder."""
    return isinstance(values, str | Path) and os.path.isdir(os.path.expanduser(values))


def read_folder(path: str | Path) -> Taught:
    """The pictures of a folder that has a folder for each class. Of train, val and test folders, train is taken."""
    place = as_path(path)
    if not os.path.exists(place):
        raise InputError(
            f"There is no folder {str(path)!r}. Give a folder that has one folder of pictures for each class, or X and "
            "y."
        )
    listing = recognise(place)
    notes = [f"{name} was left out: {why}" for name, why in listing.skipped]
    if listing.unlisted:
        notes.append(f"{listing.unlisted} pictures in {place} are in no list of it, and were left out")
    numbers = np.arange(len(listing.labels))
    if listing.splits:
        split = next(name for name in ("train", "val", "test") if name in listing.splits)
        numbers = np.sort(listing.splits[split])
        others = [name for name in listing.splits if name != split]
        if others:
            notes.append(f"taught by the pictures in {split}; those in {' and '.join(others)} were left aside")
    empty = [name for name, why in listing.skipped if why == "a class folder with no image"]
    if empty:
        inside = [(name, why) for name, why in listing.skipped if name.startswith(f"{empty[0]}/")]
        found = f" ({len(inside)} in it left out: {inside[0][0]}, {inside[0][1]})" if inside else ""
        raise InputError(
            f"The class {Path(empty[0]).name!r} has no picture in {place}{found}: put one or more into {empty[0]}, or "
            "delete that folder."
        )
    pictures = listing.pictures
    items = [pictures.paths[n] if isinstance(pictures, FilePictures) else pictures[n].copy() for n in numbers.tolist()]
    return Taught(items, [listing.classes[listing.labels[n]] for n in numbers], notes)


def is_dataset(values: Any) -> bool:
    """Whether a user's X is a dataset as those of torch and Hugging Face are: examples with their labels, by number."""
    known = (list, tuple, str, Path, np.ndarray, Tensor, dict)
    is_table = any(hasattr(values, name) for name in ("to_numpy", "toarray", "__array__"))
    return (
        hasattr(values, "__len__") and hasattr(values, "__getitem__") and not isinstance(values, known) and not is_table
    )


def read_dataset(values: Any) -> Taught:
    """The examples of a dataset: pairs (x, y), or values by name, of which one is a label."""
    rows = [values[number] for number in range(len(values))]
    if not rows:
        raise InputError("The dataset is empty: give one or more examples of each class.")
    if isinstance(rows[0], Mapping):
        keys = [next((key for key in wanted if key in rows[0]), None) for wanted in (DATASET_ITEMS, DATASET_LABELS)]
        if None in keys:
            raise InputError(
                f"The examples of the dataset have {', '.join(map(str, rows[0]))}; an example needs one of "
                f"{', '.join(DATASET_ITEMS)} and one of {', '.join(DATASET_LABELS)}. Give X and y instead."
            )
        item, label = keys
        names = getattr((getattr(values, "features", None) or {}).get(label), "names", None)
        labels = [row[label] for row in rows]
        return Taught([row[item] for row in rows], [names[y] for y in labels] if names else labels, [])
    if not all(isinstance(row, tuple | list) and len(row) == 2 for row in rows):
        raise InputError("The examples of the dataset are no pairs (x, y): give X and y instead.")
    return Taught([row[0] for row in rows], [row[1] for row in rows], [])


def read_taught(values: Any, y: Any) -> tuple[Any, Any, list[str]]:
    """X, y and remarks, where X may be a folder or a dataset, which has the labels too."""
    if y is not None:
        return values, y, []
    if isinstance(values, str | Path):
        return read_folder(values)
    return read_dataset(values) if is_dataset(values) else (values, None, [])


def pictures_in(folder: str | Path) -> list[Path]:
    """All pictures in a folder and the folders below it, in the order of their names; hidden ones are left out."""
    place = as_path(folder)
    found = sorted(
        path
        for path in place.rglob("*")
        if is_picture(path.name) and path.is_file() and not _is_hidden(path.relative_to(place))
    )
    if not found:
        raise InputError(f"There is no picture in {place}.")
    return found


def _is_hidden(path: Path) -> bool:
    """Whether a path leads through a name that begins with a point: thumbnails, and what a Mac puts beside pictures."""
    return any(part.startswith(".") for part in path.parts)


def open_item(item: Any) -> Image.Image:
    """A picture among a user's examples as an image. What is no picture is an error of Pillow, or a ValueError."""
    if isinstance(item, Image.Image):
        return item
    if isinstance(item, str | Path):
        image = open_picture(Path(item))
        check_pixels(*image.size)
        return image
    raise ValueError(f"a {type(item).__name__} is no picture")


def check_ordered(name: str, values: Any) -> None:
    """Refuse what has its elements in no order of the user's."""
    if isinstance(values, set | frozenset | Mapping) and not hasattr(values, "toarray"):  # as sparse matrices have
        raise InputError(
            f"{name} is a {type(values).__name__}, which has no order of examples: give a list with one value for each."
        )


def read_items(values: Any) -> Items:
    """A user's X: numbers as a tensor `[n, ...]`, anything else as a list."""
    if values is None:
        raise InputError("X is None: give examples.")
    if is_folder(values):
        return pictures_in(values)
    if isinstance(values, str | Path | Image.Image):
        return [values]
    if hasattr(values, "toarray") and hasattr(values, "nnz"):
        raise InputError("X is a sparse matrix, and a dense one is needed: give X.toarray().")
    if hasattr(values, "to_numpy"):  # a table
        values = values.to_numpy()
    if isinstance(values, np.ndarray) and values.dtype == object:
        values = values.tolist()
    if isinstance(values, np.ndarray | Tensor):
        return _numbers(values)
    check_ordered("X", values)
    try:
        listed = list(values)
    except TypeError:
        raise InputError(f"X is a {type(values).__name__}: give a list of examples, or an array [n, ...].") from None
    if not listed:
        raise InputError("X is empty: give one or more examples.")
    if all(isinstance(item, str | Path | Image.Image) for item in listed):
        return listed
    if any(isinstance(item, bytes | bytearray | memoryview) for item in listed):
        raise _bytes_refused()
    if any(isinstance(item, str) for item in listed):  # NumPy would make texts of the others
        kinds = " and ".join(sorted({type(item).__name__ for item in listed}))
        raise InputError(f"X has examples of several kinds ({kinds}): give texts alone, or numbers, or paths.")
    if all(isinstance(item, np.ndarray | Tensor) for item in listed):
        shapes = {tuple(item.shape) for item in listed}
        if len(shapes) > 1:
            return listed
        arrays = [as_array(item) for item in listed]
        if arrays[0].ndim > 1 and len({array.dtype.kind == "b" for array in arrays}) > 1:
            arrays = [array * np.uint8(255) if array.dtype.kind == "b" else array for array in arrays]  # white is 255
        return _numbers(np.stack(arrays))
    try:
        return _numbers(np.asarray(listed))
    except ValueError:
        raise InputError(
            "X has examples of several kinds or lengths. Give paths, images, texts, or arrays of one shape."
        ) from None


def _numbers(values: Any) -> Items:
    array = as_array(values)
    if array.dtype.kind == "S":
        raise _bytes_refused()
    if array.dtype.kind == "U":
        return [str(item) for item in array.reshape(-1)] if array.ndim == 1 else array.tolist()
    if array.dtype.kind not in "fiub":
        raise InputError(f"X holds values of type {array.dtype}: give numbers, pictures or texts.")
    if array.ndim < 1 or len(array) == 0:
        raise InputError(f"X has the shape {list(array.shape)}: give one or more examples, [n, ...].")
    if (
        array.dtype.kind in "iu"
        and array.dtype.itemsize == 8
        and (array.astype(np.float64).astype(array.dtype) != array).any()
    ):
        raise InputError(
            "X holds whole numbers beyond 2**53, whose last digits a model cannot tell apart: subtract a large number "
            "from all of them first, such as the smallest one."
        )
    return torch.from_numpy(np.require(array, _KEPT.get(array.dtype.name), ["C", "W"]))  # copied only where it must be


def _bytes_refused() -> InputError:
    return InputError(
        "X holds bytes. Texts: decode them first, [item.decode() for item in X]. Pictures: give the path of the file, "
        "or PIL.Image.open(io.BytesIO(item))."
    )


_KEPT = {"float16": np.float32, "uint16": np.int32, "uint32": np.int64, "uint64": np.float64}
"""What numbers become that torch cannot compute with; the others are kept as they are."""


def refuse_single_picture(items: Tensor) -> None:
    """Refuse numbers that are likely one picture in colour, `[height, width, 3]`, where several are wanted."""
    if items.ndim == 3 and items.shape[-1] in (3, 4):
        raise InputError(
            f"X has the shape {list(items.shape)}, which seems to be one picture in colour. Give a list of pictures, "
            f"or X[None], {[1, *items.shape]}. Grey pictures that are {items.shape[-1]} wide: give X[:, None]."
        )


def as_pictures(items: Items) -> Sequence[Any] | None:
    """The pictures among items; None for floating-point numbers, which are inputs as they are.

    Bytes and other integers are pictures, with values from 0 to 255; truth values are black and white.
    """
    if not isinstance(items, Tensor):
        return items
    if items.is_floating_point():
        return None
    refuse_single_picture(items)
    return list(items)


def as_inputs(
    items: Items, shape: Sequence[int] | None, what: str, dtype: torch.dtype | None = torch.float32
) -> Tensor:
    """Numbers as the inputs of a net, `[n, *shape]`. `what` says whose they are; a dtype of None keeps their own."""
    if not isinstance(items, Tensor):
        kind = type(items[0]).__name__
        raise InputError(
            f"{what} takes arrays of numbers, and X holds {kind} values. For pictures or texts, give a base that reads "
            "them, such as base='photos' or base='text'."
        )
    if items.ndim < 2:
        raise InputError(
            f"X has the shape {list(items.shape)}, and {what} takes an array with an axis of examples, [n, ...]. "
            "Reshape your data: X.reshape(-1, 1) if it is one feature, X.reshape(1, -1) if it is one example."
        )
    if shape is not None and tuple(items.shape[1:]) != tuple(shape):
        raise InputError(
            f"X has the shape {list(items.shape)}, and {what} takes inputs of the shape {list(shape)}: give "
            f"[n, {', '.join(map(str, shape))}]."
        )
    if items.dtype == torch.bool:
        items = items.float()
    x = items if dtype is None else items.to(dtype)
    finite = x.isfinite().reshape(len(x), -1).all(1)
    if not finite.all():
        bad = (~finite).nonzero().flatten().tolist()
        raise InputError(
            f"X holds NaN or infinity in {len(bad)} of {len(x)} examples, first in example {bad[0]}. Repair these, or "
            "leave them out."
        )
    return x
