"""Several workers give the results of one up to rounding, one of them writes, and no end loses saved work."""

import functools
import json
import operator
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from conftest import Done
from quickstudy.engine import launch as launching
from quickstudy.engine.distributed import SINGLE_WORKER, StepSums, World, join_world
from quickstudy.engine.launch import _exit_code, _wait_for, launch_workers, open_store
from quickstudy.errors import InputError, RunError
from quickstudy.storage.run import Run

# float32: the sum over tasks has another order, and Adam divides a gradient by its size even where terms have
# cancelled. 20 steps of 1e-3 move a weight by up to 2e-2.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
TIMELESS = ("seconds", "adapt_ms", "train_seconds")

# Tasks that end a worker while they are drawn. END="12 1 SIGKILL" names the step, the worker and the signal.
MINE = """
import os, signal
from dataclasses import dataclass
from torch import nn
from quickstudy.tasks import Sine

def dropping(inputs, outputs, *, width=8):
    return nn.Sequential(nn.Linear(inputs[0], width), nn.Tanh(), nn.Dropout(0.5), nn.Linear(width, outputs))

@dataclass(frozen=True)
class Ending(Sine):
    def sample(self, draws, size, part):
        step, rank, how = os.environ.get("END", "-1 0 none").split()
        here = rank in (os.environ.get("RANK", "0"), "all") and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if draws.split == "train" and draws.step == int(step) and here:
            if how == "error":
                raise OSError("the disk of a worker is gone")
            os.kill(os.getppid() if how == "orphan" else os.getpid(), getattr(signal, how, signal.SIGKILL))
        return super().sample(draws, size, part)
"""

ENDING = ["train", "sine.yaml", "--tasks", "of_world:Ending", "--train.steps", 24, "--train.checkpoint_every", 5]


@pytest.fixture(scope="session")
def fork_server():
    """A function that runs a command in `fork_server.py`."""
    script = Path(__file__).with_name("fork_server.py")
    with subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:

        def ask(request):
            server.stdin.write(json.dumps(request) + "\n")
            server.stdin.flush()
            return json.loads(server.stdout.readline())

        yield ask
        server.stdin.close()


@pytest.fixture
def forked(place, fork_server):
    """As `shell`, in a fork of a process that has imported the package: see `fork_server.py`."""

    def run(*words, env=None):
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "FORCE_COLOR")} | (env or {})
        return Done(**fork_server({"words": [str(word) for word in words], "cwd": str(place), "env": environment}))

    return run


@pytest.fixture
def ending(place, monkeypatch):
    """The command line that trains on tasks that can end a worker."""
    (place / "of_world.py").write_text(MINE)
    return ENDING


def rows(run):
    return [{k: v for k, v in row.items() if k not in TIMELESS} for row in Run.open(run).metrics()]


def assert_same_run(one, other):
    """Equal up to rounding: the settings, every row of metrics, and every tensor that was saved."""
    first, second = Run.open(one), Run.open(other)
    assert first.config == second.config
    for row, expected in zip(rows(one), rows(other), strict=True):
        texts = {k for k, v in expected.items() if isinstance(v, str)}
        assert {k: row[k] for k in texts} == {k: expected[k] for k in texts}
        torch.testing.assert_close(*({k: v for k, v in r.items() if k not in texts} for r in (row, expected)), **CLOSE)
    assert first.checkpoints() == second.checkpoints()
    for name in first.checkpoints():
        tensors, expected = first.load(name).tensors, second.load(name).tensors
        torch.testing.assert_close(tensors, expected, **CLOSE)


# -- shares --


@pytest.mark.parametrize(("size", "tasks"), [(1, 4), (2, 5), (3, 3), (4, 2), (5, 0)])
def test_shares_are_disjoint_cover_the_batch_and_differ_by_one(size, tasks):
    parts = [list(range(tasks))[World(rank, size).share(tasks)] for rank in range(size)]
    assert functools.reduce(operator.iadd, parts, []) == list(range(tasks))
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1


def test_turns_divide_a_list_item_by_item():
    hands = [list(range(7))[World(rank, 3).turns()] for rank in range(3)]
    assert [hands[i % 3][i // 3] for i in range(7)] == list(range(7))


def test_threads_of_a_machine_are_shared_by_its_workers():
    assert [World(0, 8, local=4).threads(n) for n in (None, 2, 4, 9)] == [None, 1, 1, 2]


def test_a_world_of_one_returns_what_it_is_given_and_raises_what_is_raised():
    sums = StepSums([None], 1.0, 2.0, 0.0)
    assert SINGLE_WORKER.sum(lambda: sums, [torch.zeros(1)]) is sums
    assert (
        SINGLE_WORKER.gather(3) == [3]
        and SINGLE_WORKER.agree(lambda: 4) == 4
        and SINGLE_WORKER.from_first(lambda: 5) == 5
    )
    with pytest.raises(ZeroDivisionError):
        SINGLE_WORKER.agree(lambda: 1 / 0)


# -- the same results --


@pytest.mark.parametrize(
    "options",
    [
        ["--train.meta_batch_size", 5, "--train.probes", "[update.*, rule.*]", "--train.probe_every", 7],
        pytest.param(["--train.meta_batch_size", 1, "--train.reduction", "sum"], marks=pytest.mark.slow),
    ],
    ids=["five_tasks", "one_task"],
)
def test_two_workers_train_what_one_does(cli, forked, options):
    words = ["train", "sine.yaml", "--method", "mtnet", *options, "--train.validate_tasks", 120, "--train.clip_norm", 5]
    assert cli(*words, "--out", "one", "--quiet").code == 0
    done = forked(*words, "--out", "two", "--workers", 2)
    assert done.code == 0, done.err
    assert done.err.count("note: run: two") == 1, "one worker writes"
    assert_same_run("two", "one")


def test_two_workers_evaluate_as_one_does(cli, forked):
    assert cli("train", "sine.yaml", "--out", "run", "--quiet").code == 0
    words = ["evaluate", "run", "--evaluate.tasks", 120, "--json"]  # batches of 50, 50 and 20
    alone = json.loads(cli(*words, "--name", "alone").out)
    done = forked(*words, "--name", "shared", "--workers", 2)
    assert done.code == 0, done.err
    shared = json.loads(done.out)  # one line: one worker writes
    same = set(alone) - {"name", *TIMELESS}
    assert {k: shared[k] for k in same} == {k: alone[k] for k in same}
    results = Run.open("run").results()
    for name, array in results["alone"].arrays.items():
        assert (results["shared"].arrays[name] == array).all(), name


# -- ends, and resuming after them --


def test_a_stopped_run_resumes_with_another_number_of_workers(ending, cli, forked):
    assert cli(*ending, "--out", "whole", "--quiet").code == 0
    done = forked(*ending, "--out", "run", "--workers", 2, env={"END": "9 1 SIGINT"})  # one is asked, both stop
    assert done.code == 1 and done.err.count("error: Stopped at step 10 of 24") == 1, done.err
    assert forked("train", "--resume", "run", env={"END": "15 0 SIGTERM"}).code == 1
    assert Run.open("run").load("last").state["step"] == 16
    done = forked("train", "--resume", "run", "--workers", 2)
    assert done.code == 0, done.err
    assert_same_run("run", "whole")


@pytest.mark.slow
def test_a_lost_worker_ends_the_job_and_the_resumed_run_equals_the_whole_one(ending, forked):
    """With as many workers as before; also with dropout."""
    words = [*ending, "--model", "{name: of_world:dropping}", "--workers", 2]
    assert forked(*words, "--out", "whole").code == 0
    for victim in (0, 1):
        run = f"lost{victim}"
        began = time.monotonic()
        done = forked(*words, "--out", run, env={"END": f"12 {victim} SIGKILL"})
        assert time.monotonic() - began < 60  # far below the timeout of a step
        assert done.code == 1 and done.err.count("error:") == 1, done.err
        for said in ("A worker was lost", "`last` of step 10", f"quickstudy train --resume {run}"):
            assert said in done.err, done.err
        assert Run.open(run).load("last").state["step"] == 10
    assert forked("train", "--resume", "lost0", "--workers", 2).code == 0
    whole, again = (Run.open(name).load("last").tensors for name in ("whole", "lost0"))
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())
    assert rows("lost0") == rows("whole")


def test_workers_whose_launcher_was_killed_save_and_stop(ending, shell):
    done = shell(*ending, "--out", "run", "--workers", 2, env={"END": "12 1 orphan"})
    assert done.code == -9 and done.err.count("error:") == 1, done.err
    step = Run.open("run").load("last").state["step"]
    assert 13 <= step < 24 and f"Stopped at step {step} of 24" in done.err, done.err


def test_workers_that_are_all_killed_leave_a_message(ending, forked):
    done = forked(*ending, "--out", "run", "--workers", 2, env={"END": "12 all SIGKILL"})
    assert done.code == 1 and done.err.count("error:") == 1, done.err
    # One worker may notice the end of the other before it is killed.
    assert re.search("Workers were killed: 0 by signal 9, 1 by signal 9|A worker was lost", done.err), done.err


def test_a_worker_that_dies_before_it_joins_is_noticed(monkeypatch):
    """If memory runs out while it starts, say. Otherwise the first worker would wait for it for minutes."""
    monkeypatch.setattr(launching, "GRACE_SECONDS", 0.2)
    first, second = (subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(2))
    try:
        second.kill()
        codes = _wait_for([first, second])
        assert codes == [0, -9] and first.poll() is None
    finally:
        first.kill()
        first.communicate()
        second.communicate()
    with pytest.raises(RunError, match="Workers were killed: 1 by signal 9"):
        _exit_code(codes)


def test_an_error_on_one_worker_ends_all_with_one_message(ending, forked):
    done = forked(*ending, "--out", "run", "--workers", 2, env={"END": "6 1 error"})
    assert done.code == 1 and done.err.count("error:") == 1, done.err
    for said in ("Step 7 failed on Worker 1", "the disk of a worker is gone", "`last` of step 5"):
        assert said in done.err, done.err


def test_a_loss_that_is_no_number_ends_all_with_one_message(forked):
    done = forked("train", "sine.yaml", "--method.inner_lr", 1e30, "--workers", 2, "--out", "run")
    assert done.code == 1 and done.err.count("error:") == 1 and "The loss became nan at step" in done.err, done.err


@pytest.mark.slow
def test_torchrun_restarts_a_run_that_lost_a_worker(ending, shell):
    """Without `shell`, which allows no traceback: torchrun prints one for the lost worker."""
    assert shell(*ending, "--out", "whole").code == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "--max-restarts", "1", "-m", "quickstudy", *map(str, ending), "--out", "run"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"END": "12 0 SIGKILL"}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("error: A worker was lost") == 1, done.stderr  # by the other worker
    assert_same_run("run", "whole")


# -- wrong usage --


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "sine.yaml", "--train.stepz", 3], "`train.stepz` is no setting"),
        pytest.param(["evaluate", "nothing-here"], "There is no run at nothing-here", marks=pytest.mark.slow),
    ],
    ids=["setting", "run"],
)
def test_a_mistake_is_one_line_and_exit_code_2(forked, words, said):
    done = forked(*words, "--workers", 2)
    assert done.code == 2 and done.err.count("\n") == 1 and said in done.err, done.err


@pytest.mark.parametrize("workers", [0, -1])
def test_workers_are_counted_from_one(cli, workers):
    done = cli("train", "sine.yaml", f"--workers={workers}")
    assert done.code == 2 and f"`--workers` was {workers}" in done.err and done.err.count("\n") == 1


def test_workers_do_not_start_workers(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="already worker 1 of 2"):
        launch_workers(2, ["list"])


def test_a_rank_without_an_address_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(InputError, match="MASTER_ADDR"), join_world():
        pass


def test_the_store_listens_on_this_machine_only():
    store = open_store()
    socket.create_connection(("127.0.0.1", store.port), timeout=5).close()
    # Another address of this machine's: who listens on all interfaces answers there, too.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2" if sys.platform == "linux" else "::1", store.port), timeout=5)
