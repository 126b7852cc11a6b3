"""Tables: csv or parquet with a column of paths and a column of classes, and maybe one of splits.

Known headers: `filename,label` (Ravi & Larochelle: train.csv, val.csv and test.csv beside images/),
`class_name,image_name` (EasyFSL), `path,label[,split]` and `image,label`; other columns are passed over. Paths are
relative to the table's folder, its images/ folder or the root; there they may stand in a folder named as the class.
"""

import csv
import os
import posixpath
import re
from collections.abc import Iterator
from importlib import import_module
from io import StringIO
from pathlib import Path

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.tasks.images.listing import Listing
from quickstudy.tasks.images.readers.gather import SPLIT_NAMES, scan, split_of
from quickstudy.tasks.images.readers.lists import Entry, listed

PATHS = ("path", "filename", "image_name", "image", "file", "filepath")
LABELS = ("label", "class_name", "class")
KNOWN = "filename,label | class_name,image_name | path,label[,split] | image,label"


def table(path: Path) -> Listing | None:
    """csv or parquet tables of paths and classes: {train,val,test}.csv or one file, headers as filename,label"""
    if path.is_file():
        if path.suffix.lower() not in (".csv", ".parquet"):
            return None
        if _columns(_lines(path)) is None:
            header = next(_lines(path), ("", ["nothing"]))[1]
            raise InputError(f"{path} has the columns {', '.join(header)}. Known headers are: {KNOWN}.")
        return _listing([path], path.parent)
    for folder in (path, path / "splits"):
        if not folder.is_dir():
            continue
        files = [Path(e.path) for e in scan(folder) if e.name.lower().endswith((".csv", ".parquet")) and e.is_file()]
        divided = [file for file in files if split_of(file.stem)]
        known = [file for file in divided or files if _columns(_lines(file)) is not None]
        if known and (len(known) == 1 or divided):
            return _listing(known, path)
        if known:
            raise InputError(
                f"{folder} has several tables ({', '.join(file.name for file in known)}): give the path of one, or "
                "name them train.csv, val.csv and test.csv."
            )
    return None


def _listing(files: list[Path], root: Path) -> Listing:
    splits = [split for file in files if (split := split_of(file.stem))]
    if len(set(splits)) < len(splits):
        names = ", ".join(file.name for file in files)
        raise InputError(f"Of the tables {names} in {files[0].parent} two mean the same split: rename or remove one.")
    found = _Found(root)
    entries = [entry for file in files for entry in _entries(file, root, found)]
    return listed(f"tables of paths and classes ({', '.join(file.name for file in files)})", entries, found, root)


class _Found:
    """Looks where a table's paths may be relative to; the place that held the last file is tried first."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.places: list[tuple[str, bool]] = []

    def start(self, folder: str) -> None:
        near = dict.fromkeys((folder, posixpath.normpath(f"{folder}/images"), ".", "images"))
        bases = [base for base in near if (self.root / base).is_dir()]
        self.places = [place for base in bases for place in ((base, False), (base, True))]

    def __call__(self, entry: Entry) -> str | None:
        for place in self.places:
            base, by_class = place
            name = posixpath.normpath("/".join((base, entry.label, entry.path) if by_class else (base, entry.path)))
            if not name.startswith("../") and os.path.isfile(self.root / name):
                self.places.remove(place)
                self.places.insert(0, place)
                return name
        return None


def _lines(file: Path) -> Iterator[tuple[str, list[str]]]:
    """Where a line stands and its fields; the first is the header."""
    if file.suffix.lower() == ".parquet":
        yield from _parquet(file)
        return
    try:
        # utf-8-sig: spreadsheets put a mark before the first column's name.
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 (byte {error.start}): save it as UTF-8.") from error
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter)
    try:
        for fields in reader:
            if any(fields):
                yield f"line {reader.line_num} of {file.name}", fields
    except csv.Error as error:
        raise InputError(f"Line {reader.line_num} of {file} cannot be read: {error}.") from error


def _parquet(file: Path) -> Iterator[tuple[str, list[str]]]:
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError as error:
        raise InputError(
            f"{file} is a parquet table, which pyarrow reads and which is not installed: pip install pyarrow, or save "
            "the table as csv."
        ) from error
    try:
        columns = parquet.read_table(str(file)).to_pydict()
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as parquet: {error}.") from error
    yield "the header", list(columns)
    for number, values in enumerate(zip(*columns.values(), strict=True)):
        yield f"row {number} of {file.name}", ["" if value is None else str(value) for value in values]


def _columns(lines: Iterator[tuple[str, list[str]]]) -> tuple[int, int, int | None] | None:
    """Which columns hold the path, the class and the split; None when the header names no path or no class."""
    header = [field.strip().lower() for field in next(lines, ("", []))[1]]
    path = next((header.index(name) for name in PATHS if name in header), None)
    label = next((header.index(name) for name in LABELS if name in header), None)
    if path is None or label is None:
        return None
    return path, label, header.index("split") if "split" in header else None


def _entries(file: Path, root: Path, found: _Found) -> Iterator[Entry]:
    lines = _lines(file)
    columns = _columns(lines)
    assert columns is not None, "only tables with a known header come here"
    at_path, at_label, at_split = columns
    folder = file.parent.relative_to(root).as_posix()
    found.start(folder)
    for where, fields in lines:
        if len(fields) <= max(at_path, at_label, at_split or 0):
            raise InputError(f"{file}: {where} has {len(fields)} fields, fewer than the header names.")
        written, label = fields[at_path].strip().replace("\\", "/"), fields[at_label].strip()
        split = split_of(file.stem)
        if at_split is not None:
            split = split_of(fields[at_split].strip())
            if split is None:
                known = suggest_nearest(fields[at_split], SPLIT_NAMES)
                raise InputError(f"There is no split {fields[at_split]!r} ({where}, {file}). {known}")
        if not written or not label:
            raise InputError(f"{file}: {where} has no {'class' if written else 'path'}: complete it.")
        if written.startswith("/") or re.match("[A-Za-z]:", written):
            raise InputError(
                f"{written!r} ({where}, {file}) is an absolute path, which no other machine has: write paths relative "
                "to the table's folder."
            )
        if posixpath.normpath(posixpath.join(folder, written)).startswith(".."):
            raise InputError(
                f"{written!r} ({where}, {file}) leads out of {root}: keep the pictures below it and write their paths "
                "from there."
            )
        yield Entry(written, label, split, where)
