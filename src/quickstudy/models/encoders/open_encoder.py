"""Opening an encoder by its name."""

from collections.abc import Callable

from torch import nn

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.models.encoders.encoder import Encoder
from quickstudy.models.encoders.hf import open_hf
from quickstudy.models.encoders.minilm import open_text
from quickstudy.models.encoders.module import ModuleEncoder
from quickstudy.models.encoders.open_clip import open_open_clip
from quickstudy.models.encoders.photos import open_photos
from quickstudy.models.encoders.timm import open_timm

ENCODERS: dict[str, Callable[[], Encoder]] = {"photos": open_photos, "text": open_text}
"""The encoders by name."""
BRIDGES: dict[str, Callable[[str], Encoder]] = {"hf": open_hf, "timm": open_timm, "open_clip": open_open_clip}
"""Encoders of other libraries, by what stands before the colon."""


def open_encoder(what: object) -> Encoder:
    """Open an encoder.

    Args:
        what: A name ("photos", "text"), a model of another library ("hf:NAME_OR_FOLDER", "timm:NAME",
            "open_clip:NAME/WEIGHTS"), or any module whose output for a batch of inputs is `[n, features]`.
    """
    if isinstance(what, Encoder):
        return what
    if isinstance(what, nn.Module):
        return ModuleEncoder(what)
    if not isinstance(what, str):
        raise InputError(f"An encoder is a name or a module; given is a {type(what).__name__}.")
    bridge, colon, rest = what.partition(":")
    if colon and bridge in BRIDGES and rest:
        return BRIDGES[bridge](rest)
    if what not in ENCODERS:
        raise InputError(
            f"There is no encoder {what!r}. {suggest_nearest(what, [*ENCODERS, *(f'{b}:NAME' for b in BRIDGES)])}"
        )
    return ENCODERS[what]()
