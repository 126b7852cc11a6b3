"""The cache of features: one SQLite file for each encoder, shared by all processes.

A row has a key (the hash of an item's content), the features, and a checksum of both, which is compared when the row is
read. SQLite writes in transactions, so a kill leaves all rows of a group or none. A file that is damaged is removed and
begun anew. When the rows take more than `QUICKSTUDY_MAX_FEATURES` bytes, the older half of them is removed. Where the
folder cannot be written, features are computed every time, and a warning says so.
"""

import sqlite3
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from hashlib import blake2b
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from quickstudy.storage.files import refuse_link
from quickstudy.tasks.images.limits import MAX_FEATURES, read_limit
from quickstudy.tasks.images.store import CACHE_ADVICE, cache_root

FEATURES_FORMAT = 1
ASKED_TOGETHER = 500
"""Keys in one question to SQLite, which allows 999."""
WAIT_SECONDS = 30.0
"""For another process to finish writing."""

R = TypeVar("R")


class NoCacheWarning(UserWarning):
    """Features cannot be kept, so they are computed every time."""


class FeatureCache:
    """The kept features of one encoder.

    Args:
        digest: The digest of the encoder, which names the file.
    """

    def __init__(self, digest: str) -> None:
        self.path = cache_root() / "features" / f"{digest}.sqlite"

    def find(self, keys: Iterable[bytes]) -> dict[bytes, Tensor]:
        """The features that are kept, by key. A row that was changed is left out."""
        wanted = list(dict.fromkeys(keys))

        def look_up(connection: sqlite3.Connection) -> dict[bytes, Tensor]:
            found = {}
            for start in range(0, len(wanted), ASKED_TOGETHER):
                some = wanted[start : start + ASKED_TOGETHER]
                question = f"SELECT key, data, checksum FROM features WHERE key IN ({','.join('?' * len(some))})"
                for key, data, checksum in connection.execute(question, some):
                    if _row_checksum(key, data) == checksum:
                        found[key] = torch.from_numpy(np.frombuffer(data, "<f4").astype(np.float32))
            return found

        return (self._work(look_up) if self.path.exists() else None) or {}

    def keep(self, computed: Mapping[bytes, Tensor]) -> None:
        """Keep features by key: all of them or, if this is stopped, none."""
        data = {key: features.numpy().astype("<f4").tobytes() for key, features in computed.items()}
        rows = [(key, values, _row_checksum(key, values)) for key, values in data.items()]

        def write(connection: sqlite3.Connection) -> None:
            with connection:
                connection.executemany("INSERT OR REPLACE INTO features (key, data, checksum) VALUES (?, ?, ?)", rows)
                _make_room(connection)

        if rows:
            self._work(write)

    def _work(self, work: Callable[[sqlite3.Connection], R]) -> R | None:
        """Work on the open file. Where the disk refuses, the answer is None, with a warning; damage is removed."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            refuse_link(self.path, self.path.parent)
            with closing(sqlite3.connect(self.path, timeout=WAIT_SECONDS)) as connection:
                _make_table(connection)
                return work(connection)
        except (OSError, sqlite3.OperationalError) as error:  # no room, no right to write, locked for too long
            warnings.warn(
                f"Features cannot be kept in {self.path} ({error}), so they are computed every time. {CACHE_ADVICE}",
                NoCacheWarning,
                stacklevel=5,
            )
        except sqlite3.DatabaseError:  # it is no file of SQLite, or a damaged one: the cache can be made again
            self.path.unlink(missing_ok=True)
        return None


def _make_table(connection: sqlite3.Connection) -> None:
    """The table, empty in a new file and in one of another format."""
    if connection.execute("PRAGMA user_version").fetchone()[0] != FEATURES_FORMAT:
        with connection:
            connection.execute("DROP TABLE IF EXISTS features")
            connection.execute("CREATE TABLE features (key BLOB PRIMARY KEY, data BLOB, checksum BLOB)")
            connection.execute(f"PRAGMA user_version = {FEATURES_FORMAT}")


def _make_room(connection: sqlite3.Connection) -> None:
    """Remove the older half of the rows if all of them take too many bytes."""
    taken, rows = connection.execute("SELECT SUM(LENGTH(data)), COUNT(*) FROM features").fetchone()
    if (taken or 0) > read_limit(MAX_FEATURES):
        oldest = "SELECT rowid FROM features ORDER BY rowid LIMIT ?"
        connection.execute(f"DELETE FROM features WHERE rowid IN ({oldest})", ((rows + 1) // 2,))


def _row_checksum(key: bytes, data: bytes) -> bytes:
    return blake2b(key + data, digest_size=8).digest()


def hash_content(*parts: bytes) -> bytes:
    """The key of an item: the hash of its content."""
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()
