"""Meta-training: the outer loop, its checkpoints and its logs.

The state of a run is the learner, the optimizer, the step and a few sums. A checkpoint holds all of it, and the tasks
are a function of the step. So a run that is killed and resumed ends with exactly the numbers of a run that was not
killed (on the same machine, with the same number of threads and workers).

With several workers, each computes its share of a meta-batch, and the gradients are summed. Then all take the same
step, so their states stay equal. Only the first worker logs and saves.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from math import isfinite
from time import perf_counter
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from quickstudy.engine.distributed import SINGLE_WORKER, RemoteError, StepSums, WorkerLostError, World
from quickstudy.engine.engine import Engine, Gradients
from quickstudy.engine.memory import explain_out_of_memory
from quickstudy.engine.threads import use_threads
from quickstudy.errors import InputError, RunError, UserErrors, suggest_nearest
from quickstudy.evaluation.dry_run import draw_first_tasks, dry_run, dry_run_evaluation, restoring_buffers
from quickstudy.evaluation.evaluate import evaluate
from quickstudy.evaluation.leakage import describe_split
from quickstudy.rules.params import matches
from quickstudy.rules.torch_private import tree_leaves
from quickstudy.storage.checkpoints import MODEL, check_storable
from quickstudy.storage.files import to_plain_or_text
from quickstudy.storage.run import Run, resume_command
from quickstudy.training.compile_ahead import CompileAhead
from quickstudy.training.config import Interface, Setup, schedule
from quickstudy.training.fastest_way import find_fastest_way
from quickstudy.training.init_from import apply_start, find_start
from quickstudy.training.optimizer import (
    check_generators,
    check_optimizer,
    generator_tensors,
    make_optimizer,
    optimizer_tensors,
    restore_generators,
)
from quickstudy.training.progress import Progress, read_progress
from quickstudy.training.restore import check_model
from quickstudy.training.watcher import Watcher
from quickstudy.types import Outcome, Params, Task, move

LOGS, VALIDATIONS, CHECKPOINTS = 200, 20, 20
"""How often each happens over a run, unless the configuration gives an interval in steps."""

MAX_PIECE, MAX_PIECE_NUMBERS = 32, 2**18
"""The most steps whose tasks are drawn at once, and the most numbers in them, where the meta-gradient is compiled."""

TIMED_STEPS, WORTH_COMPILING = 40, 60.0
"""With `compute.compile: auto`: the steps by which a training is timed, and the seconds that must be left of it."""

TIMINGS, MAX_COMPILED_ERROR = 6, 1e-3
"""How often a step is timed both ways, and how far (relative, in float32) the two gradients may differ."""

MAX_PROBED_VALUES = 64
"""A probed quantity with more values than this is logged by its norm."""


class StoppedError(RunError):
    """The user stopped the training. Its state was saved."""


class DivergedError(RunError):
    """A loss or a parameter became infinite or NaN. The last checkpoint is from before that."""


def check_training(setup: Setup) -> None:
    """Refuse a setup that cannot be trained. This takes seconds, and nothing is written."""
    config = setup.config.train
    check_storable(setup.learner.state_dict())  # before hours of training
    schedule.check_schedules(setup.learner, config.schedules)
    tasks = draw_first_tasks(setup.family, "train", seed=setup.config.seed, size=config.meta_batch_size)
    if config.steps:
        _check_gradients(setup)
    _dry_run_evaluation(setup, tasks)
    if not config.steps:
        return
    if not setup.learner.meta_params():
        raise InputError(
            f"`method` {setup.config.method.name!r} has nothing to train here. Set `train.steps` to 0, or "
            "unfreeze the model."
        )
    dry_run(setup.learner, setup.family.of_split("train"), tasks, training=True)
    _select_probes(setup, tasks)
    if config.interval(config.validate_every, VALIDATIONS):
        try:
            draw_first_tasks(setup.family, "val")
        except InputError as error:
            raise InputError(f"{error} To train without validation: --train.validate_every 0.") from error


def _check_gradients(setup: Setup) -> None:
    """Check the learner on two tasks. Where `vmap` is wrong, the loop is used; what ends the process is refused.

    It comes first, because it runs in a copy of this process.
    """
    tasks = setup.family.source("train", seed=setup.config.seed, size=2)(0)
    try:
        report = setup.learner.check(tasks)
    except Exception:  # of the model or the tasks; the dry runs name it
        return
    if report.fatal:
        raise InputError(f"{report}")
    setup.learner.heed(report)


def _dry_run_evaluation(setup: Setup, tasks: Task) -> None:
    """Try an evaluation on the training tasks, or on those of the evaluation where training has other classes."""
    family, asked = setup.family.of_split("train"), setup.config.evaluate
    if family.outputs == setup.family.outputs:
        dry_run(setup.learner, family, tasks)
    else:
        dry_run_evaluation(setup.learner, setup.eval_family, asked.split, asked.seed)


def train(setup: Setup, run: Run, watch: Watcher | None = None, world: World = SINGLE_WORKER) -> None:
    """Meta-train `setup.learner` in a run directory, from its last checkpoint if it has one.

    The run then has the checkpoint `last` and, if there was a validation, `best`. Only the first worker writes to the
    directory.
    """
    with use_threads(world.threads(setup.config.compute.threads)):
        world.agree(partial(check_training, setup))
        with run.writing() if world.first else nullcontext():
            _Trainer(setup, run, watch or Watcher(), world).train()


def named_values(learner: nn.Module) -> Params:
    """Parameters and buffers by path, with the buffers that hold settings and are not saved."""
    return {**dict(learner.named_parameters()), **dict(learner.named_buffers())}


class _Trainer:
    """The training of one run: everything that changes from step to step."""

    def __init__(self, setup: Setup, run: Run, watch: Watcher, world: World) -> None:
        self.setup, self.run, self.watch, self.world = setup, run, watch, world
        self.config = setup.config.train
        self.learner, self.family, self.metric = setup.learner, setup.family, setup.metric
        self.source = self.family.source("train", seed=setup.config.seed, size=self.config.meta_batch_size)
        self.params = self.learner.meta_params()
        self.optimizer = make_optimizer(self.config, self.params)
        self.progress = Progress()
        self.probes = _select_probes(setup, self.source(0)) if self.config.probes and self.config.steps else []
        self.validate_every = self.config.interval(self.config.validate_every, VALIDATIONS)
        self.log_every = self.config.interval(self.config.log_every, LOGS)
        self.save_every = self.config.interval(self.config.checkpoint_every, CHECKPOINTS)
        self._may_compile = setup.config.compute.compile == "auto" and world.size == 1
        self.ahead: CompileAhead | None = None
        self.timed: list[float] = []
        self.piece: Iterator[tuple[Task, tuple[Outcome, Gradients]]] = iter(())

    def train(self) -> None:
        """Take every outer step that is left."""
        self._restore()
        self._choose_way()
        if self.progress.compiled_from is not None and self.learner.engine.backend != "loop":
            self._may_compile = False
            self.learner.engine = self.learner.engine.replace(compile=True)
        try:
            self._take_steps()
        finally:
            if self.ahead:
                self.ahead.close()

    def _choose_way(self) -> None:
        """Run the tasks of a long training in the way that is fastest here.

        The ways agree up to rounding only. So the checkpoints say which one was taken, and a resumed run takes it.
        """
        progress, learner, steps = self.progress, self.learner, self.config.steps
        if self.world.size > 1 or not self.params or (progress.step and progress.way is None):
            return
        with UserErrors(self._describe_failure), self._explain_errors():
            tasks = self.source(progress.step)
            learner.engine.settle(learner, move(tasks.support.x, learner.device))
            found = None if progress.step else find_fastest_way(learner, tasks, steps)
        if found:
            progress.way, seconds = found
            self._log("way", way=progress.way, **{f"{way}_seconds": taken for way, taken in seconds.items()})
        if progress.way in learner.engine.ways():
            learner.engine.take(progress.way)

    def _take_steps(self) -> None:
        self.learner.train()
        start = perf_counter() - self.progress.seconds
        while self.progress.step < self.config.steps:
            with UserErrors(self._describe_failure), self._explain_errors():
                if self._may_compile:
                    self._consider_compiling()
                loss, stopping = self._step()
                step, last = self.progress.step, self.progress.step == self.config.steps
                self.progress.seconds = perf_counter() - start
                if step % self.log_every == 0 or last:
                    self._log_train()
                if self.probes and (step % self.config.probe_every == 0 or last):
                    self._log_probes()
                if self.validate_every and (step % self.validate_every == 0 or last):
                    self._validate()
            # Read once: a signal may come between saving and stopping. Several workers read it in the step's sum, so
            # that all stop at the same step.
            stopping = (self.watch.stopping if self.world.size == 1 else stopping) and not last
            if step % self.save_every == 0 or last or stopping:
                self._save()
            self.watch.step(step, loss)
            if stopping:
                raise StoppedError(
                    f"Stopped at step {step} of {self.config.steps}; nothing is lost. "
                    f"Continue with: {resume_command(self.run.path)}"
                )
        if not self.config.steps and self.world.first and "last" not in self.run.checkpoints():
            self._save()  # a run of 0 steps has its start as a checkpoint, so that it can be evaluated

    def _consider_compiling(self) -> None:
        """Begin to compile where many steps are left; once that has ended, go on with what is faster.

        The checkpoint that is then saved says from which step on a run is compiled, so that a resumed run goes on in
        the same way.
        """
        progress = self.progress
        if self.ahead is None:
            self.timed.append(progress.seconds)
            if len(self.timed) <= TIMED_STEPS:
                return
            half = TIMED_STEPS // 2  # the first half fills caches
            each = (self.timed[-1] - self.timed[half]) / half
            suits = self.learner.engine.backend == "vmap" and self.learner.device.type == "cpu"
            if suits and each * (self.config.steps - progress.step) > WORTH_COMPILING:
                self.ahead = CompileAhead(self.setup.config, progress.step)
            else:
                self._may_compile = False
        elif self.ahead.ended:
            self._may_compile = False
            if not self.ahead.compiled:
                self._log("compile", compiled=False)
            elif self._is_faster_compiled():
                progress.compiled_from = progress.step
                self._save()

    def _is_faster_compiled(self) -> bool:
        """Compute the next meta-gradient both ways. If the compiled one is right and faster, keep its engine."""
        learner, eager, params = self.learner, self.learner.engine, self.params.values()
        compiled = eager.replace(compile=True)
        tasks = self.source(self.progress.step)
        seconds: dict[Engine, list[float]] = {eager: [], compiled: []}
        found: dict[Engine, Tensor] = {}
        with restoring_buffers(learner), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a refusal to compile; the log says it
            for engine in (eager, compiled) * TIMINGS:
                learner.engine, start = engine, perf_counter()
                _, gradients = learner.meta_gradient(tasks, seed=self.setup.config.seed)
                seconds[engine].append(perf_counter() - start)
                filled = [p.new_zeros(p.shape) if g is None else g for g, p in zip(gradients, params, strict=True)]
                found[engine] = torch.cat([g.flatten() for g in filled])
        error = (found[compiled] - found[eager]).norm() / found[eager].norm()
        best = {engine: min(times) for engine, times in seconds.items()}
        chosen = compiled.compiles and best[compiled] < best[eager] and bool(error < MAX_COMPILED_ERROR)
        learner.engine = compiled if chosen else eager
        self._log("compile", compiled=chosen, eager_seconds=best[eager], compiled_seconds=best[compiled])
        return chosen

    def _step(self) -> tuple[float, bool]:
        """Take one outer step. Returned are the loss, and whether a worker was asked to stop."""
        progress, config = self.progress, self.config
        schedule.apply_schedules(self.learner, config.schedules, progress.step)
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.decay(progress.step, config.meta_lr, config.milestones, config.gamma)
        sums = self.world.sum(self._compute_share, list(self.params.values()))
        if not isfinite(sums.loss):
            self._raise_diverged(progress.step + 1, f"loss became {sums.loss}")
        for param, gradient in zip(self.params.values(), sums.gradients, strict=True):
            param.grad = gradient
        if config.clip_value is not None:
            torch.nn.utils.clip_grad_value_(self.params.values(), config.clip_value)
        if config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.params.values(), config.clip_norm)
        self.optimizer.step()
        progress.loss += sums.loss
        progress.metric += sums.metric
        progress.count += 1
        progress.step += 1
        return sums.loss, sums.stopping > 0

    def _compute_share(self) -> StepSums:
        """Gradients, loss and metric of this worker's tasks, weighted by their share of the meta-batch.

        A worker has no tasks when there are more workers than tasks.
        """
        seed, step, total = self.setup.config.seed, self.progress.step, self.config.meta_batch_size
        part = self.world.share(total)
        if part.start == part.stop:
            return StepSums([None] * len(self.params), 0.0, 0.0, float(self.watch.stopping))
        if not self.world.first:
            # A user's dropout draws other numbers here than on the first worker. They are a function of the step, so
            # that a checkpoint needs the first worker's generator only.
            torch.manual_seed(crc32(f"{seed} {step} {self.world.rank}".encode()))
        found = next(self.piece, None)
        if found is None:
            self.piece = self._begin_piece(part)
            found = next(self.piece)
        tasks, (outcome, gradients) = found
        share = (part.stop - part.start) / total
        if self.config.reduction == "mean" and share < 1:
            gradients = [None if gradient is None else share * gradient for gradient in gradients]
        metric = self.metric.measure(outcome.output, tasks.query.y.to(outcome.output.device)).mean()
        return StepSums(
            gradients, share * float(outcome.loss.mean()), share * float(metric), float(self.watch.stopping)
        )

    def _begin_piece(self, part: slice) -> Iterator[tuple[Task, tuple[Outcome, Gradients]]]:
        """The tasks of the next steps and, when its turn comes, the meta-gradient of each.

        A piece ends where more may change than the values of parameters. Its length changes no number.
        """
        start, config = self.progress.step, self.config
        steps = [self.source(start, part)]
        numbers = sum(leaf.numel() for leaf in tree_leaves((steps[0].support, steps[0].query)))
        most = min(MAX_PIECE, MAX_PIECE_NUMBERS // numbers) if self.learner.engine.compile else 1
        values = [given.at(start) for given in config.schedules.values()]
        events = [every for every in (self.log_every, self.save_every, self.validate_every) if every]
        events += [config.probe_every] if self.probes else []
        end = min([config.steps, start + most, *(start + every - start % every for every in events)])
        for step in range(start + 1, end):
            if [given.at(step) for given in config.schedules.values()] != values:
                break
            try:
                steps.append(self.source(step, part))
            except Exception:  # of a user's tasks: it is raised when its turn comes
                break
        found = self.learner.meta_gradients(steps, seed=self.setup.config.seed, reduction=config.reduction)
        return zip(steps, found, strict=True)

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        """Name the last checkpoint in the errors of memory and of other workers."""
        try:
            with explain_out_of_memory(f"Step {self.progress.step + 1}", self._describe_checkpoint):
                yield
        except WorkerLostError as lost:
            raise WorkerLostError(
                f"{lost} {self._describe_checkpoint()} Continue with: {resume_command(self.run.path)}"
            ) from lost
        except RemoteError as error:
            raise RunError(f"Step {self.progress.step + 1} failed on {error}. {self._describe_checkpoint()}") from error

    def _describe_failure(self, what: str) -> str:
        return f"Step {self.progress.step + 1} failed: {what}. {self._describe_checkpoint()}"

    def _describe_checkpoint(self) -> str:
        if not (self.world.first or self.run.path.is_dir()):
            return f"What was saved is on the first worker's machine, in {self.run.path}."
        if "last" not in self.run.checkpoints():
            return "No checkpoint had been saved yet."
        return f"The last good checkpoint is `last` of step {self.run.load('last').state['step']}, in {self.run.path}."

    def _raise_diverged(self, step: int, what: str) -> None:
        raise DivergedError(
            f"The {what} at step {step}. {self._describe_checkpoint()} Try a smaller `method.inner_lr` or "
            "`train.meta_lr`, or bound the meta-gradient with `train.clip_norm`."
        )

    def _log(self, kind: str, **row: Any) -> None:
        if not self.world.first:
            return
        full_row = {"kind": kind, "step": self.progress.step, **row}
        self.run.log(full_row)
        self.watch.row(full_row)

    def _log_train(self) -> None:
        """Log the means since the last row."""
        progress = self.progress
        lr = self.optimizer.param_groups[0]["lr"]
        means = {"loss": progress.loss / progress.count, "metric": progress.metric / progress.count}
        self._log("train", **means, lr=lr, seconds=progress.seconds)
        progress.loss, progress.metric, progress.count = 0.0, 0.0, 0

    def _validate(self) -> None:
        """Validate, log it, and save the learner as `best` if it is the best so far."""
        config = self.config
        schedules = config.schedules if config.select_with == "final" else {}
        with schedule.final_schedules(self.learner, schedules):
            summary = evaluate(
                self.learner, self.family, self.metric, split="val", n=config.validate_tasks, world=self.world
            )
            spread = summary.spread
            self._log(
                "val", loss=summary.loss.mean, metric=spread.mean, interval=spread.interval,
                finite=spread.finite, tasks=spread.tasks, name=self.metric.name,
            )  # fmt: skip
            score = spread.mean if self.metric.larger_is_better else -spread.mean
            # During HyperMAML's warm-up the learner is MAML in effect. So `best` is chosen only after all schedules.
            eligible = config.select_with == "current" or self.progress.step >= schedule.last_step(config.schedules)
            if eligible and spread.finite and [float(spread.finite), score] > self.progress.best:
                self.progress.best = [float(spread.finite), score]
                self._save("best")

    def _save(self, name: str = "last") -> None:
        broken = [n for n, p in self.params.items() if not p.isfinite().all()]
        if broken:  # the next step's loss would be NaN; the good checkpoint must stay
            self._raise_diverged(self.progress.step, f"parameter {broken[0]} became infinite or NaN")
        if not self.world.first:
            return
        tensors = {f"{MODEL}{n}": t for n, t in self.learner.state_dict().items()}
        if name == "last":
            tensors |= optimizer_tensors(self.optimizer) | generator_tensors(self.learner.device)
        tensors = {n: t.detach().cpu() for n, t in tensors.items()}
        tasks = {
            "tasks": to_plain_or_text(self.family.describe()),
            "interface": Interface.of(self.family).model_dump(mode="json"),
        }
        self.run.save(name, tensors, self.progress.model_dump() | tasks)

    def _restore(self) -> None:
        """Load the first worker's start or checkpoint on all workers."""
        self.world.from_first(self._start_or_resume)
        model, optimizer, self.progress = self.world.from_first(self._state)
        if not self.world.first:
            self.learner.load_state_dict(model)
            self.optimizer.load_state_dict(optimizer)

    def _state(self) -> tuple[dict[str, Any], dict[str, Any], Progress]:
        return self.learner.state_dict(), self.optimizer.state_dict(), self.progress

    def _start_or_resume(self) -> None:
        if "last" not in self.run.checkpoints():
            self.run.rewind(0)
            torch.manual_seed(self.setup.config.seed)  # the same draws, whatever was drawn after the model was built
            if self.setup.config.init_from:
                start = find_start(self.setup.config.init_from, self.learner, self.setup.model_shapes)
                apply_start(start, self.learner)
                self.progress.initial = start.to_plain()
            return
        checkpoint, what = self.run.load("last"), f"Checkpoint `last` of {self.run.path}"
        progress, tensors = read_progress(checkpoint, what), checkpoint.tensors
        model = check_model(self.learner, tensors, what)
        slots = check_optimizer(self.config, self.params, tensors, progress.step, what)
        check_generators(tensors, self.learner.device, what)
        self._check_data(checkpoint.state.get("tasks", {}))
        self.learner.load_state_dict(model)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        restore_generators(tensors, self.learner.device, what)
        self.progress = progress
        self.run.rewind(progress.step)

    def _check_data(self, saved: dict[str, Any]) -> None:
        """Refuse to resume on other pictures than the run began with: the files may have changed."""
        for split in ("train", "val"):
            then, now = (describe_split(of, split) for of in (saved, to_plain_or_text(self.family.describe())))
            if "data" in then and then["data"] != now.get("data"):
                raise InputError(
                    f"{self.run.path} was trained on {then.get('name')}, data {then['data']}. The files are now "
                    f"{now.get('name')}, data {now.get('data')}. Put the old files back, or start a new run."
                )

    def _log_probes(self) -> None:
        if not self.world.first:
            return
        values, observed = named_values(self.learner), {}
        if set(self.probes) - set(values):  # observed on the whole meta-batch of the last step
            observed = self.learner.observe(self.source(self.progress.step - 1), seed=self.setup.config.seed)
        for name in self.probes:
            value = values[name] if name in values else observed[name]
            if name in observed and value.numel() > MAX_PROBED_VALUES:  # one value for each task: [T, ...]
                value = value.mean(0)
            if value.numel() > MAX_PROBED_VALUES:
                value = value.square().sum().sqrt()
            self._log("probe", name=name, value=value.detach().tolist())


def _select_probes(setup: Setup, tasks: Task) -> list[str]:
    """The names of the quantities that match `train.probes`."""
    patterns = setup.config.train.probes
    if not patterns:
        return []
    with restoring_buffers(setup.learner):
        known = [*named_values(setup.learner), *setup.learner.observe(tasks)]
    for pattern in patterns:
        if not any(matches(name, pattern) for name in known):
            raise InputError(
                f"`train.probes` has {pattern!r}, which matches nothing. {suggest_nearest(pattern, known)}"
            )
    return [name for name in known if any(matches(name, pattern) for pattern in patterns)]
