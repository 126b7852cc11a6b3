"""Jobs of other processes: answers, errors, and how they end with the first process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quickstudy.cli.job_processes import Job, JobProcesses
from quickstudy.cli.terminal import Console
from quickstudy.errors import InputError, RunError
from quickstudy.storage.run import Run

PATIENCE = 300
"""Seconds after which a process is taken to hang."""


def count_to(watcher, steps):
    for step in range(1, steps + 1):
        watcher.step(step, 1 / step)
    return os.getpid(), steps


def refuse(watcher, error):
    raise error


def vanish(watcher):
    os.kill(os.getpid(), signal.SIGKILL)


def silent(*_):
    pass


def test_every_job_is_answered_and_reports_its_steps():
    seen = []
    with JobProcesses(2, Console(quiet=True)) as processes:
        jobs = [Job(str(n), count_to, (n,)) for n in range(5)]
        answers = processes.run(jobs, lambda *step: seen.append(step))
        again = processes.run([Job("again", count_to, (1,))], silent)
    assert {title: steps for title, (_, steps) in answers.items()} == {str(n): n for n in range(5)}
    assert sorted(seen) == sorted((str(n), step, 1 / step) for n in range(5) for step in range(1, n + 1))
    used = {process for process, _ in answers.values()}
    assert os.getpid() not in used and len(used) <= 2 and again["again"][0] in used
    for process in used:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


@pytest.mark.parametrize(
    "error", [InputError("no such thing"), RunError("it failed"), OSError(28, "No space left on device", "run")]
)
def test_an_error_of_a_job_is_raised_here(error):
    with pytest.raises(type(error), match=str(error).replace("[", r"\[")), JobProcesses(1, Console(quiet=True)) as own:
        own.run([Job("bad", refuse, (error,))], silent)


def test_a_process_that_was_killed_is_an_error_that_names_its_job():
    with pytest.raises(RunError, match="'lost' ended with code -9"), JobProcesses(2, Console(quiet=True)) as own:
        own.run([Job("fine", count_to, (3,)), Job("lost", vanish, ())], silent)


def start_demo(place: Path) -> subprocess.Popen:
    """A demo with two processes that is in its trainings."""
    code = (
        "import sys, quickstudy.cli.commands.demo as demo\n"
        "from quickstudy.__main__ import main\n"
        "if __name__ == '__main__':\n"
        "    demo.measure = lambda whole, processes: {'MAML': 1.0}\n"
        "    sys.argv = ['quickstudy', 'demo', '--out', 'shown']\n"
        "    sys.exit(main())\n"
    )
    (place / "begin.py").write_text(code)
    process = subprocess.Popen(
        [sys.executable, "begin.py"], cwd=place, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    log, deadline = place / "shown" / "maml" / "metrics.jsonl", time.monotonic() + PATIENCE
    while not (log.exists() and log.read_text().count("\n")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    return process


def children_of(process: int) -> list[int]:
    return [int(n) for task in Path(f"/proc/{process}/task").iterdir() for n in (task / "children").read_text().split()]


def wait_until_gone(processes: list[int]) -> None:
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        while Path(f"/proc/{process}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_demo_is_one_line_and_its_trainings_go_on(number, place, cli):
    process = start_demo(place)
    children = children_of(process.pid)
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    line = err.splitlines()[-1]
    assert process.returncode == 1 and out == "" and "Traceback" not in err
    assert line.startswith("error: Stopped; what was trained is saved in shown.") and err.count("error:") == 1
    wait_until_gone(children)
    run = Run.open(place / "shown" / "maml")
    reached = run.load("last").state["step"]
    assert 0 < reached < run.config["train"]["steps"]
    assert "Continue a training with: quickstudy train --resume shown/maml" in line
    steps = {"steps": reached + 2}
    settings = run.config | {"train": run.config["train"] | steps}
    (place / "shown" / "maml" / "config.yaml").write_text(json.dumps({"format": 1, **settings}))
    assert cli("train", "--resume", "shown/maml").code == 0


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are looked up in /proc")
def test_the_processes_of_a_killed_demo_end(place):
    process = start_demo(place)
    children = children_of(process.pid)
    assert children
    process.kill()
    process.communicate(timeout=PATIENCE)
    wait_until_gone(children)
