"""What all encoders are: a name, a digest, a size, and `encode`, which asks the cache first."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from hashlib import sha256
from os import PathLike
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from quickstudy.engine.threads import map_on_threads, use_threads
from quickstudy.errors import InputError, RunError
from quickstudy.models.encoders.cache import FeatureCache
from quickstudy.storage.files import dumps
from quickstudy.tasks.images.store import Progress

ENCODED_TOGETHER = 256
"""Items that are looked up, and then kept, at once. What a stop loses are the features of the last of these groups."""

Items = Any
"""Items by their numbers: a list, an array, or anything else with a length and `[number]`."""

R = TypeVar("R")


class ItemError(InputError):
    """One of the items cannot be encoded.

    Args:
        number: Its place among the items, from 0.
        reason: Why, in words.
    """

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"Item {number} cannot be used: {reason}")
        self.number, self.reason = number, reason


class Encoded(NamedTuple):
    """The features of those items that could be used, in their order.

    Args:
        features: `[n, features]`, float32.
        keys: The key of each of these items.
        skipped: Why the others could not be used, by their place among all items.
    """

    features: Tensor
    keys: list[bytes]
    skipped: dict[int, str]


class Encoder(ABC):
    """A frozen model that turns an item into features.

    Every item is encoded alone, on one thread of torch's. So its features are the same to the last bit, whatever is
    encoded beside it, and however many threads there are.

    Attributes:
        name: What `open_encoder` opens it by.
        digest: 24 hexadecimal digits, which depend on the weights and on how items are prepared.
        takes: What it encodes: "pictures", "texts" or "arrays".
        caches: Whether features are kept on disk. Those of a user's module are not: its code may change unseen.
        is_pure: Whether several threads may use it at once.
    """

    name: str
    digest: str
    takes: str
    caches: ClassVar[bool] = True
    is_pure: ClassVar[bool] = True

    @property
    @abstractmethod
    def features(self) -> int:
        """The size of the features of one item."""

    @abstractmethod
    def key(self, item: Any) -> bytes:
        """A hash of the content of an item, by which its features are found again. Nothing is decoded for it.

        A ValueError says why this is no item that the encoder takes.
        """

    @abstractmethod
    def encode_one(self, item: Any) -> Float[Tensor, " features"]:
        """The features of one item. Several threads call it at once. A ValueError says what is wrong with the item."""

    def encode(self, items: Items, progress: Progress | None = None) -> Float[Tensor, "n features"]:
        """The features of items, as float32 on the CPU.

        Args:
            items: Pictures (PIL images, paths, arrays or tensors), texts, or arrays: see `takes`.
            progress: Called with the number of items that are done, and of all items.

        Raises:
            ItemError: An item cannot be used. The features that were computed before it are in the cache.
        """
        return self.encode_usable(items, progress, strict=True).features

    def encode_usable(self, items: Items, progress: Progress | None = None, *, strict: bool = False) -> Encoded:
        """The features of those items that can be used, with their keys.

        Args:
            items: As for `encode`. They are asked for in groups, so they may be opened when they are asked for.
            progress: As for `encode`.
            strict: Whether an item that cannot be used is an error instead.
        """
        if isinstance(items, str | bytes) or not hasattr(items, "__len__"):
            raise InputError(f"{self.name!r} encodes a list of {self.takes}; given is a {type(items).__name__}.")
        keys, parts, skipped = list[bytes](), list[Tensor](), dict[int, str]()
        for start in range(0, len(items), ENCODED_TOGETHER):
            stop = min(start + ENCODED_TOGETHER, len(items))
            found, refused = self._encode_group(items, range(start, stop), strict, progress)
            keys += [key for key, _ in found]
            parts += [features for _, features in found]
            skipped |= refused
        return Encoded(torch.stack(parts) if parts else torch.zeros(0, self.features), keys, skipped)

    def _encode_group(
        self, items: Items, numbers: range, strict: bool, progress: Progress | None
    ) -> tuple[list[tuple[bytes, Tensor]], dict[int, str]]:
        """Key and features of some items, and the reason for each of them that is left out."""
        cache, keys, skipped = FeatureCache(self.digest), dict[int, bytes](), dict[int, str]()

        def attempt(number: int, function: Callable[[Any], R]) -> R | None:
            try:
                return function(items[number])
            except RunError:
                raise
            except Exception as error:  # a damaged file may raise anything
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                reason = reason or type(error).__name__
                if strict:
                    raise ItemError(number, self._with_path(items, number, reason)) from error
                skipped[number] = reason
                return None

        for number in numbers:
            key = attempt(number, self.key)
            if key is not None:
                keys[number] = key
        found = cache.find(keys.values()) if self.caches else {}
        # Of equal items one is encoded.
        first: dict[bytes, int] = {}
        for number, key in keys.items():
            first.setdefault(key, number)
        missing = [(key, number) for key, number in first.items() if key not in found]
        done = numbers.stop - len(missing)
        if progress is not None:
            progress(done, len(items))

        def work(at: int) -> Tensor | None:
            with torch.inference_mode():
                return attempt(missing[at][1], self.encode_one)

        computed: dict[bytes, Tensor] = {}
        threads = torch.get_num_threads() if self.is_pure else 1
        try:
            with use_threads(1):
                for at, features in enumerate(map_on_threads(work, len(missing), threads)):
                    if features is not None:
                        computed[missing[at][0]] = _check(self.name, features)
                    if progress is not None:
                        progress(done + at + 1, len(items))
        finally:
            if self.caches:
                cache.keep(computed)
        found |= computed
        skipped |= {number: skipped[first[key]] for number, key in keys.items() if key not in found}
        return [(key, found[key]) for key in keys.values() if key in found], dict(sorted(skipped.items()))

    def _with_path(self, items: Items, number: int, reason: str) -> str:
        """The reason, after the path of the item if it is one."""
        item = items[number] if self.takes == "pictures" and isinstance(items, list | tuple) else None
        return f"{item}: {reason}" if isinstance(item, str | PathLike) else reason


def _check(name: str, features: Tensor) -> Tensor:
    if not features.isfinite().all():
        raise RunError(f"The encoder {name!r} gives NaN or infinity. Are its weights damaged?")
    return features.to("cpu", torch.float32, copy=True)


def digest_module(model: nn.Module, about: Mapping[str, Any]) -> str:
    """24 hexadecimal digits of the numbers of a module, and of what else decides the features that it gives."""
    digest = sha256(dumps(about).encode())
    for name, value in sorted(model.state_dict().items()):
        if not isinstance(value, Tensor):  # an extra state of the module's own
            digest.update(f"{name} {value!r}".encode())
            continue
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:24]
