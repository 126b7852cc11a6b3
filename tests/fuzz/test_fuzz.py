"""A few damaged inputs of every kind; `make fuzz` tries many more."""

import pytest
from fuzzing import quick, try_inputs
from kinds import KINDS

from quickstudy.tasks.images.downloads import SOURCES


@pytest.mark.parametrize("name", KINDS)
def test_damaged_input_breaks_no_law(name, tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES, "cub", SOURCES["cub"])  # an archive of ours takes its place meanwhile
    try_inputs(KINDS[name], tmp_path, quick(KINDS[name]))
