"""Omniglot's drawings, which come with the package: 1623 characters of 50 alphabets, 20 drawings of each.

`drawings.xz` has all 32 460 at 28 pixels in four shades, two bits a pixel, in the order of the classes' names. They are
decoded into memory in a tenth of a second; nothing is downloaded, and nothing is written. `make drawings` makes the
file from Lake's archives as the recipe `finn` reads them, so a task list shows the same drawings as with `omniglot`.

Lake, Salakhutdinov & Tenenbaum, 2015 (https://github.com/brendenlake/omniglot), MIT licence: `drawings-LICENSE`.
"""

import hashlib
import lzma
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8

from quickstudy.errors import InputError, RunError
from quickstudy.tasks.draws import as_integer
from quickstudy.tasks.images.family import ImageEpisodes
from quickstudy.tasks.images.preparations import preparation_named
from quickstudy.tasks.images.published import all_classes
from quickstudy.tasks.images.sets import IMAGE_SETS, class_names, divide
from quickstudy.tasks.images.store import StoredPictures
from quickstudy.types import Integer

PACK = files("quickstudy.tasks.images") / "drawings.xz"
PACKED_SIZE = 28
PACKED_RECIPES = ("finn", "distorted")
"""Those that want the drawings as they are packed."""
DRAWINGS_PER_CLASS = 20
SHADE = 85
"""The bytes 0, 85, 170 and 255 are the four shades; ink is 255."""
PIXELS_PER_BYTE = np.array([0, 2, 4, 6], dtype=np.uint8)
"""How far the bits of each of four neighbouring pixels are shifted in their byte."""


def drawings(
    split: str = "finn",
    ways: Integer = 5,
    shots: Integer = 1,
    queries: Integer = 15,
    size: Integer = PACKED_SIZE,
    recipe: str = "finn",
    rotations: str = "none",
    within: str = "split",
    only: Sequence[str] = (),
    seed: Integer = 0,
) -> ImageEpisodes:
    """Tasks over Omniglot's drawings, which come with the package: nothing is downloaded.

    Args:
        split: A split of Omniglot: "finn", "vinyals", "lake" (disjoint alphabets), "class", "image" and so on. Or
            "complete": Finn's classes to validate are kept, and one trains on all others; none is left to test on.
        ways: Classes in a task.
        shots: Support images per class.
        queries: Query images per class.
        size: Height and width, at most 28. Smaller drawings are averages of those of 28 pixels.
        recipe: "finn", or "distorted": in training, each drawing is turned, slanted, scaled and shifted a little.
        rotations: "none", "classes", "mirrored" or "augment".
        within: "split", "alphabet" (the classes of a task are of one alphabet) or "mixed" (eight of ten in training).
        only: Names of the classes to use; all by default.
        seed: The seed of the splits "class" and "image".
    """
    how = preparation_named(recipe)
    if recipe not in PACKED_RECIPES:
        raise InputError(
            f"recipe={recipe!r} cannot be used: the drawings that come with the package are stored as the recipes "
            f"{' and '.join(PACKED_RECIPES)} read them. Use one of these, or the originals: --tasks.name omniglot."
        )
    found = read_drawings(as_integer("size", size, 1))
    splits, rule, _ = divide(found, "finn" if split == "complete" else split, "omniglot", seed, class_names(only))
    if split == "complete":
        splits = {"train": np.sort(np.concatenate([splits["train"], splits["test"]])), "val": splits["val"]}
        rule = "by class (classes disjoint), complete"
    return ImageEpisodes(
        found.pixels,
        found.labels,
        splits,
        ways,
        shots,
        queries,
        "drawings",
        rule,
        names=found.classes,
        recipe=how,
        size=size,
        drawing=True,
        rotations=rotations,
        within=within,
        notes=(f"layout: {found.layout}",),
        digest=found.digest,
    )


@cache
def read_drawings(size: int = PACKED_SIZE) -> StoredPictures:
    """All drawings at a size, decoded once in a process."""
    if size > PACKED_SIZE:
        raise InputError(
            f"size={size} cannot be used: the drawings that come with the package have {PACKED_SIZE} pixels. Give a "
            "smaller size, or use the originals: --tasks.name omniglot."
        )
    classes = all_classes("omniglot", "lake_no_val")
    names = [f"{name}/{number:02d}" for name in classes for number in range(1, DRAWINGS_PER_CLASS + 1)]
    pixels = _unpack(len(names))
    if size < PACKED_SIZE:
        pixels = F.adaptive_avg_pool2d(torch.from_numpy(pixels).float(), size).round().byte().numpy()
    labels = np.arange(len(classes)).repeat(DRAWINGS_PER_CLASS)
    pixels.flags.writeable = False
    digest = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()[:12]
    layout = f"Omniglot at {PACKED_SIZE} pixels in four shades, as it comes with the package"
    return StoredPictures(pixels, labels, classes, names, {}, layout, (), {}, digest)


def _unpack(count: int) -> UInt8[np.ndarray, "n 1 side side"]:
    shape = (count, 1, PACKED_SIZE, PACKED_SIZE)
    length = count * PACKED_SIZE**2 // len(PIXELS_PER_BYTE)
    try:
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ)
        packed = unpacker.decompress(PACK.read_bytes(), length + 1)
        if len(packed) != length or not unpacker.eof:
            raise EOFError(f"{len(packed)} of {length} bytes")
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise RunError(f"{PACK} is damaged ({error}): install quickstudy again.") from error
    values = np.frombuffer(packed, np.uint8)[:, None] >> PIXELS_PER_BYTE & 3
    return (values * np.uint8(SHADE)).reshape(shape)


def pack_drawings(pixels: UInt8[np.ndarray, "n 1 side side"]) -> bytes:
    """The bytes of the pack: always the same for the same pictures and the same version of liblzma."""
    shades = np.rint(pixels.reshape(-1, len(PIXELS_PER_BYTE)) / SHADE).astype(np.uint8)
    packed = np.bitwise_or.reduce(shades << PIXELS_PER_BYTE, axis=1)
    return lzma.compress(packed.tobytes(), lzma.FORMAT_XZ, preset=9 | lzma.PRESET_EXTREME)


def write_pack() -> None:
    """Make the pack anew from Lake's archives under the data root: `make drawings`."""
    omniglot = IMAGE_SETS["omniglot"]
    found = omniglot.read(omniglot.require_folder(), PACKED_SIZE, omniglot.recipe)
    if (len(found.classes), len(found.labels)) != (omniglot.classes, omniglot.images):
        raise InputError(
            f"The pack needs all of Omniglot; found were {len(found.labels)} of {omniglot.images} drawings."
        )
    Path(str(PACK)).write_bytes(pack_drawings(found.pixels))
