"""The examples run as they say."""

import re
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from quickstudy.tasks.images.drawings import read_drawings

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def letters(tmp_path):
    """Six symbols, eight drawings of each, dark ink on white paper."""
    found = read_drawings()
    for symbol in range(6):
        (tmp_path / f"symbol {symbol}").mkdir()
        for number in range(8):
            pixels = 255 - found.pixels[20 * (30 * symbol) + number, 0]
            Image.fromarray(pixels).resize((60, 60)).save(tmp_path / f"symbol {symbol}" / f"{number}.png")
    return tmp_path


def run(name, *words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


def test_drawn_symbols_of_a_folder(letters, monkeypatch, capsys):
    out = run("drawn_symbols.py", letters, "--tasks", 10, monkeypatch=monkeypatch, capsys=capsys)
    assert re.findall(r"(\d+-way \d+-shot)", out) == ["5-way 1-shot", "5-way 5-shot"], "there are six symbols"
    assert all(float(right) > 85 for right in re.findall(r": ([\d.]+) ± ", out))


def test_drawn_symbols_within_alphabets(monkeypatch, capsys):
    out = run("drawn_symbols.py", "--tasks", 10, monkeypatch=monkeypatch, capsys=capsys)
    assert re.search(r"20-way 1-shot: [\d.]+ ± [\d.]+ % right on 10 tasks, list [0-9a-f]{12}", out)


def test_a_model_and_data_of_ones_own(monkeypatch, capsys):
    out = run("own_model.py", monkeypatch=monkeypatch, capsys=capsys)
    assert float(re.search(r"200 new tasks: ([\d.]+)", out)[1]) > 0.6
