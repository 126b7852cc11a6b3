"""Ways to damage bytes, plain values, arrays and folders. Every choice is drawn from the `Random` that is given."""

import json
import os
import shutil
import struct
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml

EXTREME = (
    None, True, False, 0, -1, 1, 2, 2**31, 2**63, 2**64, 10**19, 10**30, -(10**12), 0.5, -0.0, 1e-320, 1e308,
    float("nan"), float("inf"), "", " ", "nan", "-inf", "1", "a,b", "x" * 3000, "a\nb", "\x1b[31m\rred\x07", "\u202e",
    "../guard/thesis.txt", "/etc/passwd", "os:system", "quickstudy.storage.files:write_atomic", "${HOME}", "{{ 1 }}",
    "<script>", "[[x]]", "null", [], {}, [[]], [1, [2]], [None] * 5, {"": {}}, {"a": [1, "b", None]}, [0] * 2000,
)  # fmt: skip
NAMES = (
    "a\x1b[31m\rred", "new\nline", "\x07", "-rf", "--json", "'", '"', " ", "x" * 200, "\udcff\udc80", "\u202egnp",
    "a.zip", "x.csv", "train", "train.csv", "last.safetensors", "test.json", "index.json", "con", "%s%n", "{0}",
    "e\u0301",
)  # fmt: skip
TOKENS = (
    b"\0" * 8, b"\xff" * 8, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\x80", b"9" * 30, b"-1", b"nan",
    b"[" * 3000, b"{\"a\":" * 2000, b"\n", b"\r\n", b"\0", b"\x1b[2J", b"\xef\xbb\xbf",
    b"../guard/thesis.txt", b"\xff\xfe",
    b"cos\nsystem\n(S'touch was-run'\ntR.", b"\x93NUMPY", b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b\x08",
    b"%!PS-Adobe-3.0 EPSF-3.0\n", b"!!python/object/apply:os.system ['touch was-run']", b"&a [*a]", b"<<: *a", b"1e999",
    b"\xed\xa0\x80", b'"\\ud800"',
)  # fmt: skip


def change_bytes(random: Random, data: bytes) -> bytes:
    """Flip, cut, repeat, swap and overwrite pieces. Half of them are near an end, where formats keep their headers."""
    for _ in range(random.randint(1, 4)):
        at, then = _place(random, data), _place(random, data)
        length = random.choice((1, 1, 2, 4, 8, 64))
        piece, rest = data[at : at + length], data[at + length :]
        how = random.randint(0, 7)
        if how <= 1 and piece:
            data = data[:at] + bytes([piece[0] ^ (1 << random.randint(0, 7))]) + data[at + 1 :]
        elif how == 2:
            data = data[:at]
        elif how == 3:
            data = data[:at] + rest
        elif how == 4:
            data = data[:then] + piece + data[then:]
        elif how == 5:
            data = data[:at] + data[then : then + length] + rest
        elif how == 6:
            data = data[:at] + random.choice(TOKENS) + random.choice((rest, data[at:]))
        else:
            number = random.choice((0, 1, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1))
            packed = struct.pack(random.choice("<>") + "Q", number)[: random.choice((1, 2, 4, 8))]
            data = data[:at] + packed + data[at + len(packed) :]
    return data


def _place(random: Random, data: bytes) -> int:
    near = min(64, len(data))
    return random.choice((random.randint(0, len(data)), random.randint(0, near), len(data) - random.randint(0, near)))


def change_value(random: Random, value: Any) -> Any:
    """A copy of plain values (dictionaries, lists, numbers, texts) with a few of its parts changed."""
    value = _copy(value)
    for _ in range(random.choice((1, 1, 2, 3))):
        places = list(_find_places(value))
        if not places:
            return _copy(random.choice(EXTREME))
        inside, key = random.choice(places)
        how = random.randint(0, 9)
        if how <= 4:
            alike = [one for one in EXTREME if type(one) is type(inside[key])]
            inside[key] = _copy(random.choice(alike if alike and random.randint(0, 1) else EXTREME))
        elif how == 5:
            inside[key] = _copy(random.choice(([inside[key]], {"name": inside[key]}, str(inside[key]))))
        elif how == 6:
            del inside[key]
        elif how == 7:
            other, there = random.choice(places)
            inside[key] = _copy(other[there])
        elif isinstance(inside, dict):
            inside[random.choice(NAMES)] = inside.pop(key) if how == 8 else _copy(inside[key])
        else:
            inside.extend(_copy(inside) * random.choice((1, 50)))
    return value


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list | tuple) else value


def _find_places(value: Any):
    """Every place in lists and dictionaries, as the pair of a container and a key."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield value, key
        yield from _find_places(item)


@np.errstate(all="ignore")
def change_array(random: Random, array: Any) -> Any:
    """An array of another shape, type or contents."""
    array = np.asarray(array)
    types = ("f8", ">f8", "f2", "i8", "u1", "?", "c16", "U3", "S2", "O", "M8[s]", "V4")
    shapes = ((), (0,), (1,), (-1,), (-1, 1), (1, -1), (1, 1, -1))
    how = random.randint(0, 5)
    if how == 0:
        kind = random.choice(types)
        known = kind[0] not in "MV" and array.dtype.kind in "fiub"
        return array.astype(kind) if known else np.zeros(array.shape, kind)
    if how == 1:
        shape = random.choice(shapes)
        return array.reshape(shape) if -1 in shape and array.size else np.zeros(shape, array.dtype)
    if how == 2:
        return array[: random.randint(0, len(array))] if array.ndim else array[None]
    if how == 3:
        return np.concatenate([array.reshape(-1), array.reshape(-1)])
    if how == 4 and array.dtype.kind in "fiu":
        extreme = (
            (np.nan, np.inf, 1e308)
            if array.dtype.kind == "f"
            else (np.iinfo(array.dtype).max, np.iinfo(array.dtype).min)
        )
        changed = array.copy()
        changed.reshape(-1)[: random.choice((1, None))] = random.choice(extreme)
        return changed
    return np.zeros((random.choice((1, 3, 12)),) * random.randint(1, 5), random.choice(("f4", "i8", "u1")))


def change_folder(random: Random, root: Path, place: Path | None = None) -> None:
    """Give a file another name, or put a link, a pipe, a folder or nothing in its place.

    Args:
        random: Decides which.
        root: The folder that holds the file.
        place: The folder that holds `guard`; by default the one above.
    """
    place = place or root.parent
    entries = sorted(path for path in root.rglob("*") if not path.is_symlink())
    path = random.choice(entries)
    up = "../" * len(path.relative_to(place).parent.parts)
    how = random.randint(0, 6)
    if how == 0:
        path.rename(path.with_name(random.choice(NAMES) + random.choice(("", path.suffix))))
        return
    if how == 1:
        other = random.choice([one for one in entries if one.is_file()])
        data = other.read_bytes()
        if path.is_file():
            path.write_bytes(data)
        else:
            (path / random.choice(NAMES)).write_bytes(data)
        return
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if how == 2:
        path.symlink_to(
            random.choice((f"{up}guard/thesis.txt", f"{up}guard", path.name, "nowhere", ".", "/dev/zero", up))
        )
    elif how == 3:
        os.mkfifo(path)
    elif how == 4:
        path.mkdir()
    elif how == 5:
        path.hardlink_to(place / "guard" / "thesis.txt")


def change_file(random: Random, path: Path) -> None:
    """Damage one file: its bytes, or the values that it holds; these can be read, and are then odd."""
    change = {".json": _change_json, ".jsonl": _change_lines, ".log": _change_lines, ".yaml": _change_yaml,
              ".npz": _change_npz, ".npy": _change_npy}.get(path.suffix)  # fmt: skip
    if change is None or random.randint(0, 3) == 0:
        path.write_bytes(change_bytes(random, path.read_bytes()))
    else:
        change(random, path)


def _change_json(random: Random, path: Path) -> None:
    path.write_text(json.dumps(change_value(random, json.loads(path.read_bytes()))))


def _change_lines(random: Random, path: Path) -> None:
    lines = change_value(random, [json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) if isinstance(lines, list) else "")


def _change_yaml(random: Random, path: Path) -> None:
    text = yaml.safe_dump(change_value(random, yaml.safe_load(path.read_text())), allow_unicode=True)
    path.write_text(text, errors="surrogateescape")


def _change_npz(random: Random, path: Path) -> None:
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    for _ in range(random.randint(1, 2)):
        name = random.choice(sorted(arrays))
        arrays[name] = change_array(random, arrays[name])
        if random.randint(0, 5) == 0:
            arrays[random.choice((*arrays, *NAMES[:3], "x\0", "images", "../guard/x"))] = arrays.pop(name)
    random.choice((np.savez, np.savez_compressed))(path, **arrays)


def _change_npy(random: Random, path: Path) -> None:
    np.save(path, change_array(random, np.load(path)))
