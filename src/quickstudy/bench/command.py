"""A whole command, timed as a user would time it: starting, compiling, training, validating, saving."""

import subprocess
import sys
from tempfile import TemporaryDirectory
from time import perf_counter

from quickstudy.bench.contenders import defaults
from quickstudy.training.config import ComputeSettings

WORDS = ("train", "sine-mtnet", "--compute.compile", "true", "--quiet")


def timed() -> dict[str, float | str]:
    """Seconds of the 60 000 iterations that ship as sine-mtnet, compiled: with an empty compiler cache, and again."""
    if "compile" not in ComputeSettings.model_fields:
        return {"cold": "`compute` has no `compile`", "warm": "`compute` has no `compile`"}
    found: dict[str, float | str] = {}
    with TemporaryDirectory() as folder:
        environment = defaults() | {
            "TORCHINDUCTOR_CACHE_DIR": f"{folder}/cache",
            "TRITON_CACHE_DIR": f"{folder}/triton",
        }
        for name in ("cold", "warm"):
            start = perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", "from quickstudy.cli.main import main; raise SystemExit(main())", *WORDS]
                + ["--out", f"{folder}/{name}"],
                env=environment,
                cwd=folder,
                capture_output=True,
                text=True,
            )
            said = [line for line in done.stderr.splitlines() if line.strip()]
            found[name] = perf_counter() - start if done.returncode == 0 else (said or ["it failed"])[-1]
    return found
