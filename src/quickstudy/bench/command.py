"""A whole command, timed as a user would time it: starting, compiling, training, validating, saving."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from quickstudy.bench.contenders import SETTINGS
from quickstudy.config import Compute

WORDS = ("train", "sine-mtnet", "--compute.compile", "true", "--quiet")


def timed() -> dict[str, float | str]:
    """Seconds of the 60 000 iterations that ship as sine-mtnet, compiled: with an empty compiler cache, and again."""
    if "compile" not in Compute.model_fields:
        return {"cold": "`compute` has no `compile`", "warm": "`compute` has no `compile`"}
    found: dict[str, float | str] = {}
    with TemporaryDirectory() as folder:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
        kept["PYTHONPATH"] = os.pathsep.join(
            p for p in (str(Path(__file__).parents[2]), kept.get("PYTHONPATH", "")) if p
        )
        environment = kept | {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/cache", "TRITON_CACHE_DIR": f"{folder}/triton"}
        for name in ("cold", "warm"):
            start = perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", "from quickstudy.cli import main; raise SystemExit(main())", *WORDS]
                + ["--out", f"{folder}/{name}"],
                env=environment,
                cwd=folder,
                capture_output=True,
                text=True,
            )
            said = [line for line in done.stderr.splitlines() if line.strip()]
            found[name] = perf_counter() - start if done.returncode == 0 else (said or ["it failed"])[-1]
    return found
