"""Checkpoints: tensors and plain values in one safetensors file, with a hash of its contents. Nothing is a pickle."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quickstudy.errors import InputError, RunError
from quickstudy.storage.files import check_format, loads
from quickstudy.storage.records import check_state

MODEL = "model."
"""Begins the names of the learner's tensors in a checkpoint."""


class Checkpoint(NamedTuple):
    """Tensors by name, on the CPU, and the plain values saved with them."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


def check_matches(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Refuse tensors that cannot replace the expected ones. `what` begins the message, as in "Checkpoint `best`"."""
    faults = [f"{name} is missing" for name in expected if name not in tensors]
    faults += [f"{name} is unexpected" for name in tensors if name not in expected]
    faults += [
        f"{name} {fault}"
        for name, tensor in expected.items()
        if name in tensors and (fault := describe_misfit(tensors[name], tensor))
    ]
    if faults:
        more = f"; and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise InputError(
            f"{what} belongs to another method or model: {'; '.join(faults[:4])}{more}. "
            "Use the settings it was trained with (config.yaml of its run), or another checkpoint."
        )


def describe_misfit(given: Tensor, replaced: Tensor) -> str:
    """Why a tensor cannot replace another one: its shape, its type, or numbers that are not finite; empty if it can."""
    if given.shape != replaced.shape:
        return f"has shape {list(given.shape)}, not {list(replaced.shape)}"
    if given.dtype != replaced.dtype:
        return f"has type {given.dtype}, not {replaced.dtype}".replace("torch.", "")
    if _is_finite(replaced) and not _is_finite(given):
        return "has numbers that are not finite"
    return ""


def _is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite; of numbers of eight bits torch does not say."""
    wide = tensor.float() if tensor.is_floating_point() and tensor.dtype.itemsize == 1 else tensor
    return bool(wide.isfinite().all())


def check_storable(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that the format of the files cannot hold, by name."""
    for name, tensor in tensors.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        if tensor.layout != torch.strided:
            kind = str(tensor.layout).removeprefix("torch.")
        elif not (tensor.is_quantized or tensor.dtype in (torch.complex128, torch.complex32)):
            continue
        raise InputError(
            f"{name} is {kind}, which no checkpoint and no saved model can hold. Keep it as complex64, or as dense "
            "real numbers, or make it in the forward."
        )


def hash_tensors(tensors: Mapping[str, Tensor], state: str) -> str:
    """The SHA-256 of names, types, shapes, every byte and the `state`."""
    sha = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def read_safetensors(path: Path, what: str = "a safetensors file") -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors in a file, on the CPU, and the texts in its header. `what` says what the file should be."""
    if not path.is_file():  # a pipe would never answer
        raise RunError(f"{path} is not a file, so it is not {what}.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            # Copied, because the file is mapped into memory and may be replaced while its tensors are in use.
            return {name: file.get_tensor(name).clone() for name in file.keys()}, header  # noqa: SIM118 - a safetensors file cannot be iterated
    except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError) as error:
        raise RunError(f"{path} is cut short or is not {what} ({error}).") from error


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and verify that it is byte for byte what was saved."""
    tensors, header = read_safetensors(path, "a checkpoint")
    if not header.keys() >= {"format", "state", "sha256"} or not re.fullmatch("[0-9]{1,9}", header["format"]):
        raise RunError(f"{path} is a safetensors file, but not a checkpoint that quickstudy wrote.")
    check_format(int(header["format"]), path)
    if hash_tensors(tensors, header["state"]) != header["sha256"]:
        raise RunError(f"{path} is damaged: its contents do not have the hash that was saved with them.")
    try:
        return Checkpoint(tensors, check_state(loads(header["state"])))
    except ValueError as error:
        raise RunError(f"{path} is damaged: its state cannot be read ({error}).") from error


def describe_step(checkpoint: Checkpoint) -> str:
    """The training step of a checkpoint, in words."""
    return f"step {checkpoint.state.get('step', 'unknown')}"


def describe_survivor(path: Path) -> str:
    """One sentence about the checkpoint that is still at `path` after a failed write."""
    if not path.exists():
        return "There is no earlier one under that name."
    try:
        return f"The previous checkpoint ({describe_step(read_checkpoint(path))}) is intact."
    except (InputError, RunError) as damage:
        return f"The previous checkpoint cannot be used either: {damage}"
