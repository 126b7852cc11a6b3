"""Few-shot tasks over stored pictures: a recipe prepares them, and classes may be rotated and mirrored."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from quickstudy.errors import InputError
from quickstudy.tasks.draws import Draws, store_integers
from quickstudy.tasks.episodes import Episodes
from quickstudy.tasks.images.preparations import Preparation
from quickstudy.tasks.splits import Pool
from quickstudy.types import Integer, Shape

ROTATIONS = ("none", "classes", "mirrored", "augment")
COPIES = {"classes": 4, "mirrored": 8}
"""How many classes one class becomes: copy r is turned by r quarters; from the fifth on it is mirrored before."""
WITHIN = ("split", "alphabet", "mixed")
MIXED_SHARE = 0.8
"""How many of the training tasks have classes of one alphabet under "mixed"."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageEpisodes(Episodes):
    """`Episodes` over pictures stored as bytes.

    Args:
        names: Names of the classes; a label is an index into them.
        recipe: How pictures are prepared.
        size: Height and width of the inputs.
        drawing: Whether the pictures are drawings, which are not augmented.
        rotations: "none"; "classes": each class is four classes, rotated by 0, 90, 180 and 270 degrees, and a task may
            have several of them (Vinyals et al.); "mirrored": each class is eight classes, these four and their mirror
            images; "augment": a task rotates each of its classes by one of these angles at random, in every split (Finn
            et al.).
        within: "split": a task has any classes of its split; "alphabet": those of one alphabet, which is what the names
            of its classes have before the slash (Lake et al.'s trials, if there are 20 of them); "mixed": eight of ten
            tasks of the split "train" have classes of one alphabet, all other tasks have any of their split. Where
            rotations are classes, an alphabet is turned and mirrored as a whole. Alphabets with fewer classes than
            `ways` are in no task of one alphabet.
        notes: Remarks for the user: the layout, what was left out or changed, how the data differ from the published.
        digest: The hash of the stored pictures and labels.
        fit: How pictures that are no squares were stored: see `Decoding`.
    """

    names: Sequence[str] = field(repr=False)
    recipe: Preparation
    size: Integer
    drawing: bool = False
    rotations: str = "none"
    within: str = "split"
    notes: Sequence[str] = ()
    digest: str
    fit: str = "stretch"

    group: ClassVar[str] = "alphabet"

    def __post_init__(self) -> None:
        if self.rotations not in ROTATIONS:
            raise InputError(f"rotations={self.rotations!r} cannot be used. Use one of: {', '.join(ROTATIONS)}.")
        if self.within not in WITHIN:
            raise InputError(f"within={self.within!r} cannot be used. Use one of: {', '.join(WITHIN)}.")
        if self.within != "split" and not all("/" in name for name in self.names):
            raise InputError(
                f"within={self.within!r} cannot be used with {self.name!r}: its classes have no alphabets, as "
                "Greek/character01 has one. Use within='split'."
            )
        store_integers(self, "size", least=1)
        images = self._images
        if images.dtype != np.uint8 or images.ndim != 4 or min(images.shape[2:]) < self.size:
            raise InputError(
                f"Pictures of type {images.dtype} and shape {list(images.shape)} cannot be shown at size {self.size}: "
                f"give bytes [N, channels, side, side], decoded for this size, as `load_pictures` does."
            )
        super().__post_init__()

    @property
    def inputs(self) -> Shape:
        return (self._images.shape[1], self.size, self.size)

    def class_name(self, label: int) -> str:
        """The name of a class, with its rotation if rotations are classes."""
        if self.copies == 1:
            return self.names[label]
        original, copy = divmod(label, self.copies)
        return f"{self.names[original]}{' mirrored' if copy >= 4 else ''} at {copy % 4 * 90} degrees"

    @property
    def copies(self) -> int:
        return COPIES.get(self.rotations, 1)

    def groups(self, split: str) -> NDArray[np.int64] | None:
        if self.group_share(split) == 0:
            return None
        original, copy = np.divmod(self.pools[split].classes, self.copies)
        return self._alphabets[original] * self.copies + copy

    def group_share(self, split: str) -> float:
        if self.within == "mixed":
            return MIXED_SHARE if split == "train" else 0.0
        return float(self.within == "alphabet")

    def prepare_inputs(
        self, pixels: Tensor, labels: NDArray[np.int64], draws: Draws, size: Integer, part: slice
    ) -> Float[Tensor, "T ways n *input"]:
        if self.rotations == "augment":
            turns = np.floor(4 * draws.uniform("turn", size, labels.shape[1])[part]).astype(np.int64)
            pixels = rotate_classes(pixels, turns)
        elif self.copies > 1:
            if self.copies > 4:
                pixels = mirror_classes(pixels, labels % self.copies >= 4)
            pixels = rotate_classes(pixels, labels % 4)
        noise, numbers = None, self.recipe.noise(self.drawing)
        if draws.split == "train" and draws.augmented and numbers:
            drawn = draws.uniform("augment", size, *pixels.shape[1:3], numbers)[part]
            noise = torch.from_numpy(drawn.astype(np.float32)).flatten(0, 2).to(pixels.device)
        x = self.recipe.prepare(pixels.flatten(0, 2), self.size, noise)
        return x.reshape(*pixels.shape[:3], *x.shape[1:])

    def describe(self) -> dict[str, Any]:
        return (
            super().describe()
            | {
                "recipe": self.recipe.name,
                "size": self.size,
                "rotations": self.rotations,
            }
            | (
                {}
                if self.within == "split"
                else {"within": self.within + (", turned alike" if self.copies > 1 else "")}
            )
        )

    @cached_property
    def _alphabets(self) -> NDArray[np.int64]:
        """The number of each name's alphabet."""
        return np.unique([name.partition("/")[0] for name in self.names], return_inverse=True)[1]

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.digest} {self.recipe} {self.size} {self.rotations} {self.drawing}".encode())
        for name, images in self.pools.items():
            digest.update(name.encode())
            digest.update(np.sort(images.table[images.table >= 0]).data)
        return digest.hexdigest()[:12]

    @cached_property
    def pools(self) -> dict[str, Pool]:
        pools = super().pools
        if self.copies == 1:
            return pools
        return {name: _with_copies(images, self.copies) for name, images in pools.items()}


def _with_copies(pool: Pool, copies: int) -> Pool:
    """Make several classes of each: copy r of class c is class copies * c + r."""
    classes = (copies * pool.classes[:, None] + np.arange(copies)).reshape(-1)
    return Pool(classes, pool.table.repeat(copies, axis=0), pool.counts.repeat(copies))


def mirror_classes(pixels: Tensor, mirrored: NDArray[np.bool_]) -> Tensor:
    """Mirror pictures `[T, ways, n, channels, side, side]`, left to right, those of the classes that are to be."""
    those = torch.from_numpy(mirrored).to(pixels.device)[:, :, None, None, None, None]
    return torch.where(those, pixels.flip(-1), pixels)


def rotate_classes(pixels: Tensor, quarters: NDArray[np.int64]) -> Tensor:
    """Rotate pictures `[T, ways, n, channels, side, side]` anticlockwise, each class by its number of quarter turns."""
    pixels = pixels.clone()
    for quarter in (1, 2, 3):
        those = tuple(torch.from_numpy(where).to(pixels.device) for where in np.nonzero(quarters == quarter))
        pixels[those] = torch.rot90(pixels[those], quarter, (-2, -1))
    return pixels
