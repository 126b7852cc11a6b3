"""Compiled trainings: several steps in a piece are what they are one by one, and a stop changes no bit."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quickstudy.engine.engine import Engine
from quickstudy.engine.settings import EngineSettings
from quickstudy.training import config
from quickstudy.training.compile_ahead import CompileAhead

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: install g++")


def compiled_runs(part, place):
    program = Path(__file__).with_name("compiled_runs.py")
    return subprocess.run(
        [sys.executable, str(program), part, str(place)], capture_output=True, text=True, timeout=900, check=False
    )


def last_line(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_pieces_of_steps_end_with_the_bits_of_single_steps_also_after_a_stop(tmp_path):
    found = last_line(compiled_runs("pieces", tmp_path))
    assert found["stopped at"] == 10
    assert found["single"] and found["resumed"]
    assert found["means"] < 1e-6


@pytest.mark.slow
def test_a_long_training_goes_over_to_compiled_steps_and_a_resumed_one_goes_on_so(tmp_path):
    found = last_line(compiled_runs("auto", tmp_path))
    assert found == {"row": True, "steps": [31, 31], "compiled from": [True, True], "equal": True}


def wait_for(condition):
    end = time.monotonic() + 120
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    assert condition()


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads the states of processes from /proc")
def test_the_process_that_compiles_ends_with_a_training_that_is_killed(tmp_path):
    done = compiled_runs("abandon", tmp_path)
    assert done.returncode == -signal.SIGKILL
    wait_for(lambda: not is_alive(json.loads(done.stdout)))


def test_a_process_that_fails_has_compiled_nothing():
    asked = {"tasks": {"name": "gaussians"}, "model": {"name": "mlp", "hidden": [4]}, "method": {"name": "no such"}}
    ahead = CompileAhead(config.parse_config(asked), 0)
    wait_for(lambda: ahead.ended)
    assert not ahead.compiled
    ahead.close()


def test_auto_goes_with_every_other_setting_and_compiles_nothing_by_itself():
    assert not Engine.from_settings(EngineSettings(compile="auto", recompute=True)).compile
    assert not Engine(compile="auto", backend="loop").compile
