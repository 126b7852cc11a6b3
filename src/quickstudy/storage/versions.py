"""What a result was made with: versions of packages, the machine and the commit."""

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

import quickstudy


def record_versions() -> dict[str, Any]:
    """Versions, platform, threads and commit, as a run records them when it starts."""
    return {
        "quickstudy": quickstudy.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "commit": current_commit(),
    }


def list_extras() -> dict[str, bool]:
    """The optional parts of the package by name, and whether all that they need is installed."""
    found: dict[str, bool] = {}
    for line in (metadata.requires("quickstudy") or []) if _is_installed("quickstudy") else []:
        if needed := re.match(r"([\w.-]+)[^;]*;.*extra == ['\"](\w+)['\"]", line):
            found[needed[2]] = found.get(needed[2], True) and _is_installed(needed[1])
    return found


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def current_commit(folder: Path | None = None) -> str | None:
    """The git commit of a folder, by default the working directory; None outside a repository.

    It ends in '-dirty' when the files differ from the commit.
    """
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, cwd=folder, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def package_commit() -> str | None:
    """The git commit of this package when it runs from its repository.

    None when it is installed, because the environment may lie inside the repository of another project.
    """
    place = Path(__file__).parent
    return None if "site-packages" in place.parts else current_commit(place)


def identify_machine() -> dict[str, Any]:
    """What a measurement of speed holds for: the processor, its cores, and the versions of what computes."""
    return {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch": str(torch.__version__),
        "quickstudy": quickstudy.__version__,
    }


def describe_machine() -> dict[str, Any]:
    """The machine and the versions, as they are printed with every table."""
    same = identify_machine()
    return {
        "processor": same["processor"],
        "cores": same["cores"],
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": same["torch"],
        "quickstudy": same["quickstudy"],
        "load before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "commit": package_commit(),
    }


def processor_name() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
