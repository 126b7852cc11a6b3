"""The search for inputs that break the law: a few in the quick suite, and by `make fuzz` new ones for an hour."""

import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from time import monotonic

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kinds import KINDS, Kind, damage
from lawful import find_faults

BATCH = 20
"""Inputs of one kind before the next kind has its turn."""


def try_inputs(kind: Kind, base: Path, how: settings, tell: Callable[[int], None] = lambda code: None) -> None:
    """Try damaged inputs, and tell their exit codes. What an AssertionError is about is left in `base/place`."""

    @how
    @given(st.randoms(use_true_random=False))
    def input_obeys_the_law(random):
        place, words = damage(kind, random, base)
        faults, done = find_faults(words, place, kind.writable)
        tell(done.code)
        assert not faults, f"{words} in {place}: {'; '.join(faults)}\n{done.out[-2000:]}\n{done.err[-2000:]}"

    input_obeys_the_law()


PLAIN = settings(database=None, deadline=None, print_blob=False, suppress_health_check=list(HealthCheck))


def quick(kind: Kind) -> settings:
    """The same inputs in every session."""
    return settings(PLAIN, max_examples=kind.count, derandomize=True)


def search(minutes: float, folder: Path) -> int:
    """Try new inputs of every kind in turn; the exit code. What breaks the law is kept in the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    codes: dict[str, list[int]] = {name: [] for name in KINDS}
    end = monotonic() + 60 * minutes
    how = settings(PLAIN, max_examples=BATCH, phases=[Phase.generate], derandomize=False)
    faults = 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):  # what was found until then is told
        for name in cycle(KINDS):
            if monotonic() > end:
                break
            base = folder / "work"
            base.mkdir(parents=True, exist_ok=True)
            try:
                try_inputs(KINDS[name], base, how, codes[name].append)
            except Exception as fault:  # Hypothesis has one of its own for an input that broke the law only once
                faults += 1
                kept = folder / f"{faults:03d}-{name.replace(' ', '-')}"
                (base / "place").rename(kept)
                # What broke the law only once is inside Hypothesis' own error.
                told = "\n".join(map(str, (fault, *getattr(fault, "exceptions", ()))))
                (kept / "fault.txt").write_text(told, errors="replace")
                print(f"FAULT in {name}: {kept}\n{told}", flush=True)
    shutil.rmtree(folder / "work", ignore_errors=True)
    for name, each in codes.items():
        print(f"{len(each):6d} {name}: {dict(Counter(each))}")
    tried = sum(map(len, codes.values()))
    print(f"{tried:6d} inputs by exit code, {faults} faults{f', kept in {folder}' if faults else ''}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(search(float(sys.argv[1]), Path("build/fuzz").absolute()))
