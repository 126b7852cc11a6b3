"""Tasks over the features of pictures: any method trains on them in seconds, because the encoder has run before.

The features of a picture are computed once and kept on disk. The tasks are those of few-shot classification: classes
are drawn, then pictures of each.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quickstudy.errors import InputError
from quickstudy.models.encoders.encoder import Encoded, Encoder
from quickstudy.models.encoders.open_encoder import open_encoder
from quickstudy.tasks.arrays import as_array, as_integers
from quickstudy.tasks.base import TaskFamily
from quickstudy.tasks.episodes import Episodes
from quickstudy.tasks.images.family import ImageEpisodes
from quickstudy.tasks.images.listing import FilePictures, Listing
from quickstudy.tasks.images.readers import recognise
from quickstudy.tasks.images.sets import (
    choose_split,
    class_names,
    describe_left_out,
    divide,
    fit_task_size,
    require_place,
)
from quickstudy.tasks.images.store import Progress, check_any_readable
from quickstudy.types import Integer


@dataclass(frozen=True, eq=False, kw_only=True)
class FeatureEpisodes(Episodes):
    """`Episodes` over features, float32 `[N, features]`.

    Args:
        names: Names of the classes; a label is an index into them.
        encoder: The name of the encoder, for results.
        encoder_digest: Its hash, by which a learner on these features knows it again.
        notes: Remarks for the user.
        digest: The hash of the encoder, the pictures and the labels. The features themselves may differ in their last
            bits from one machine to another.
    """

    names: Sequence[str] = field(repr=False)
    encoder: str
    encoder_digest: str
    notes: Sequence[str] = ()
    digest: str

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"encoder": self.encoder}

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.digest.encode())
        for name, images in self.pools.items():
            digest.update(name.encode())
            digest.update(np.sort(images.table[images.table >= 0]).data)
        return digest.hexdigest()[:12]


def features(
    path: str = "",
    of: TaskFamily | None = None,
    encoder: str | Encoder = "photos",
    split: str = "auto",
    ways: Integer | None = None,
    shots: Integer = 1,
    queries: Integer | None = None,
    only: Sequence[str] = (),
    seed: Integer = 0,
    progress: Progress | None = None,
) -> Episodes:
    """The features of your own pictures, or of a set's, by a frozen encoder: any method trains on them in seconds.

    Args:
        path: The folder or file of the pictures, as for `folder`.
        of: Tasks over pictures, such as `{name: cub}`, whose pictures and splits are used instead of those of `path`.
        encoder: What computes the features: "photos", "hf:NAME", ...
        split: As for `folder`; not with `of`.
        ways: Classes in a task; by default 5, or fewer if a split has fewer.
        shots: Support pictures per class.
        queries: Query pictures per class; by default 15, or fewer if a class has too few pictures.
        only: Names of the classes to use; all by default; not with `of`.
        seed: The seed of the splits "class" and "image"; not with `of`.
        progress: Called while pictures are encoded, which is done once.
    """
    if not path and of is None:
        raise InputError(
            "`features` needs pictures: give a folder (--tasks.path DIRECTORY), or tasks over pictures "
            "(--tasks.of '{name: cub}')."
        )
    for name, given in (("split", split != "auto"), ("only", bool(only)), ("seed", seed != 0)):
        if of is not None and given:
            raise InputError(
                f"`{name}` divides the pictures of `path`, and those of `of` are divided there: give it in `of` "
                f"(--tasks.of.{name})."
            )
    opened = open_encoder(encoder)
    if opened.takes != "pictures":
        raise InputError(f"The encoder {opened.name!r} takes {opened.takes}, and these are pictures.")
    if of is not None:
        return _features_of(of, opened, ways, shots, queries, progress)
    place = require_place(path)
    found, encoded = _encode_listing(recognise(place), opened, progress)
    only = class_names(only)
    split, undivided = choose_split(found, split, only, ways)
    splits, rule, missing = divide(found, split, place.name, seed, only)
    ways, queries = fit_task_size(found, splits, split, ways, shots, queries)
    return FeatureEpisodes(
        encoded.features.numpy(),
        found.labels,
        splits,
        ways,
        shots,
        queries,
        place.resolve().name,
        rule,
        names=found.classes,
        encoder=opened.name,
        encoder_digest=opened.digest,
        notes=(f"layout: {found.layout}", *undivided, *describe_left_out(found, place), *missing),
        digest=_digest(opened, encoded, found.labels),
    )


def _encode_listing(listing: Listing, encoder: Encoder, progress: Progress | None) -> tuple[Listing, Encoded]:
    """The features of listed pictures, and the listing of those that could be read."""
    pictures = listing.pictures
    encoded = encoder.encode_usable(pictures.paths if isinstance(pictures, FilePictures) else pictures, progress)
    kept = [number for number in range(len(pictures)) if number not in encoded.skipped]
    check_any_readable(listing, kept, encoded.skipped)
    return listing.keep(kept, encoded.skipped), encoded


def _features_of(
    family: TaskFamily,
    encoder: Encoder,
    ways: Integer | None,
    shots: Integer,
    queries: Integer | None,
    progress: Progress | None,
) -> FeatureEpisodes:
    """The features of the pictures of a family, with its classes and splits."""
    if not isinstance(family, ImageEpisodes) or (family.rotations, family.within) != ("none", "split"):
        raise InputError(
            "`of` needs tasks over pictures, without rotations and within=split: {name: cub} or {name: folder, path: "
            "DIRECTORY}."
        )
    pixels, labels = as_array(family.images), as_integers("labels", family.labels)
    encoded = encoder.encode_usable(_StoredItems(pixels), progress, strict=True)
    return FeatureEpisodes(
        encoded.features.numpy(),
        labels,
        family.splits,
        family.ways if ways is None else ways,
        shots,
        family.queries if queries is None else queries,
        family.name,
        family.rule,
        names=family.names,
        encoder=encoder.name,
        encoder_digest=encoder.digest,
        notes=family.notes,
        digest=_digest(encoder, encoded, labels),
    )


@dataclass(frozen=True)
class _StoredItems:
    """Stored pictures, one by one, as tensors `[channels, side, side]`."""

    pixels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, number: int) -> Tensor:
        return torch.from_numpy(np.array(self.pixels[number]))


def _digest(encoder: Encoder, encoded: Encoded, labels: NDArray[np.int64]) -> str:
    digest = hashlib.sha256(encoder.digest.encode())
    digest.update(b"".join(encoded.keys))
    digest.update(np.ascontiguousarray(labels).tobytes())
    return digest.hexdigest()
