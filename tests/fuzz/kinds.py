"""The kinds of files that may come from elsewhere: a healthy example of each, how it is damaged, and what reads it."""

import csv
import gzip
import hashlib
import io
import json
import pickle
import shutil
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
import yaml
from lawful import prepare_place, run_apart
from mutations import EXTREME, NAMES, change_array, change_bytes, change_file, change_folder, change_value
from PIL import Image
from safetensors.torch import load_file, save_file

import quickstudy
from quickstudy.storage.checkpoints import hash_tensors, read_checkpoint
from quickstudy.storage.files import dumps
from quickstudy.storage.model_files import CONFIG_FILE, TENSORS_FILE
from quickstudy.tasks.images import downloads

NOISE = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
SINE = {
    "tasks": {"name": "sine", "shots": 3, "queries": 3},
    "model": {"name": "mlp", "hidden": [4], "std": None},
    "method": {"name": "mtnet", "inner_lr": 0.01},
    "train": {"steps": 2, "meta_batch_size": 2, "log_every": 1, "validate_tasks": 2, "validate_every": 1},
    "evaluate": {"tasks": 3},
}
PICTURES = {
    **SINE,
    "tasks": {"name": "folder", "path": "given", "ways": 2, "queries": 1, "size": 8, "split": "image"},
    "train": {"steps": 2, "meta_batch_size": 2, "validate_every": 0},
    "method": {"name": "maml", "inner_lr": 0.01},
}


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Args:
        make: Fills a place with healthy input: `place/given`, and what else it needs.
        change: Damages the place; it may return words to be added to the command.
        commands: What reads the input; one of them is drawn.
        writable: Folders of the place that the commands may write to.
        count: How many inputs the quick suite tries.
    """

    make: Callable[[Path], None]
    change: Callable[[Random, Path], Sequence[str] | None]
    commands: Sequence[str]
    writable: Sequence[str] = ()
    count: int = 12


def command(place: Path, words: str) -> None:
    """Run a command that must succeed, to make healthy input."""
    done = run_apart(words.split(), place, ("run", "given"))
    assert done.code == 0, done


# -- runs --


def make_run(place: Path) -> None:
    (place / "sine.yaml").write_text(yaml.safe_dump(SINE))
    command(place, "train sine.yaml --out run --quiet --no-tensorboard")
    command(place, "evaluate run --quiet")
    settings = (place / "run" / "config.yaml").read_text()
    (place / "run" / "config.yaml").write_text(settings.replace("steps: 2\n", "steps: 3\n"))  # so that it can go on


def make_picture_run(place: Path) -> None:
    make_pictures(place)
    (place / "pictures.yaml").write_text(yaml.safe_dump(PICTURES))
    command(place, "train pictures.yaml --out run --quiet --no-tensorboard")
    command(place, "evaluate run --quiet")


SHIPPED = sorted((Path(quickstudy.__file__).parent / "configs").glob("*.yaml"))


def change_config(random: Random, place: Path) -> None:
    if random.randint(0, 1):
        shutil.copy(random.choice(SHIPPED), place / "sine.yaml")
    change_file(random, place / "sine.yaml")


def change_overrides(random: Random, place: Path) -> list[str]:
    path = random.choice(["", *(f"{part}.{key}" for part, options in SINE.items() for key in options), *SINE])
    words = [f"--{path or random.choice(NAMES)}", _as_word(random, random.choice(EXTREME))]
    if random.randint(0, 2) == 0:
        words = ["=".join(words)]
    if random.randint(0, 3) == 0:
        words.insert(random.randint(0, len(words)), random.choice(NAMES))
    return words


def _as_word(random: Random, value: object) -> str:
    text = random.choice((str, json.dumps, yaml.safe_dump))(value)
    return change_bytes(random, text.encode()).decode(errors="replace") if random.randint(0, 2) == 0 else text


def change_checkpoint(random: Random, place: Path) -> None:
    """As bytes; in the header of the file; or as whoever can make a right hash would."""
    path = place / "run" / "checkpoints" / random.choice(("best.safetensors", "last.safetensors"))
    how, data = random.randint(0, 4), path.read_bytes()
    if how == 0:
        path.write_bytes(change_bytes(random, data))
    elif how == 1:
        size = int.from_bytes(data[:8], "little")
        header = json.dumps(change_value(random, json.loads(data[8 : 8 + size]))).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
    else:
        tensors, state = load_file(path), read_checkpoint(path).state
        if how != 2:
            state = change_value(random, state)
        if how != 3:
            name = random.choice(sorted(tensors))
            tensors[name] = _change_tensor(random, tensors[name])
            if random.randint(0, 4) == 0:
                tensors[random.choice((*tensors, *NAMES[:8]))] = tensors.pop(name)
        text = dumps(state).encode(errors="replace").decode()
        save_file(tensors, path, {"format": "1", "state": text, "sha256": hash_tensors(tensors, text)})


def _change_tensor(random: Random, tensor: torch.Tensor) -> torch.Tensor:
    if random.randint(0, 3) == 0:
        return tensor.to(random.choice((torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool)))
    changed = change_array(random, tensor.numpy())
    native = changed.dtype.newbyteorder("=")
    plain = changed.astype(native) if native.kind in "fiub" else np.zeros(changed.shape, bool)
    return torch.zeros(plain.shape, dtype=torch.from_numpy(plain).dtype) if plain.size == 0 else torch.tensor(plain)


def change_run_file(*patterns: str) -> Callable[[Random, Path], None]:
    """Damage one file of a run that has one of these names."""

    def change(random: Random, place: Path) -> None:
        found = sorted(path for pattern in patterns for path in (place / "run").glob(pattern))
        for path in random.sample(found, random.randint(1, min(2, len(found)))):
            change_file(random, path)

    return change


def change_run_folder(random: Random, place: Path) -> None:
    for _ in range(random.randint(1, 2)):
        change_folder(random, place / "run")


def make_sweep(place: Path) -> None:
    (place / "sine.yaml").write_text(yaml.safe_dump(SINE))
    command(place, f"{SWEEP} --trials 2")


SWEEP = "sweep sine.yaml --search.method.inner_lr 0.01..0.1 --search.method.inner_steps 1,2 --out run --quiet"


def change_sweep(random: Random, place: Path) -> None:
    if random.randint(0, 3) == 0:
        change_folder(random, place / "run")
    else:
        change_file(random, place / "run" / "journal.log")


def make_readings(place: Path) -> None:
    command(place, PAPER)


PAPER = "reproduce wormhole figure-4 --scale smoke --out run --quiet"


# -- data sets --


def make_pictures(place: Path) -> None:
    formats = ("png", "gif", "tif", "webp", "bmp", "jpg", "ppm", "png")
    for number, suffix in enumerate((*formats, *formats)):
        folder = place / "given" / "ab"[number // len(formats)]
        folder.mkdir(exist_ok=True)
        shown = Image.fromarray(NOISE[number])
        (shown.convert("I;16") if number % len(formats) == 7 else shown).save(folder / f"{number}.{suffix}")


def change_picture(random: Random, place: Path) -> None:
    for path in random.sample(sorted((place / "given").rglob("*.*")), random.randint(1, 4)):
        change_file(random, path)


def change_data(random: Random, place: Path) -> None:
    """Damage any file of a set, or the folder that holds it."""
    files = sorted(path for path in (place / "given").iterdir() if path.is_file())
    if random.randint(0, 5) == 0:
        change_folder(random, place / "given")
    else:
        change_file(random, random.choice(files or sorted((place / "given").rglob("*.*"))))


def make_npz(place: Path) -> None:
    arrays = {"images": NOISE // 8, "labels": np.arange(24) % 3, "names": np.array(["a", "b", "c"])}
    np.savez_compressed(place / "given" / "x.npz", **arrays)


def make_idx(suffix: str) -> Callable[[Path], None]:
    def make(place: Path) -> None:
        for kind, values in (("images-idx3", NOISE[..., 0]), ("labels-idx1", np.arange(24, dtype=np.uint8) % 3)):
            data = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
            name = place / "given" / f"train-{kind}-ubyte{suffix}"
            name.write_bytes(gzip.compress(data) if suffix else data)

    return make


def make_table(place: Path) -> None:
    make_pictures(place)
    files = sorted(path.relative_to(place / "given") for path in (place / "given").rglob("*.*"))
    with (place / "given" / "x.csv").open("w", newline="") as opened:
        rows = csv.writer(opened)
        rows.writerow(("path", "label", "split"))
        rows.writerows((path, path.parent, "train") for path in files)


def change_table(random: Random, place: Path) -> None:
    path = place / "given" / "x.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    if random.randint(0, 2):
        rows = change_value(random, rows)
        lines = (
            [",".join(map(str, row)) if isinstance(row, list) else str(row) for row in rows]
            if isinstance(rows, list)
            else []
        )
        path.write_text("\n".join(lines), errors="surrogateescape")
    else:
        change_file(random, path)


def make_lists(place: Path) -> None:
    make_pictures(place)
    for number, (split, name) in enumerate((("base", "a"), ("novel", "b"))):
        names = [str(path) for path in sorted((place / "given" / name).iterdir())]
        content = {"label_names": ["a", "b"], "image_names": names, "image_labels": [number] * len(names)}
        (place / "given" / f"{split}.json").write_text(json.dumps(content))


def make_class_lists(place: Path) -> None:
    make_pictures(place)
    (place / "given" / "images").mkdir()
    for name in "ab":
        (place / "given" / name).rename(place / "given" / "images" / name)
    for split, name in (("train", "a"), ("val", "b")):
        (place / "given" / f"{split}.json").write_text(json.dumps({"class_names": [name]}))


def make_zip(place: Path) -> None:
    make_pictures(place)
    shutil.make_archive(str(place / "x"), "zip", place / "given")
    shutil.rmtree(place / "given")
    (place / "given").mkdir()
    (place / "x.zip").rename(place / "given" / "x.zip")


def change_zip(random: Random, place: Path) -> None:
    """As bytes; or members with other names, kinds, contents and ways to be packed."""
    path = place / "given" / "x.zip"
    if random.randint(0, 2) == 0:
        path.write_bytes(change_bytes(random, path.read_bytes()))
        return
    with zipfile.ZipFile(path) as old:
        members = [(name, old.read(name)) for name in old.namelist()]
    chosen = random.randint(0, len(members) - 1)
    with zipfile.ZipFile(path, "w") as new:
        for at, (name, data) in enumerate(members):
            about = zipfile.ZipInfo(name)
            about.compress_type = random.choice(
                (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
            )
            if at == chosen:
                about.filename = random.choice((*(f"a/{name}.png" for name in MEMBERS), *MEMBERS, name))
                about.external_attr = random.choice((0, (stat.S_IFLNK | 0o777) << 16, (stat.S_IFIFO | 0o666) << 16))
            odd = (data, b"../guard", bytes(10**7), change_bytes(random, data))
            new.writestr(about, random.choice(odd) if at == chosen else data)


MEMBERS = (
    "../guard/x", "/tmp/x", "..\\x", "C:x", "a/../../guard/x", "./a", "", "/", "\x1b[31mx", "new\nline",
    "x" * 300, "\u202egnp", "a/b/c/d/e", "e\u0301/x", "\xe9/x",
)  # fmt: skip


def make_tar(place: Path) -> None:
    """An archive as `data prepare` downloads it, in the place where a complete download would be."""
    make_pictures(place)
    part = place / "out" / ".cub.part"
    part.mkdir()
    with tarfile.open(part / "x.tgz", "w:gz") as tar:
        tar.add(place / "given", "CUB_200_2011/images")
    _publish(part / "x.tgz")


def change_tar(random: Random, place: Path) -> None:
    path = place / "out" / ".cub.part" / "x.tgz"
    how = random.randint(0, 3)
    raw = gzip.decompress(path.read_bytes())
    if how == 0:
        path.write_bytes(change_bytes(random, path.read_bytes()))
    elif how == 1:
        path.write_bytes(gzip.compress(change_bytes(random, raw)))
    else:
        packed = io.BytesIO()
        with tarfile.open(fileobj=io.BytesIO(raw)) as old, tarfile.open(fileobj=packed, mode="w:gz") as new:
            members = old.getmembers()
            chosen = random.choice(members)
            for member in members:
                data = old.extractfile(member)
                if member is chosen:
                    member.name = random.choice(
                        (*(f"CUB_200_2011/images/{name}" for name in MEMBERS), *MEMBERS, member.name)
                    )
                    member.type = random.choice(
                        (
                            tarfile.REGTYPE,
                            tarfile.SYMTYPE,
                            tarfile.LNKTYPE,
                            tarfile.FIFOTYPE,
                            tarfile.CHRTYPE,
                            tarfile.DIRTYPE,
                        )
                    )
                    member.linkname = random.choice(("../../guard", "/etc/passwd", "a/0.png", str(place / "guard")))
                    member.mode = random.choice((0o644, 0o7777, 0))
                new.addfile(member, data if member.isreg() else None)
        path.write_bytes(packed.getvalue())
    _publish(path)


def _publish(path: Path) -> None:
    """Let the archive be the one that was published, so that its hash is right."""
    known, size = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
    remote = downloads.Remote("https://localhost/x.tgz", f"sha256:{known}", size, "CUB_200_2011/images/*")
    downloads.SOURCES["cub"] = downloads.Source("cub", [remote], "none", "nowhere")


def make_pickles(place: Path) -> None:
    for split, protocol in (("train", 2), ("val", 4)):
        names = {f"{split} a": 0, f"{split} b": 1, f"{split} c": 2}
        content = {"data": NOISE, "labels": [i % 3 for i in range(24)], "catname2label": names}
        (place / "given" / f"own_{split}.pkl").write_bytes(pickle.dumps(content, protocol))


class Harmful:
    """What calls a program when it is unpickled."""

    def __reduce__(self):
        import os

        return os.system, ("touch was-run",)


def change_pickle(random: Random, place: Path) -> None:
    path = place / "given" / random.choice(("own_train.pkl", "own_val.pkl"))
    content = pickle.loads(path.read_bytes())
    how = random.randint(0, 4)
    if how <= 1:
        path.write_bytes(change_bytes(random, path.read_bytes()))
        return
    if how == 2:
        content["data"] = change_array(random, NOISE)
    elif how == 3:
        content["labels"] = random.choice(
            (change_array(random, content["labels"]), change_value(random, content["labels"]))
        )
    else:
        content = change_value(random, {**content, "data": NOISE.tolist() if random.randint(0, 1) else NOISE})
        content = content if random.randint(0, 4) else [content, Harmful()]
    path.write_bytes(pickle.dumps(content, random.randint(0, 5)))


def make_cache(place: Path) -> None:
    make_picture_run(place)
    command(place, "data check given --quiet")


def change_cache(random: Random, place: Path) -> None:
    """As bytes; as values; or as whoever can make right checksums would."""
    entries = sorted(path for path in (place / "cache").iterdir() if path.is_dir())
    for entry in entries:
        how = random.randint(0, 3)
        if how == 0:
            change_file(random, random.choice(sorted(entry.iterdir())))
        elif how == 1:
            change_folder(random, place / "cache")
            return
        else:
            change_file(random, entry / "index.json")
            first, *rest = (entry / "checksums").read_text().split()
            first = hashlib.blake2b((entry / "index.json").read_bytes(), digest_size=8).hexdigest()
            (entry / "checksums").write_text("\n".join([first, *rest]))


# -- models --


def make_model(place: Path) -> None:
    """A model that was taught, and the learner that it was taught to."""
    make_picture_run(place)
    command(place, "pack run run/learner --episodes 2 --quiet")
    command(place, "adapt given --from run/learner --out run/model --quiet")


def change_model(random: Random, place: Path) -> None:
    """As bytes; as values; or as whoever can make a right hash would."""
    folder = place / "run" / random.choice(("model", "learner"))
    how, file = random.randint(0, 4), folder / TENSORS_FILE
    if how == 0:
        change_folder(random, folder)
    elif how == 1:
        change_file(random, file)
    elif how < 4:
        change_file(random, folder / CONFIG_FILE)
    else:
        tensors = load_file(file)
        name = random.choice(sorted(tensors))
        tensors[name] = _change_tensor(random, tensors[name])
        save_file(tensors, file)
        config = json.loads((folder / CONFIG_FILE).read_text())
        (folder / CONFIG_FILE).write_text(json.dumps({**config, "sha256": hash_tensors(tensors, "")}))


TAUGHT = (
    "predict run/model given --json",
    "predict run/model given --csv --sets .9",
    "info run/model",
    "info run/learner --json",
    "update run/model given --quiet",
    "adapt given --from run/learner --out run/new --quiet",
)
CHECK = ("data check given --quiet", "data check given --quiet --json", "data check given --all --quiet")
LOOK = ("report run --out out/r --quiet", "info run", "info run --json")
CONFIGURE = ("train sine.yaml --print-config", "info sine.yaml")
EVALUATE = ("evaluate run --evaluate.tasks 3 --quiet", "compare run run --evaluate.tasks 3 --quiet")
TRAIN = ("train --resume run --quiet --no-tensorboard",)
PRINT = ("train --resume run --print-config", "train run/config.yaml --print-config")
LAST = ("evaluate run --checkpoint last --quiet",)
SETTINGS = ("config.yaml", "versions.json")
READINGS = ("readings/*.*", "wormhole/*.json")
KINDS = {
    "configuration": Kind(make_run, change_config, CONFIGURE, count=12),
    "overrides": Kind(make_run, change_overrides, CONFIGURE, count=12),
    "run configuration": Kind(make_run, change_run_file(*SETTINGS), LOOK + EVALUATE + PRINT, ("run",), 10),
    "checkpoint": Kind(make_run, change_checkpoint, EVALUATE + LAST + TRAIN + LOOK[1:], ("run",), 12),
    "result": Kind(make_picture_run, change_run_file("results/*.*"), LOOK, count=8),
    "metrics": Kind(make_run, change_run_file("metrics.jsonl"), LOOK + TRAIN, ("run",), 10),
    "folder of a run": Kind(make_run, change_run_folder, LOOK + EVALUATE + TRAIN, ("run",), 10),
    "sweep": Kind(make_sweep, change_sweep, (f"{SWEEP} --trials 2", f"{SWEEP} --trials 3"), ("run",), 6),
    "readings": Kind(make_readings, change_run_file(*READINGS), (PAPER, "reproduce wormhole --out run"), ("run",), 6),
    "model": Kind(make_model, change_model, TAUGHT, ("run",), 6),
    "cache": Kind(make_cache, change_cache, CHECK + EVALUATE, ("run",), 6),
    "pictures": Kind(make_pictures, change_picture, CHECK, count=16),
    "folder of pictures": Kind(make_pictures, change_data, CHECK, count=6),
    "npz": Kind(make_npz, change_data, CHECK, count=10),
    "idx": Kind(make_idx(""), change_data, CHECK, count=8),
    "idx.gz": Kind(make_idx(".gz"), change_data, CHECK, count=6),
    "csv": Kind(make_table, change_table, (*CHECK, "data check given/x.csv --quiet"), count=8),
    "file lists": Kind(make_lists, change_data, CHECK, count=6),
    "class lists": Kind(make_class_lists, change_data, CHECK, count=6),
    "zip": Kind(make_zip, change_zip, ("data check given/x.zip --quiet", "data check given/x.zip --json"), count=12),
    "tar": Kind(make_tar, change_tar, ("data prepare cub --yes --quiet",), count=8),
    "pickles": Kind(make_pickles, change_pickle, CHECK, count=12),
}
"""Every kind of input by name."""


def make_healthy(kind: Kind, base: Path) -> Path:
    """A place with healthy input, made once; what reads it must find it right there, at `base/place`."""
    kept = base / f"healthy-{getattr(kind.make, '__qualname__', '')}-{hash(kind.make):x}"
    if not kept.exists():
        shutil.rmtree(base / "place", ignore_errors=True)
        prepare_place(base / "place")
        kind.make(base / "place")
        shutil.copytree(base / "place", kept)
        for words in kind.commands:
            command(base / "place", words)
    return kept


def damage(kind: Kind, random: Random, base: Path) -> tuple[Path, list[str]]:
    """A place with one damaged input, and the command that is to read it."""
    healthy, place = make_healthy(kind, base), base / "place"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(healthy, place, symlinks=True)
    words = random.choice(kind.commands).split()
    return place, [*words, *(kind.change(random, place) or ())]
