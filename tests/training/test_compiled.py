"""Compiled trainings: several steps in a piece are what they are one by one, and a stop changes no bit."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: install g++")


@compiler
def test_pieces_of_steps_end_with_the_bits_of_single_steps_also_after_a_stop(tmp_path):
    program = Path(__file__).with_name("compiled_runs.py")
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["stopped at"] == 10
    assert found["single"] and found["resumed"]
    assert found["means"] < 1e-6
