"""Encoders: frozen models that turn pictures, texts or arrays into vectors, from which few examples are enough.

`open_encoder("photos")` opens one by its name. What an encoder has computed is kept on disk, so a picture is encoded
once. An item is always encoded alone: its features never depend on the items beside it.
"""

from quickstudy.models.encoders.encoder import Encoder, ItemError
from quickstudy.models.encoders.open_encoder import open_encoder

__all__ = ["Encoder", "ItemError", "open_encoder"]
