"""The registry of downloads, which pooch can read too. Downloads themselves are tested with the command line."""

from importlib.resources import files

import pytest

from quickstudy.tasks.images.downloads import SOURCES

REGISTRY = files("quickstudy.tasks.images") / "registry.txt"


def test_pooch_reads_the_same_hashes_and_addresses_from_the_registry():
    pooch = pytest.importorskip("pooch", reason="pooch downloads: pip install 'quickstudy[data]'")
    known = pooch.create("unused", base_url="")
    with REGISTRY.open("rb") as lines:
        known.load_registry(lines)
    named = {f"{source.folder}/{file.name}": file for source in SOURCES.values() for file in source.files}
    assert known.registry == {name: file.hash for name, file in named.items()}
    assert known.urls == {name: file.url for name, file in named.items()}
