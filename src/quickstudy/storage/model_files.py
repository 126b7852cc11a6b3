"""Model directories: what was learnt as plain values and tensors, to be opened on any machine.

    model/  config.json  model.safetensors

`config.json` says what the tensors are, and holds their hash. Nothing is a pickle, and nothing is opened through a
link. A save writes the new tensors beside the old ones, replaces `config.json`, and then moves the tensors to their
place. A kill in between leaves the new tensors under the other name, where their hash finds them. So a directory always
holds the old model or the new one.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors.torch import save as to_safetensors
from torch import Tensor

from quickstudy.errors import InputError, RunError
from quickstudy.storage.checkpoints import check_storable, hash_tensors, read_safetensors
from quickstudy.storage.files import (
    MAX_DIGITS,
    check_lock,
    explain_disk_errors,
    read_file,
    refuse_link,
    remove_stale,
    sync_folder,
    to_plain,
    write_atomic,
)

MODEL_FORMAT = 1
"""The format number in `config.json`. It rises when older code would misread newer files."""
CONFIG_FILE, TENSORS_FILE, NEXT_FILE = "config.json", "model.safetensors", ".next.safetensors"
MAX_CONFIG_BYTES = 2**24
LOCK_SECONDS = 30
"""How long a save waits for another process that saves the same model."""
READS = 5
"""How often a model is read anew because it was replaced while it was being read."""


def is_model(path: Path) -> bool:
    """Whether there is a model directory at a path; it may be damaged."""
    return os.path.isfile(path / CONFIG_FILE) or os.path.isfile(path / TENSORS_FILE)  # a name may be too long


@contextmanager
def model_lock(path: Path) -> Iterator[None]:
    """Keep other processes from replacing a model, for a change that reads it first. It may be taken twice."""
    check_lock(path / ".lock")
    lock = FileLock(path / ".lock", timeout=LOCK_SECONDS, is_singleton=True)
    try:
        with explain_disk_errors(path, "Give a directory that can be written."):
            lock.acquire()
    except Timeout:
        raise InputError(f"{path} is being changed by another process. Wait for it to end, then try again.") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def claim_place(path: Path) -> Iterator[None]:
    """Keep other processes from saving at a path, where there need be nothing yet."""
    check_place(path)
    with explain_disk_errors(path, "Give a directory that can be written."):
        path.mkdir(parents=True, exist_ok=True)
    with model_lock(path):
        yield


def read_kind(path: Path) -> str:
    """The kind of the model at a path: "classifier", "regressor" or "learner"; empty if nothing can be read there."""
    try:
        return str(_parse(path / CONFIG_FILE, read_file(path / CONFIG_FILE, MAX_CONFIG_BYTES)).get("kind", ""))
    except (InputError, OSError):
        return ""


def write_model(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a model, in place of an older one at the same path. It has the old contents or the new ones at any time."""
    check_place(path)
    check_storable(tensors)
    # Copied, because safetensors refuses tensors that share memory.
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    digest = hash_tensors(copies, "")
    about = {"format": MODEL_FORMAT, "quickstudy": metadata.version("quickstudy"), "sha256": digest, **config}
    text = _to_json(about)
    with explain_disk_errors(path, "What was there before is intact. Free some space, or give another directory."):
        path.mkdir(parents=True, exist_ok=True)
        with model_lock(path):
            remove_stale(path)
            _settle(path)
            write_atomic(path / NEXT_FILE, to_safetensors(copies, {"format": "pt"}))
            write_atomic(path / CONFIG_FILE, text)  # from here on the directory holds the new model
            os.replace(path / NEXT_FILE, path / TENSORS_FILE)
            sync_folder(path)


def _to_json(about: Mapping[str, Any]) -> bytes:
    """The bytes of a config. One that could not be read again is refused, and the old model stays."""
    try:
        text = (json.dumps(to_plain(about), allow_nan=False, ensure_ascii=False, indent=2) + "\n").encode()
        json.loads(text, parse_int=_read_whole)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"The model cannot be saved: {CONFIG_FILE} cannot hold what it says ({error}).") from None
    if len(text) > MAX_CONFIG_BYTES:
        raise InputError(
            f"The model cannot be saved: what it says of itself, such as the names of its classes, takes {len(text)} "
            f"bytes, and {CONFIG_FILE} holds {MAX_CONFIG_BYTES}. Give shorter names."
        )
    return text


def check_place(path: Path) -> None:
    """Refuse to write a model over something else."""
    if os.path.exists(path) and not os.path.isdir(path):
        raise InputError(f"{path} is a file, and a model is a directory. Give another path.")
    if os.path.isdir(path) and not is_model(path):
        others = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
        if others and not is_model(path):  # another process may have saved one meanwhile
            raise InputError(
                f"{path} is not empty (it has {others[0]}) and is not a model. Give a new or an empty directory."
            )


def _settle(path: Path) -> None:
    """Finish a save that was killed after it had replaced the config: its tensors are still under the other name."""
    staged = path / NEXT_FILE
    if not staged.is_file():
        return
    try:
        config = _parse(path / CONFIG_FILE, read_file(path / CONFIG_FILE, MAX_CONFIG_BYTES))
        if hash_tensors(read_safetensors(staged)[0], "") == config.get("sha256"):
            os.replace(staged, path / TENSORS_FILE)
    except (InputError, RunError, OSError):  # a half-written model is replaced in any case
        pass


def read_model(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The values and the tensors of a model directory, which are those that were saved together."""
    if not os.path.isdir(path):
        kind = "a file" if os.path.exists(path) else "nothing"
        raise InputError(f"There is {kind} at {path}, and a model is a directory. Give the path that it was saved to.")
    refuse_link(path / CONFIG_FILE, path)
    for _ in range(READS):
        try:
            text = read_file(path / CONFIG_FILE, MAX_CONFIG_BYTES)
        except FileNotFoundError as error:
            if not any((path / name).exists() for name in (TENSORS_FILE, NEXT_FILE)):
                raise InputError(
                    f"{path} is no saved model: it has no {CONFIG_FILE}. To teach one with a folder of pictures: "
                    f"quickstudy adapt {path} --from photos"
                ) from error
            raise InputError(
                f"{path} has no {CONFIG_FILE}, so it is not a whole model. Save the model again, or give another one."
            ) from error
        except OSError as error:
            raise InputError(
                f"{path / CONFIG_FILE} cannot be read ({error.strerror or error}), so {path} is not a whole model. "
                "Save the model again, or give another one."
            ) from error
        config = _parse(path / CONFIG_FILE, text)
        found = _find_tensors(path, config["sha256"])
        if found is not None:
            return config, found
        if read_file(path / CONFIG_FILE, MAX_CONFIG_BYTES) == text:
            break
    damage = _describe_damage(path)
    raise RunError(f"{damage} Save the model again, or use a copy of it.")


def _find_tensors(path: Path, digest: str) -> dict[str, Tensor] | None:
    """The tensors with this hash, from whichever of the two files has them.

    Between the first look and the second, a save may have given the next file its final name.
    """
    for name in (TENSORS_FILE, NEXT_FILE, TENSORS_FILE):
        file = refuse_link(path / name, path)
        if file.is_file():
            try:
                tensors, _ = read_safetensors(file)
            except RunError:
                continue
            if hash_tensors(tensors, "") == digest:
                return tensors
    return None


def _describe_damage(path: Path) -> str:
    file = path / TENSORS_FILE
    if not file.is_file():
        return f"{file} is missing, and the tensors of the model were in it."
    try:
        read_safetensors(file)
    except RunError as damage:
        return str(damage)
    return f"{file} is damaged, or of another model: its tensors do not have the hash that {CONFIG_FILE} has for them."


def _parse(file: Path, text: bytes) -> dict[str, Any]:
    """The values in a config. Whatever is wrong with it is one line."""
    try:
        config = json.loads(text, parse_int=_read_whole, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is damaged: it is no JSON that quickstudy wrote ({error}).") from error
    if not isinstance(config, dict) or not isinstance(config.get("sha256"), str):
        raise InputError(f"{file} does not describe a model of quickstudy. Give the path of a model or a run.")
    number = config.get("format")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise InputError(f"{file} has no `format` number, so quickstudy did not write it.")
    if number > MODEL_FORMAT:
        raise InputError(
            f"{file} has format {number}; this quickstudy reads up to {MODEL_FORMAT}. Update it "
            f"(`pip install --upgrade quickstudy`): the model was saved by {config.get('quickstudy', 'a later one')}."
        )
    return config


def _read_whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
