"""Several processes on one job: they save and end when they are told to, and when nobody waits for them any more."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PATIENCE = 300
"""Seconds after which a process is taken to hang."""

OWN = """
import time
from pathlib import Path

def work(watcher, console, number):
    Path("begun").touch()
    while not watcher.stopping:
        time.sleep(0.01)
    Path("saved").touch()
"""
FIRST = """
import own
from quickstudy.cli.side_by_side import run_side_by_side
from quickstudy.cli.terminal import Console

run_side_by_side(own.work, (1,), 1, Console())
"""


def wait_for_file(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_work_is_saved_however_the_first_process_ends(tmp_path, monkeypatch, number):
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", FIRST], cwd=tmp_path, stderr=subprocess.DEVNULL) as first:
        wait_for_file(tmp_path / "begun")
        first.send_signal(number)
        first.wait(PATIENCE)
    assert first.returncode != 0
    wait_for_file(tmp_path / "saved")
