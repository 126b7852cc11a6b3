"""Timing a whole training command, as a user would: it starts, compiles, trains, validates and saves."""

import subprocess
import sys
from tempfile import TemporaryDirectory
from time import perf_counter

from quickstudy.bench.contenders import clean_environment

START = "from quickstudy.__main__ import main; raise SystemExit(main())"
TRAIN_COMMAND = ("train", "sine-mtnet", "--quiet")


def time_command() -> dict[str, float | str]:
    """Seconds of `TRAIN_COMMAND` with an empty compiler cache ("cold") and again ("warm"), or why it failed."""
    results: dict[str, float | str] = {}
    with TemporaryDirectory() as folder:
        caches = {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/cache", "TRITON_CACHE_DIR": f"{folder}/triton"}
        for name in ("cold", "warm"):
            start = perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", START, *TRAIN_COMMAND, "--out", f"{folder}/{name}"],
                env=clean_environment() | caches,
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            results[name] = perf_counter() - start if done.returncode == 0 else (lines or ["it failed"])[-1]
    return results
