"""The learner that comes along: small, served by the support set, and good at symbols that it was not trained on."""

import lzma
from pathlib import Path

import pytest
import torch

import quickstudy as qs
from quickstudy.errors import InputError
from quickstudy.everyday.bases import SHIPPED, open_base
from quickstudy.tasks import drawings

PLACE = Path(qs.__file__).parent / "everyday" / "shipped"


@pytest.mark.parametrize("name", SHIPPED)
def test_it_is_small_and_has_a_card(name):
    files = {path.name: path.read_bytes() for path in (PLACE / name).iterdir() if path.name != ".lock"}
    assert set(files) == {"config.json", "model.safetensors", "card.md"}
    assert sum(len(lzma.compress(data)) for data in files.values()) < 500_000


def test_drawings_tells_new_symbols_apart():
    """On characters of the classes that calibrated it: 5-way 1-shot, as in its card."""
    learner = open_base("drawings").learner
    family = drawings("complete", ways=5, shots=1, queries=5)
    tasks = family.source("val", seed=1, size=40)(0)
    with torch.no_grad():
        right = (learner(tasks, evaluating=True).output.argmax(-1) == tasks.query.y).float().mean()
    assert learner.norms.startswith("statistics of the support set") and right > 0.9


def test_a_name_that_is_nearly_its_own_is_suggested():
    with pytest.raises(InputError, match="Did you mean `drawings`"):
        open_base("drawing")
