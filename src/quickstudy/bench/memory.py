"""The memory that a step needs: how far the process's resident memory rises above its level before the step."""

import sys
from pathlib import Path

from quickstudy.bench.implementations import Implementation
from quickstudy.errors import InputError

PROC_STATUS, PROC_CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measure_peak_above(implementation: Implementation) -> int:
    """The peak of resident memory during two steps or evaluations, in bytes above the level before them.

    The second one also has what the first one left behind. Measure once in a process: later, the allocator has memory
    that it kept.
    """
    before = _reset_peak()
    implementation.run(2)
    return max(0, _read_peak() - before)


def _reset_peak() -> int:
    """Set the peak back to the present level, and return this level."""
    if PROC_CLEAR_REFS.exists():
        PROC_CLEAR_REFS.write_text("5")
        return _read_status("VmRSS")
    return _read_peak()  # elsewhere the peak cannot be set back; imports alone stay below the present level


def _read_peak() -> int:
    if PROC_STATUS.exists():
        return _read_status("VmHWM")
    if sys.platform == "win32":
        raise InputError("peak memory is not measured on Windows")
    import resource  # Windows has none

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _read_status(name: str) -> int:
    for line in PROC_STATUS.read_text().splitlines():
        key, _, rest = line.partition(":")
        if key == name:
            return int(rest.split()[0]) * 1024
    raise InputError(f"{PROC_STATUS} has no {name}, so peak memory is not measured here")
