"""What a result was made with: packages, the machine and the commit."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch


def record_versions() -> dict[str, Any]:
    def installed(package: str) -> str:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return "not installed"

    return {
        "quickstudy": installed("quickstudy"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "commit": current_commit(),
    }


def current_commit(folder: Path | None = None) -> str | None:
    """Of a directory, by default the working one, with '-dirty' when it differs; None outside a repository."""
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, cwd=folder)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def package_commit() -> str | None:
    """Of this package, where it runs from a repository; installed, it may lie inside that of another project."""
    place = Path(__file__).parent
    return None if "site-packages" in place.parts else current_commit(place)


def describe_machine() -> dict[str, Any]:
    """What is printed with every table."""
    return {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "quickstudy": metadata.version("quickstudy"),
        "load before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "commit": package_commit(),
    }


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
