"""What the tests of real use share: the command line, here and in a process of its own, and a tiny configuration."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from quickstudy.cli.main import main
from quickstudy.tasks.images.sets import IMAGE_SETS

# One thread, here and in the processes started from here: with more, threads that wait for a busy core take a hundred
# times as long over tasks as small as these.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# What a shell starts in the background ignores Ctrl-C, and so would every process started from here.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Real pictures, where they are: beside the checkout, or where the environment says. Tests that want them ask for them.
# The cache is the whole session's, so that every set is decoded once; never the user's own. Workers inherit both.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory()
    os.environ["QUICKSTUDY_CACHE"] = _CACHE.name
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    os.environ["QUICKSTUDY_TEST_DATA"] = os.environ.pop("QUICKSTUDY_DATA", "") or str(beside)
DATA = Path(os.environ["QUICKSTUDY_TEST_DATA"])
SESSION_CACHE = os.environ["QUICKSTUDY_CACHE"]

# What tests look at of real sets: name, size, recipe. Smaller than the papers' sizes where that is quicker.
DECODED = (
    ("omniglot", 28, None), ("omniglot", 28, "closerlook"), ("mnist", 28, None), ("emnist", 28, None),
    ("emnist", 28, "closerlook"), ("cub", 16, None), ("cub", 32, "closerlook"), ("mini_imagenet", 16, None),
)  # fmt: skip
DECODE = """
import json, sys
from quickstudy.tasks.images.sets import IMAGE_SETS
for name, size, recipe in json.loads(sys.argv[1]):
    IMAGE_SETS[name](size=size, recipe=recipe)
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


def held(name: str) -> Path:
    """Where a real set is, by its name or a path under the root; a skip that says how to get it where it is not."""
    folders = IMAGE_SETS[name].folders if name in IMAGE_SETS else (name,)
    there = [DATA / folder for folder in folders if (DATA / folder).exists()]
    if not there:
        known = name if name in IMAGE_SETS else "NAME"
        pytest.skip(f"{name} is not in {DATA}: `quickstudy data prepare {known}`, or set QUICKSTUDY_DATA")
    return there[0]


@pytest.fixture(scope="session")
def decoded():
    """All real sets that are there, in the session's cache. Decoded by a process of its own: checking types as tests do
    takes three times as long over 100 000 pictures.
    """
    there = [one for one in DECODED if any((DATA / folder).exists() for folder in IMAGE_SETS[one[0]].folders)]
    own = os.environ | {"QUICKSTUDY_DATA": str(DATA), "QUICKSTUDY_CACHE": SESSION_CACHE}
    subprocess.run([sys.executable, "-W", "error", "-c", DECODE, json.dumps(there)], env=own, check=True)


@pytest.fixture
def real(request, monkeypatch):
    """`real("omniglot")` is `held`, and makes the folder that holds the set the data root; all are decoded by then."""

    def rooted(name: str) -> Path:
        place = held(name)
        monkeypatch.setenv("QUICKSTUDY_DATA", str(DATA))
        if name in IMAGE_SETS:
            request.getfixturevalue("decoded")
        return place

    return rooted


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
            code = main([str(word) for word in words])
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
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=place, env=environment | options.pop("env", {}), **options
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run
