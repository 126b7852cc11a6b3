"""Random numbers as a pure function: counter-based draws that are the same on every machine.

A draw is a function (seed, name, step) -> bits. It uses the raw bits of NumPy's Philox counter, which are the same in
every version of NumPy. So step 40 000 needs no draws of the steps before it, each rank can draw its own part of the
same tasks, and a new quantity does not change the draws of the others.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, prod
from operator import index
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.types import Integer, Shape

SPLITS = {"train": 0, "val": 1, "test": 2}


def check_split(split: str) -> str:
    """Refuse a split that does not exist."""
    if split not in SPLITS:
        raise InputError(f"There is no split {split!r}. {suggest_nearest(split, SPLITS)}")
    return split


_NOISE_STREAM = 3  # the noise of adaptation has a stream of its own, beside those of the splits


def is_finite(value: object) -> bool:
    """Whether a value is one finite number."""
    try:
        return isfinite(value)  # type: ignore[arg-type]
    except TypeError:
        return False


def as_integer(name: str, value: Any, least: int | None = None) -> int:
    """A whole number of any type, NumPy's and torch's too, as Python's own, so that a description holds plain data.

    >>> as_integer("step", np.int32(7))
    7
    >>> as_integer("shots", 0, least=1)
    Traceback (most recent call last):
        ...
    quickstudy.errors.InputError: shots=0 cannot be used: give a whole number of at least 1, for example shots=1.
    """
    try:
        number = index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        wanted = f" of at least {least}, for example {name}={least}" if least is not None else f", for example {name}=0"
        raise InputError(f"{name}={value!r} cannot be used: give a whole number{wanted}.")
    return number


def store_integers(options: object, *names: str, least: int | None = None) -> None:
    """Check fields of a frozen dataclass with `as_integer`, and put Python's own integers in their place."""
    for name in names:
        object.__setattr__(options, name, as_integer(name, getattr(options, name), least))


class _Counter(threading.local):
    """One Philox generator per thread, whose state is set for every draw: making a new one takes six times as long."""

    def __init__(self) -> None:
        self.generator = np.random.Philox(key=0)
        self.fresh = self.generator.state

    def bits(self, key: tuple[int, int], counter: tuple[int, int, int, int], n: int) -> NDArray[np.uint64]:
        """The first n numbers for a key and a counter. They do not depend on earlier draws."""
        self.fresh["state"] = {"key": np.array(key, dtype=np.uint64), "counter": np.array(counter, dtype=np.uint64)}
        self.generator.state = self.fresh
        bits: NDArray[np.uint64] = self.generator.random_raw(n)
        return bits


_COUNTER = _Counter()


def _bits(seed: Integer, name: str, place: int, kind: int, n: int) -> NDArray[np.uint64]:
    return _COUNTER.bits((seed % 2**64, crc32(name.encode())), (0, place % 2**64, kind, 0), n)


def _uniform(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """53 bits as a double in (0, 1). The added half keeps log(u) and log(1 - u) finite."""
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


@dataclass(frozen=True)
class Draws:
    """The draws of one step in one split: `draws.uniform("phase", 4)` is always the same four numbers.

    >>> Draws(seed=0, split="train", step=7).uniform("phase", 2).tolist()
    [0.042105594301570404, 0.0705848904947986]

    Args:
        seed: The seed of all draws.
        split: "train", "val" or "test".
        step: The training step.
        augmented: Whether training images may be augmented. An evaluation shows them as they are. No draw depends on
            this.
    """

    seed: Integer
    split: str
    step: Integer
    augmented: bool = True

    def __post_init__(self) -> None:
        store_integers(self, "seed", "step")
        check_split(self.split)

    def uniform(self, name: str, *shape: int) -> NDArray[np.float64]:
        """Doubles in (0, 1)."""
        return _uniform(_bits(self.seed, name, self.step, SPLITS[self.split], prod(shape))).reshape(shape)

    def order(self, name: str, *shape: int) -> NDArray[np.int64]:
        """Random permutations along the last axis."""
        return np.argsort(self.uniform(name, *shape), axis=-1, kind="stable")

    def normal(self, name: str, *shape: int) -> NDArray[np.float64]:
        """Standard normal doubles (Box-Muller)."""
        u, v = self.uniform(name, 2, *shape)
        return np.asarray(np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v))

    def keys(self, n: int) -> Tensor:
        """One 63-bit key for each of the n tasks of the step."""
        bits = _bits(self.seed, "key", self.step, SPLITS[self.split], n)
        return torch.from_numpy((bits >> np.uint64(1)).astype(np.int64))


def task_noise(shapes: Mapping[str, Shape], keys: Tensor, seed: Integer, like: Tensor) -> dict[str, Tensor]:
    """Uniform noise in (0, 1) for a batch of tasks: `[T, *shape]` by name. It depends on seed, task key and name only.

    >>> both = task_noise({"mask": (3,)}, torch.tensor([5, 9]), seed=0, like=torch.zeros(()))
    >>> alone = task_noise({"mask": (3,)}, torch.tensor([9]), seed=0, like=torch.zeros(()))
    >>> torch.equal(both["mask"][1:], alone["mask"])
    True
    """
    noise, seed = {}, as_integer("seed", seed)
    for name, shape in shapes.items():
        bits = np.stack([_bits(seed, name, key, _NOISE_STREAM, prod(shape)) for key in keys.tolist()])
        drawn = torch.from_numpy(_uniform(bits)).reshape(len(keys), *shape).to(like)
        numbers = torch.finfo(drawn.dtype)
        noise[name] = drawn.clamp_(numbers.tiny, 1 - numbers.eps / 2)  # rounding may have made 0 or 1 of it
    return noise
