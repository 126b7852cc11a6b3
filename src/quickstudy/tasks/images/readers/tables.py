"""Tables: csv, tsv or parquet with a column of paths, a column of classes, and optionally one of splits.

Known headers: `filename,label` (Ravi & Larochelle: train.csv, val.csv and test.csv beside images/),
`class_name,image_name` (EasyFSL), `path,label[,split]` and `image,label`. Other columns are ignored. Paths are relative
to the folder of the table, to its images/ folder or to the root, or to a folder named after the class in one of these.
"""

import csv
import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from io import StringIO
from pathlib import Path

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.tasks.images.limits import check_unpacked
from quickstudy.tasks.images.listing import Listing
from quickstudy.tasks.images.readers.gather import NO_SPLIT, SPLIT_NAMES, explain_damage, list_folder, split_of
from quickstudy.tasks.images.readers.lists import ListEntry, listing_of_entries

PATH_COLUMNS = ("path", "filename", "image_name", "image", "file", "filepath")
LABEL_COLUMNS = ("label", "class_name", "class")
SUFFIXES = (".csv", ".tsv", ".parquet")
KNOWN_HEADERS = "filename,label | class_name,image_name | path,label[,split] | image,label"


def read_table(path: Path) -> Listing | None:
    """Tables (csv, tsv, parquet) of paths and classes: {train,val,test}.csv or one file, headers as filename,label."""
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            return None
        _refuse_unknown_columns([path])
        return _list_tables([path], path.parent)
    for folder in (path, path / "splits"):
        files = _find_tables(folder)
        divided = [file for file in files if split_of(file.stem)]
        known = [file for file in divided or files if _find_columns(_table_lines(file)) is not None]
        if known and (len(known) == 1 or divided):
            if divided:  # without one of them its split would be missing
                _refuse_unknown_columns(divided, f" Or give the path of one table, such as {known[0]}.")
            others = [file for file in files if file not in divided] if divided else []
            left = [(file.relative_to(path).as_posix(), NO_SPLIT) for file in others]
            found = _list_tables(known, path)
            return replace(found, skipped=[*found.skipped, *left])
        if known:
            raise InputError(
                f"{folder} has several tables ({', '.join(file.name for file in known)}): give the path of one, or "
                "name them train.csv, val.csv and test.csv."
            )
    return None


def _refuse_unknown_columns(files: list[Path], advice: str = "") -> None:
    for file in files:
        if _find_columns(_table_lines(file)) is None:
            header = next(_table_lines(file), ("", ["nothing"]))[1]
            raise InputError(f"{file} has the columns {', '.join(header)}. Known headers are: {KNOWN_HEADERS}.{advice}")


def unread_tables(path: Path) -> Iterator[tuple[str, str]]:
    """The tables in or under a folder that have no known columns, as (name, reason): nothing of them is used."""
    for file in (*_find_tables(path), *_find_tables(path / "splits")):
        if _find_columns(_table_lines(file)) is None:
            columns = ", ".join(next(_table_lines(file), ("", []))[1]) or "none"
            reason = f"a table that is not read: its columns are {columns}, known headers {KNOWN_HEADERS}"
            yield file.relative_to(path).as_posix(), reason


def _find_tables(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    named = [Path(e.path) for e in list_folder(folder) if e.name.lower().endswith(SUFFIXES)]
    return [file for file in named if file.is_file()]


def _list_tables(files: list[Path], root: Path) -> Listing:
    splits = [split for file in files if (split := split_of(file.stem))]
    if len(set(splits)) < len(splits):
        names = ", ".join(file.name for file in files)
        raise InputError(f"Of the tables {names} in {files[0].parent} two mean the same split: rename or remove one.")
    found = _TableFiles(root)
    entries = [entry for file in files for entry in _table_entries(file, root, found)]
    return listing_of_entries(
        f"tables of paths and classes ({', '.join(file.name for file in files)})", entries, found, root
    )


class _TableFiles:
    """Finds the file of an entry in the folders that its path may be relative to, the one with the last file first."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.places: list[tuple[str, bool]] = []

    def start(self, folder: str) -> None:
        near = dict.fromkeys((folder, posixpath.normpath(f"{folder}/images"), ".", "images"))
        bases = [base for base in near if (self.root / base).is_dir()]
        self.places = [place for base in bases for place in ((base, False), (base, True))]

    def __call__(self, entry: ListEntry) -> str | None:
        for place in self.places:
            base, by_class = place
            name = posixpath.normpath("/".join((base, entry.label, entry.path) if by_class else (base, entry.path)))
            if not name.startswith("../") and os.path.isfile(self.root / name):
                self.places.remove(place)
                self.places.insert(0, place)
                return name
        return None


def _table_lines(file: Path) -> Iterator[tuple[str, list[str]]]:
    """The lines of a table as (place, fields). The first is the header."""
    if file.suffix.lower() == ".parquet":
        yield from _parquet_lines(file)
        return
    try:
        # utf-8-sig: spreadsheet programs write a byte order mark before the first column.
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 (byte {error.start}): save it as UTF-8.") from error
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    # strict: else a quote that is not closed would take the rest of the file into one name
    reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    read = 0
    try:
        for fields in reader:
            read = reader.line_num
            if any(fields):
                yield f"line {read} of {file.name}", fields
    except csv.Error as error:
        what = "a quote is not closed" if reader.line_num > read + 1 or "end of data" in str(error) else str(error)
        raise InputError(f"Line {read + 1} of {file} cannot be read: {what}.") from error


def _parquet_lines(file: Path) -> Iterator[tuple[str, list[str]]]:
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError as error:
        raise InputError(
            f"{file} is a parquet table, and pyarrow, which reads it, is not installed: pip install pyarrow, or save "
            "the table as csv."
        ) from error
    with explain_damage(f"{file} cannot be read as parquet"):
        about = parquet.read_metadata(str(file))
        check_unpacked(file, file.stat().st_size, 50 * about.num_rows * about.num_columns)  # bytes of a Python string
        columns = parquet.read_table(str(file)).to_pydict()
    yield "the header", list(columns)
    for number, values in enumerate(zip(*columns.values(), strict=True)):
        yield f"row {number} of {file.name}", ["" if value is None else str(value) for value in values]


def _find_columns(lines: Iterator[tuple[str, list[str]]]) -> tuple[int, int, int | None] | None:
    """The indices of the columns for path, class and split; None if the header has no path or no class."""
    header = [field.strip().lower() for field in next(lines, ("", []))[1]]
    path = next((header.index(name) for name in PATH_COLUMNS if name in header), None)
    label = next((header.index(name) for name in LABEL_COLUMNS if name in header), None)
    if path is None or label is None:
        return None
    return path, label, header.index("split") if "split" in header else None


def _table_entries(file: Path, root: Path, found: _TableFiles) -> Iterator[ListEntry]:
    lines = _table_lines(file)
    columns = _find_columns(lines)
    assert columns is not None, "the callers have checked the header"
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
                f"{written!r} ({where}, {file}) is an absolute path, which exists on one machine only: write paths "
                "relative to the folder of the table."
            )
        if posixpath.normpath(posixpath.join(folder, written)).startswith(".."):
            raise InputError(
                f"{written!r} ({where}, {file}) leads out of {root}: put the pictures below this folder and write "
                "paths relative to it."
            )
        yield ListEntry(written, label, split, where)
