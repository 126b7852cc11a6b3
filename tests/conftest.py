"""What the tests of real use share: the command line, here and in a process of its own, and a tiny configuration."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

from drawn import fresh, moved_run, sine, taught_folder, trained  # noqa: F401  # fixtures
from quickstudy.cli.main import run_command
from quickstudy.tasks.images.downloads import SOURCES
from quickstudy.tasks.images.listing import Listing
from quickstudy.tasks.images.readers import recognise
from quickstudy.tasks.images.sets import IMAGE_SETS

# One thread, here and in the processes started from here: with more, threads that wait for a busy core take a hundred
# times as long over tasks as small as these.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# What a shell starts in the background ignores Ctrl-C, and so would every process started from here.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def threads_stay():
    """A test that leaves another number of threads behind fails, and not one that comes after it."""
    before = torch.get_num_threads()
    yield
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert after == before


# Real pictures: QUICKSTUDY_DATA is their folder; without it, tests look beside this checkout. A test that needs a set
# which is not there is skipped, and the reason says how to get the set. The whole session has one cache, so that a set
# is decoded once. It is never the user's own cache. The workers of xdist inherit both.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory()
    os.environ["QUICKSTUDY_CACHE"] = _CACHE.name
    os.environ["QUICKSTUDY_STATE"] = f"{_CACHE.name}/state"  # which runs were made here: not the user's own either
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    os.environ["QUICKSTUDY_TEST_DATA"] = os.environ.pop("QUICKSTUDY_DATA", "") or str(beside)
DATA = Path(os.environ["QUICKSTUDY_TEST_DATA"])
SESSION_CACHE = os.environ["QUICKSTUDY_CACHE"]

# How tests use real sets: sizes and recipes by name. The sizes are smaller than the papers' where that is faster.
DECODED = {
    "omniglot": ((28, None), (28, "closerlook")),
    "mnist": ((28, None),),
    "emnist": ((28, None), (28, "closerlook")),
    "cub": ((16, None), (32, "closerlook")),
    "mini_imagenet": ((16, None),),
}
DECODE = """
import json, sys
from quickstudy.tasks.images.sets import IMAGE_SETS
for size, recipe in json.loads(sys.argv[2]):
    IMAGE_SETS[sys.argv[1]](size=size, recipe=recipe)
"""

COMMAND = Path(sys.executable).with_name("quickstudy")

SINE = {
    "tasks": {"name": "sine", "shots": 5, "queries": 5},
    "model": {"name": "mlp", "hidden": [8], "std": None},
    "method": {"name": "maml", "inner_lr": 0.01},
    "train": {"steps": 20, "meta_batch_size": 2, "log_every": 1, "validate_tasks": 10, "validate_every": 10},
    "evaluate": {"tasks": 20},
}


@pytest.fixture
def double():
    """Double precision and a seeded start: in single precision correct nets differ by as much as a wrong kernel."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def find_real_set(name: str) -> Path:
    """The folder of a real set, by the name of the set or a path under the root. If it is missing, skip the test."""
    folders = IMAGE_SETS[name].folders if name in IMAGE_SETS else (name,)
    there = [DATA / folder for folder in folders if (DATA / folder).exists()]
    if not there:
        whole = name.partition("/")[0]
        way = f"get it with `quickstudy data prepare {whole}`" if whole in SOURCES else "docs/data.md says what it is"
        pytest.skip(f"{name} is not in {DATA}: {way}, and set QUICKSTUDY_DATA to the data root")
    return there[0]


@cache
def listing_of(folder: Path) -> Listing:
    """The listing of a real set, made once a session: checking types makes it slow."""
    return recognise(folder)


@pytest.fixture(scope="session")
def decode_real_set():
    """`decode_real_set("omniglot")` decodes a real set into the cache of the session, as `DECODED` says, once.

    A process of its own does it, because checking types as tests do takes three times as long over 100 000 pictures.
    """

    def decode(name: str) -> None:
        done = Path(SESSION_CACHE) / f"{name}.decoded"
        if not done.exists():
            environment = os.environ | {"QUICKSTUDY_DATA": str(DATA), "QUICKSTUDY_CACHE": SESSION_CACHE}
            command = [sys.executable, "-W", "error", "-c", DECODE, name, json.dumps(DECODED[name])]
            subprocess.run(command, env=environment, check=True)
            done.touch()

    return decode


@pytest.fixture
def real(decode_real_set, monkeypatch):
    """`real("omniglot")` is `find_real_set("omniglot")`, makes its folder the data root, and has the set decoded."""

    def rooted(name: str) -> Path:
        place = find_real_set(name)
        monkeypatch.setenv("QUICKSTUDY_DATA", str(DATA))
        if name in DECODED:
            decode_real_set(name)
        return place

    return rooted


def copy_of_this_process(work: Callable[[], object]) -> int:
    """Start a copy of this process, which does the work and ends, and return its id. It need not import torch again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads in the copy, which uses none
        child = os.fork()
    if child:
        return child
    torch.set_num_threads(1)  # the threads of kernels are not copied: a kernel that has several would wait for ever
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def wait_for(child: int) -> int:
    """How a process ended: 0, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@dataclass
class Done:
    """What a command came to. No user's error may end in a traceback, so none of these may hold one."""

    code: int
    out: str
    err: str

    def __post_init__(self):
        assert "Traceback" not in self.out + self.err, self.err


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory to work in, with sine.yaml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "sine.yaml").write_text(yaml.safe_dump(SINE))
    return tmp_path


@pytest.fixture
def cli(place, capsys):
    """`cli("train", "sine.yaml")` in this process."""

    def run(*words):
        capsys.readouterr()
        try:
            code = run_command([str(word) for word in words])
        except SystemExit as leaving:  # how the parser ends on --help and on what it cannot read
            code = leaving.code
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
def shell(place):
    """`shell("train", "sine.yaml")` as a user's terminal would, in a process of its own."""

    def run(*words, **options):
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "FORCE_COLOR")}
        command = [str(COMMAND), *map(str, words)]
        environment |= options.pop("env", {})
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=place, env=environment, check=False, **options
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run
