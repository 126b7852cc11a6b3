"""Run a command on a damaged input in a process of its own, and say what it did against the law.

The law, for every input: the exit code is 0, 1 or 2; there is no traceback; a failure says one line; nothing that is
printed steers the terminal; nothing is written outside the folders that are given for it; no program is started;
memory and time are bounded.
"""

import os
import re
import resource
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch

import quickstudy
from quickstudy.cli.main import run_command

MEMORY = 2**30
"""Bytes that a command may need beside what the healthy process has."""
ADDRESSES = 2**32
"""Bytes that it may ask for: allocating far more than it uses is no fault, but must not stop the machine."""
CPU_SECONDS = 120
"""A healthy input takes one or two."""
WALL_SECONDS = 300
"""What waits for ever, as for a pipe, ends here."""

ALWAYS_WRITTEN = ("out", "cache", "state", "tmp")
COMPILED = Path(quickstudy.__file__).parent / "engine" / "__pycache__"
"""Here numba keeps the loops that it compiled, the first time that a machine runs them."""
PROGRAMS = ("git", "uname")
"""What a result is recorded with asks these for versions."""


class Outcome(NamedTuple):
    """What a command came to: its exit code or minus a signal, what it printed, and what it did that is forbidden."""

    code: int
    out: str
    err: str
    forbidden: list[str]
    memory: int


def prepare_place(place: Path) -> None:
    """The folders around an input: what must not change, and where a command may write."""
    for name in ("guard/folder", "given", *ALWAYS_WRITTEN):
        (place / name).mkdir(parents=True)
    (place / "guard" / "thesis.txt").write_text("years of work\n")
    (place / "guard" / "folder" / "notes.txt").write_text("more of it\n")


def find_faults(words: Sequence[str], place: Path, writable: Sequence[str]) -> tuple[list[str], Outcome]:
    """Run the command in `place`, and compare what happened with the law."""
    before = _take_stock(place, writable)
    done = run_apart(words, place, writable)
    faults = list(done.forbidden)
    if done.code not in (0, 1, 2):
        faults.append(f"the exit code is {done.code}")
    if "Traceback (most recent call last)" in done.out + done.err:
        faults.append("a traceback")
    lines = done.err.splitlines()
    if done.code and [line for line in lines if not line.startswith("note: ")] != lines[-1:]:
        faults.append("what a failure says is not one line")
    if done.code and lines and not lines[-1].startswith("error: "):
        faults.append("what a failure says is no error")
    if odd := re.findall(r"[^\n\t\x20-\x7e\xa0-\u2027\u202f-\U0010ffff]", done.out + done.err):
        faults.append(f"it prints {odd[0]!r}")
    if done.memory > MEMORY:
        faults.append(f"it took {done.memory >> 20} MiB of memory")
    after = _take_stock(place, writable)
    faults += [f"{name} was changed" for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    return faults, done


def _take_stock(place: Path, writable: Sequence[str]) -> dict[str, Any]:
    """Every file outside of the folders that a command may write to, with what would tell a change."""
    found: dict[str, Any] = {}
    free = [str(place / name) for name in (*ALWAYS_WRITTEN, *writable)]
    for folder, folders, files in os.walk(place):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in free]
        for path in (os.path.join(folder, name) for name in (*folders, *files)):
            about = os.lstat(path)
            found[os.path.relpath(path, place)] = (about.st_mode, about.st_size, about.st_mtime_ns, about.st_ino)
    return found


@cache
def import_everything() -> None:
    """Import what verbs import when they run, so that a copy of this process need not, and start no threads."""
    torch.set_num_threads(1)
    root = Path(quickstudy.__file__).parent
    own = [".".join(("quickstudy", *path.relative_to(root).with_suffix("").parts)) for path in root.rglob("*.py")]
    others = ("matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "numpy.ma",
              "optuna", "pooch", "requests", "torch._dynamo", "torch.onnx")  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in (*own, *others):
            if not name.endswith(("__main__", "jax_peer", "peers")):
                import_module(name)


def run_apart(words: Sequence[str], place: Path, writable: Sequence[str] = ()) -> Outcome:
    """Run a command in a copy of this process, which has everything imported. What it may take is limited."""
    import_everything()
    logs = place.parent / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads in the copy, which uses none
        child = os.fork()
    if not child:
        try:
            os._exit(_command(words, place, writable, logs))
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(99)
    _, status, usage = os.wait4(child, 0)
    taken = usage.ru_maxrss * 1024 - _resident()  # a copy begins with what this process has
    out, err, forbidden = ((logs / name).read_bytes().decode(errors="replace") for name in ("out", "err", "forbidden"))
    return Outcome(os.waitstatus_to_exitcode(status), out, err, forbidden.splitlines(), taken)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _command(words: Sequence[str], place: Path, writable: Sequence[str], logs: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for name, number in ((os.devnull, 0), (logs / "out", 1), (logs / "err", 2)):
        os.dup2(os.open(name, flags if number else os.O_RDONLY), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8") for number in (1, 2))
    report = os.open(logs / "forbidden", flags)
    for name, folder in (("CACHE", "cache"), ("STATE", "state"), ("DATA", "out")):
        os.environ[f"QUICKSTUDY_{name}"] = str(place / folder)
    os.environ |= {"TMPDIR": str(place / "tmp"), "COLUMNS": "200"}
    os.chdir(place)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ADDRESSES, size + ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(WALL_SECONDS)
    free = [os.path.realpath(path) for path in (COMPILED, *(place / name for name in (*ALWAYS_WRITTEN, *writable)))]
    sys.addaudithook(lambda event, args: _watch(event, args, free, report))
    code = run_command(list(words))
    sys.stdout.flush()
    sys.stderr.flush()
    return code


CHANGED = {
    "os.mkdir": (0, 2), "os.remove": (0, 1), "os.rmdir": (0, 1), "os.rename": (1, 3), "os.link": (1, 3),
    "os.symlink": (1, 2), "os.truncate": (0, None), "os.chmod": (0, 2), "os.utime": (0, 3),
}  # fmt: skip
"""Python's audit events that change what is on the disk: which argument is the path, which the folder it is under."""


def _watch(event: str, args: tuple[Any, ...], free: Sequence[str], report: int) -> None:
    """An audit hook: report what is written outside of the free folders, and what is started."""
    if event in CHANGED:
        path, folder = (None if place is None else args[place] for place in CHANGED[event])
        follows = event in ("os.truncate", "os.chmod", "os.utime")
    elif event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
        path, folder, follows = args[0], None, not args[2] & (getattr(os, "O_NOFOLLOW", 0) | os.O_EXCL)
    elif event == "subprocess.Popen" and os.path.basename(str(args[0])) not in PROGRAMS:
        os.write(report, f"started {args[0]!r} {args[1]!r}\n".encode())
        return
    # A fork is no new program: training tries a model in a copy of its process.
    elif event in ("os.system", "os.exec", "os.posix_spawn", "socket.connect", "socket.bind"):
        if event != "os.posix_spawn" or os.path.basename(str(args[0])) not in PROGRAMS:
            os.write(report, f"{event} {args!r}\n".encode())
        return
    else:
        return
    if isinstance(path, int):
        return
    path = os.fsdecode(path)
    if isinstance(folder, int) and folder >= 0 and not os.path.isabs(path):
        path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
    above, name = os.path.split(path)
    real = os.path.realpath(path) if follows else os.path.join(os.path.realpath(above or "."), name)
    if real != os.devnull and not any(real == root or real.startswith(f"{root}/") for root in free):
        os.write(report, f"{event} {real!r}\n".encode())
