"""A few damaged inputs of every kind; `make fuzz` tries many more."""

import pytest
from fuzzing import quick, try_inputs
from kinds import KINDS

from quickstudy.tasks.images.downloads import SOURCES


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """Where inputs are made; several kinds share what is healthy."""
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.filterwarnings("ignore::quickstudy.everyday.classifier.OutsideCalibrationWarning")  # a note of the command
@pytest.mark.parametrize("name", KINDS)
def test_damaged_input_breaks_no_law(name, base, monkeypatch):
    monkeypatch.setitem(SOURCES, "cub", SOURCES["cub"])  # an archive of ours takes its place meanwhile
    try_inputs(KINDS[name], base, quick(KINDS[name]))
