"""How much a step needs above what was there before it: the peak of the process's resident memory."""

import sys
from pathlib import Path

from quickstudy.bench.makers import Maker
from quickstudy.errors import InputError

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_above(maker: Maker, phase: str) -> int:
    """Bytes by which the process grew at most during two goes, from the level before the first.

    The second go is there for what the first leaves behind. A process's first measurement only: later ones find
    memory that the allocator has kept.
    """
    go = maker.train if phase == "train" else maker.evaluate
    before = _level()
    for _ in range(2):
        go()
    return max(0, _highest() - before)


def _level() -> int:
    """Resident memory now, and from now on the mark of the highest."""
    if RESET.exists():
        RESET.write_text("5")
        return _status("VmRSS")
    return _highest()  # the mark cannot be set back; what importing needed is below what is there now


def _highest() -> int:
    if STATUS.exists():
        return _status("VmHWM")
    if sys.platform == "win32":
        raise InputError("peak memory is not measured on Windows")
    import resource  # Windows has none

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(name: str) -> int:
    for line in STATUS.read_text().splitlines():
        key, _, rest = line.partition(":")
        if key == name:
            return int(rest.split()[0]) * 1024
    raise InputError(f"{STATUS} has no {name}, so peak memory is not measured here")
