"""Memory: the need of a batch is measured and shown, a batch is split to fit, and steps leak nothing."""

import _thread
import gc
import warnings
import weakref
from collections import defaultdict
from pathlib import Path

import pytest
import torch
import yaml

from conftest import SINE
from quickstudy import Engine, InputError, RunError, maml
from quickstudy.engine.devices import _free_on_machine, format_bytes, parse_amount
from quickstudy.engine.engine import SplitBatchWarning
from quickstudy.engine.memory import MemoryNeed, explain_out_of_memory, is_out_of_memory, measure_memory, peak_bytes
from quickstudy.evaluation.evaluate import evaluate
from quickstudy.models.nets import mlp
from quickstudy.storage.run import Run
from quickstudy.tasks.synthetic.sine import Sine
from quickstudy.training.config import build, parse_config
from quickstudy.training.train import train
from quickstudy.training.watcher import Watcher
from quickstudy.types import move, pick

TOO_MUCH = 2**60  # bytes, more than any address space: every allocator refuses


def sine(*overrides):
    return build(parse_config(SINE, overrides))


def test_the_peak_counts_what_is_alive_at_once():
    def chain():
        x = torch.zeros(1000)  # 4 kB, and each new one while the last is alive
        for _ in range(5):
            x = x + 1
        return x

    assert peak_bytes(chain) == 8000
    assert peak_bytes(lambda: [torch.zeros(1000) for _ in range(5)]) == 20000
    given = torch.zeros(1000)
    assert peak_bytes(lambda: given.add_(1)) == 0 and peak_bytes(lambda: given.view(10, 100)) == 0


def test_a_ctrl_c_that_comes_while_a_counted_storage_is_freed_is_raised():
    """Python drops an exception that is raised in the callback of a weak reference, so no signal may be handled there.

    The test's own callback sends the signal. It is a function in C, which does not handle the signal itself. It runs
    first: the callbacks of an object are called from the newest to the oldest.
    """
    send = defaultdict(_thread.interrupt_main).__getitem__  # calls `interrupt_main` for a missing key

    def run():
        x = torch.zeros(1000)
        reference = weakref.ref(x.untyped_storage(), send)
        hash(reference)  # a key needs a hash, and a dead reference has one only if it was computed before
        del x
        return torch.zeros(1000)

    with pytest.raises(KeyboardInterrupt):
        peak_bytes(run)


@pytest.mark.parametrize("evaluating", [False, True], ids=["training", "evaluation"])
def test_the_need_of_two_tasks_predicts_that_of_many(evaluating):
    learner = maml(mlp(1, 1, hidden=(40, 40)), inner_lr=0.01, inner_steps=3, loss="mse")
    tasks = Sine().source("train", size=16)(0)

    def run(n):
        if not evaluating:
            return learner.meta_gradient(pick(tasks, slice(n)))
        with torch.no_grad():
            return learner(pick(tasks, slice(n)), evaluating=True)

    need = measure_memory(run)
    # Not equal: the sums over tasks and the gradients of the parameters are alive at other moments.
    assert need.of(16) == pytest.approx(peak_bytes(lambda: run(16)), rel=0.02)


@pytest.mark.slow
def test_memory_does_not_grow_with_tasks_in_chunks_or_on_the_loop():
    learner = maml(mlp(1, 1, hidden=(40, 40)), inner_lr=0.01, inner_steps=3, loss="mse")
    tasks = Sine().source("train", size=32)(0)

    def takes(engine, n):
        learner.engine = engine
        return peak_bytes(lambda: learner.meta_gradient(pick(tasks, slice(n))))

    assert takes(Engine("vmap"), 32) > 7 * takes(Engine("vmap"), 4)
    for engine in (Engine("vmap", chunk=8), Engine("loop")):
        # The outcome that is returned does grow: a loss and ten outputs for each task.
        assert takes(engine, 32) < 1.1 * takes(engine, 16)


def test_a_batch_that_does_not_fit_runs_in_parts_with_the_same_result():
    learner = maml(mlp(1, 1, hidden=(40, 40)), inner_lr=0.01, inner_steps=2, loss="mse").double()
    tasks = move(Sine().source("train", size=32)(0), torch.float64)
    learner.engine = Engine("vmap")
    whole = peak_bytes(lambda: learner.meta_gradient(tasks))
    outcome, gradients = learner.meta_gradient(tasks)
    learner.engine = Engine("vmap", memory=whole // 4)
    with pytest.warns(
        SplitBatchWarning, match=r"32 tasks at once would take .* Set `compute.chunk` to \d to keep it so"
    ):
        parts, cut = learner.meta_gradient(tasks)
    assert peak_bytes(lambda: learner.meta_gradient(tasks)) < whole // 3  # and the outcomes of all parts
    torch.testing.assert_close(parts, outcome)
    torch.testing.assert_close(cut, gradients)


def test_a_batch_that_fits_is_not_split_and_a_given_chunk_is_used():
    learner = maml(mlp(1, 1, hidden=(8,)), inner_lr=0.01, loss="mse")
    tasks = Sine().source("train", size=8)(0)
    seen = []
    one = learner.solve
    learner.solve = lambda *args: seen.append(1) or one(*args)
    for engine, calls in ((Engine("vmap", memory=10**9), 3), (Engine("vmap", chunk=2, memory=1), 4)):
        learner.engine, seen[:] = engine, []
        learner.meta_gradient(tasks)
        assert len(seen) == calls  # one task, two tasks, then all at once; or four chunks of two


def test_evaluation_is_split_by_its_own_need(tmp_path):
    setup = sine("--compute.backend", "vmap")
    together = evaluate(setup.learner, setup.family, setup.metric, n=50)
    with torch.no_grad():
        tasks = setup.family.source("test", size=50)(0)
        whole = peak_bytes(lambda: setup.learner(tasks, evaluating=True))
    setup.learner.engine = Engine("vmap", memory=whole // 5)
    with pytest.warns(SplitBatchWarning, match="50 tasks at once"):
        cut = evaluate(setup.learner, setup.family, setup.metric, n=50)
    assert cut.hash == together.hash
    torch.testing.assert_close(torch.from_numpy(cut.values), torch.from_numpy(together.values))


def test_measuring_does_not_change_the_random_state():
    state = torch.get_rng_state()
    measure_memory(torch.rand)
    assert torch.equal(state, torch.get_rng_state())


def test_at_least_one_task_fits():
    assert MemoryNeed(fixed=10, task=5).tasks_in(3) == 1
    assert MemoryNeed(fixed=0, task=0).tasks_in(7) == 7


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.empty(TOO_MUCH, dtype=torch.uint8),
        lambda: torch.zeros(1).expand(2**58).contiguous(),
        lambda: bytearray(TOO_MUCH),
    ],
    ids=["tensor", "copy", "python"],
)
def test_an_allocator_that_refuses_is_recognised(make):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        make()
    assert is_out_of_memory(caught.value)
    names = "Step 3: out of memory.*compute.chunk.*meta_batch_size.*compute.recompute"
    with pytest.raises(RunError, match=names), explain_out_of_memory("Step 3"):
        make()


def test_other_errors_pass_unchanged():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), explain_out_of_memory("Step 3"):
        torch.zeros(2, 3) @ torch.zeros(2, 3)


def test_running_out_of_memory_is_no_refusal_of_vmap():
    learner = maml(mlp(1, 1), inner_lr=0.01, loss="mse")
    learner.engine = Engine("vmap")

    def one(support, query, noise):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")

    learner.solve = one
    tasks = Sine().source("train", size=2)(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="allocate"):
            learner.meta_gradient(tasks)
    assert learner.engine.backend == "vmap"


HUNGRY = """
import torch
from torch import nn
class Hungry(nn.Linear):
    calls = 0
    def forward(self, x):
        Hungry.calls += self.training
        if Hungry.calls > 30:
            torch.empty(2**60, dtype=torch.uint8)
        return super().forward(x)
def net():
    return nn.Sequential(Hungry(1, 1))
"""


def test_a_run_that_runs_out_of_memory_names_settings_and_its_checkpoint(cli, place):
    (place / "hungry.py").write_text(HUNGRY)
    (place / "hungry.yaml").write_text(yaml.safe_dump(SINE | {"model": "hungry:net"}))
    words = ("--train.checkpoint_every", "1", "--train.validate_every", "0", "--train.steps", "50")
    done = cli("train", "hungry.yaml", *words, "--compute.backend", "loop", "--out", "run")
    assert done.code == 1 and "out of memory" in done.err
    for word in ("compute.chunk", "train.meta_batch_size", "compute.recompute", "last good checkpoint"):
        assert word in done.err


def test_one_task_that_is_too_large_is_refused_before_a_run_is_made(cli, place):
    done = cli("train", "sine.yaml", "--tasks.queries", str(2**50), "--out", "run")
    assert done.code == 1 and "out of memory" in done.err and "tasks.queries" in done.err
    assert not (place / "run").exists()


@pytest.mark.parametrize("method", [pytest.param("maml", marks=pytest.mark.slow), "mtnet"])
def test_five_hundred_steps_leak_no_memory(tmp_path, method):
    """The number of live tensors is the same at every step; resident memory stops growing."""
    setup = sine("--method", method, "--train.steps", "600", "--train.validate_every", "0", "--train.log_every", "600")
    run = Run.create(tmp_path / "run", setup.config.model_dump(mode="json"))
    alive, resident = [], []

    class Count(Watcher):
        def step(self, step, loss):
            if step >= 100 and step % 100 == 0:
                gc.collect()
                alive.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))
                resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)

    train(setup, run, Count())
    assert len(alive) == 6 and len(set(alive)) == 1
    # 4 MB: an allocator may still take some pages. A leak of one task's graph (19 kB) in each step would be 10 MB.
    assert resident[-1] - resident[0] < 4e6


def test_containers_limits_count(tmp_path):
    meminfo, cgroup = tmp_path / "meminfo", tmp_path / "cgroup"
    assert _free_on_machine(meminfo, cgroup) is None
    meminfo.write_text("MemTotal:       2000 kB\nMemAvailable:   1000 kB\n")
    assert _free_on_machine(meminfo, cgroup) == 1024000
    cgroup.mkdir()
    for name, text in (("memory.max", "max"), ("memory.current", "900000"), ("memory.stat", "inactive_file 100000\n")):
        (cgroup / name).write_text(text)
    assert _free_on_machine(meminfo, cgroup) == 1024000
    (cgroup / "memory.max").write_text("1000000\n")
    assert _free_on_machine(meminfo, cgroup) == 200000


def test_amounts_are_fractions_or_bytes():
    assert parse_amount("500MB") == 5e8 and parse_amount(0.25) == 0.25 and format_bytes(3e6) == "3 MB"
    for wrong in ("half", "0 GB", 0.0, 1.5, -1.0):
        with pytest.raises(ValueError, match="fraction of what is free"):
            parse_amount(wrong)
        with pytest.raises(InputError, match="`compute.memory`: give the fraction"):
            sine("--compute.memory", str(wrong))


def test_info_tells_what_a_configuration_takes(cli):
    done = cli("info", "sine.yaml", "--train.meta_batch_size", "64", "--compute.memory", "100 KB")
    assert done.code == 0
    for word in ("vmap", "training", "64,", "at once", "evaluation", "an inner step more", "100 KB"):
        assert word in done.out
    assert not Path("run").exists() and not Path("runs").exists()
    assert "one task takes more" not in done.out
    assert "one task takes more than compute.memory" in cli("info", "sine.yaml", "--compute.memory", "1 KB").out
    assert cli("info", "run-that-is-not").code == 2
    assert "give one: quickstudy info CONFIG" in cli("info", "--train.steps", "4").err
    assert "Did you mean `sine-maml`" in cli("info", "sine-mamml", "--train.steps", "4").err


def test_info_on_a_damaged_run_reports_the_run_only(cli, place):
    (place / "run").mkdir()
    (place / "run" / "config.yaml").write_text("garbage")
    done = cli("info", "run")
    assert done.code == 2 and "start a new run" in done.err and "configuration" not in done.err


def test_info_knows_the_loop(cli):
    done = cli("info", "sine.yaml", "--compute.backend", "loop", "--json")
    assert "one at a time" in done.out and "as asked for" in done.out
