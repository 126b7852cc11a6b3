"""Meta-training: the outer loop, and everything that has to survive it.

The state of a run is the learner, the optimizer, the step and a few sums; a checkpoint holds all of it, and tasks are a
function of the step. So a run that is killed and resumed ends with the very bits of one that was not (on the same
machine, with the same number of threads and of workers).

Several workers each run their share of a meta-batch and add up the gradients; from then on all do the same, so their
states stay equal. The first of them logs and saves.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import inf, isfinite
from time import perf_counter
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from quickstudy.engine.distributed import ALONE, RemoteError, Sums, WorkerLost, World
from quickstudy.engine.engine import use_threads
from quickstudy.engine.memory import explain_out_of_memory
from quickstudy.errors import InputError, RunError, describe_error, suggest_nearest
from quickstudy.evaluation.dry_run import dry_run, first_tasks, restoring_buffers
from quickstudy.evaluation.evaluate import evaluate
from quickstudy.evaluation.leakage import describe_split
from quickstudy.storage.files import to_plain_or_text
from quickstudy.storage.run import Run
from quickstudy.training.config import Setup, schedule
from quickstudy.training.init_from import apply_start, find_start
from quickstudy.training.restore import load_model
from quickstudy.training.watcher import Watcher
from quickstudy.types import Params, Task

VALIDATIONS = 20  # over a run, unless the configuration says otherwise
PROBED_NUMBERS = 64  # of a quantity: more are summed up by their norm


class Stopped(RunError):
    """Training was interrupted by the user, after saving where it stood."""


class Diverged(RunError):
    """A loss or a parameter became infinite or NaN; the checkpoint before it is good."""


@dataclass
class _Progress:
    """What a checkpoint keeps beside tensors. `loss`, `metric` and `count` are the sums since the last train row.

    `initial` says what the model started from, when that was another run.
    """

    step: int = 0
    seconds: float = 0.0
    best: list[float] = field(default_factory=lambda: [-1.0, -inf])  # finite tasks, score: fewer diverged comes first
    loss: float = 0.0
    metric: float = 0.0
    count: int = 0
    initial: dict[str, Any] | None = None


def check_training(setup: Setup) -> None:
    """Refuse what cannot be trained, in seconds and before anything is written."""
    config = setup.config.train
    schedule.check_schedules(setup.learner, config.schedules)
    tasks = first_tasks(setup.family, "train", seed=setup.config.seed, size=config.meta_batch_size)
    _rehearse_evaluation(setup, tasks)
    if not config.steps:
        return
    if not setup.learner.meta_params():
        raise InputError(
            f"`method` {setup.config.method.name!r} has nothing to train here. Set `train.steps` to 0, or "
            "unfreeze the model."
        )
    dry_run(setup.learner, setup.family.of_split("train"), tasks, training=True)
    _probed(setup, tasks)
    if config.often(config.validate_every, VALIDATIONS):
        try:
            first_tasks(setup.family, "val")
        except InputError as error:
            raise InputError(f"{error} To train without validation: --train.validate_every 0.") from error


def _rehearse_evaluation(setup: Setup, tasks: Task) -> None:
    """On the training tasks; on those of the evaluation where training has other classes."""
    family = setup.family.of_split("train")
    if family.outputs != setup.family.outputs:
        split = setup.config.evaluate.split
        family, tasks = setup.judged.of_split(split), first_tasks(setup.judged, split, seed=setup.config.evaluate.seed)
    dry_run(setup.learner, family, tasks)


def train(setup: Setup, run: Run, watch: Watcher | None = None, world: World = ALONE) -> None:
    """Meta-train `setup.learner` in a run directory, from its last checkpoint if it has one.

    Ends with checkpoints `last` and, when there is validation, `best`. Of several workers only the first touches the
    directory.
    """
    with use_threads(world.threads(setup.config.compute.threads)):
        world.agree(lambda: check_training(setup))
        _distrust_vmap(setup)
        with run.writing() if world.first else nullcontext():
            _Trainer(setup, run, watch or Watcher(), world).run_through()


def named_values(learner: nn.Module) -> Params:
    """Parameters and buffers by path, also those buffers that are settings and not saved."""
    return {**dict(learner.named_parameters()), **dict(learner.named_buffers())}


class WrongGradient(UserWarning):
    """A model whose second-order gradient a kernel gets wrong."""


def _distrust_vmap(setup: Setup) -> None:
    """Hold the vectorised meta-gradient against the loop on two tasks; run on the loop where they differ."""
    learner = setup.learner
    if not setup.config.train.steps or learner.engine.backend != "vmap":
        return
    tasks = setup.family.source("train", seed=setup.config.seed, size=2)(0)
    with restoring_buffers(learner):
        found = learner.check(tasks)
    if not found.vmap_ok:
        learner.engine.leave_vmap()
    if not found.ok:
        warnings.warn(f"{found}", WrongGradient, stacklevel=3)


class _Trainer:
    def __init__(self, setup: Setup, run: Run, watch: Watcher, world: World) -> None:
        self.setup, self.run, self.watch, self.world = setup, run, watch, world
        self.config = setup.config.train
        self.learner, self.family, self.metric = setup.learner, setup.family, setup.metric
        self.source = self.family.source("train", seed=setup.config.seed, size=self.config.meta_batch_size)
        self.params = self.learner.meta_params()
        kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
        options = {"momentum": self.config.momentum} if self.config.optimizer == "sgd" else {"fused": True}
        # An optimizer refuses an empty list, and a method without parameters has nothing for it to do.
        trained = list(self.params.values()) or [torch.zeros(0)]
        self.optimizer = kinds[self.config.optimizer](trained, lr=self.config.meta_lr, **options)
        self.progress = _Progress()
        self.probes = _probed(setup, self.source(0)) if self.config.probes and self.config.steps else []
        self.validate_every = self.config.often(self.config.validate_every, VALIDATIONS)

    def run_through(self) -> None:
        self._restore()
        log = self.config.often(self.config.log_every, 200)
        save = self.config.often(self.config.checkpoint_every, 20)
        self.learner.train()
        began = perf_counter() - self.progress.seconds
        while self.progress.step < self.config.steps:
            with self._told():
                loss, stopping = self._step()
                step, last = self.progress.step, self.progress.step == self.config.steps
                self.progress.seconds = perf_counter() - began
                if step % log == 0 or last:
                    self._log_train()
                if self.probes and (step % self.config.probe_every == 0 or last):
                    self._log_probes()
                if self.validate_every and (step % self.validate_every == 0 or last):
                    self._validate()
            # Asked once, as a signal may come between saving and stopping; by several workers in the step's sum, so
            # that all stop at the same one.
            stopping = (self.watch.stopping if self.world.size == 1 else stopping) and not last
            if step % save == 0 or last or stopping:
                self._save()
            self.watch.step(step, loss)
            if stopping:
                raise Stopped(
                    f"Stopped at step {step} of {self.config.steps}; nothing is lost. "
                    f"Continue with: quickstudy train --resume {self.run.path}"
                )
        if not self.config.steps and self.world.first and "last" not in self.run.checkpoints():
            self._save()  # the start is still worth having

    def _step(self) -> tuple[float, bool]:
        """One outer step: the loss, and whether a worker was asked to stop."""
        done, config = self.progress, self.config
        schedule.apply_schedules(self.learner, config.schedules, done.step)
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.decay(done.step, config.meta_lr, config.milestones, config.gamma)
        sums = self.world.sum(self._part, list(self.params.values()))
        if not isfinite(sums.loss):
            self._stop_at(done.step + 1, f"loss became {sums.loss}")
        for param, gradient in zip(self.params.values(), sums.gradients, strict=True):
            param.grad = gradient
        if config.clip_value is not None:
            torch.nn.utils.clip_grad_value_(self.params.values(), config.clip_value)
        if config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.params.values(), config.clip_norm)
        self.optimizer.step()
        done.loss += sums.loss
        done.metric += sums.metric
        done.count += 1
        done.step += 1
        return sums.loss, sums.stopping > 0

    def _part(self) -> Sums:
        """This worker's tasks, weighted by their share of the meta-batch; there may be none."""
        seed, step, total = self.setup.config.seed, self.progress.step, self.config.meta_batch_size
        part = self.world.share(total)
        if part.start == part.stop:
            return Sums([None] * len(self.params), 0.0, 0.0, float(self.watch.stopping))
        if (
            not self.world.first
        ):  # a user's dropout: other draws than the first worker's, and resumed without being kept
            torch.manual_seed(crc32(f"{seed} {step} {self.world.rank}".encode()))
        tasks = self.source(step, part)
        outcome, gradients = self.learner.meta_gradient(tasks, seed=seed, reduction=self.config.reduction)
        share = (part.stop - part.start) / total
        if self.config.reduction == "mean" and share < 1:
            gradients = [None if gradient is None else share * gradient for gradient in gradients]
        metric = self.metric.measure(outcome.output, tasks.query.y.to(outcome.output.device)).mean()
        return Sums(gradients, share * float(outcome.loss.mean()), share * float(metric), float(self.watch.stopping))

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What the user's own tasks or model raise after thousands of good steps, on one line."""
        try:
            with explain_out_of_memory(f"Step {self.progress.step + 1}", self._standing):
                yield
        except WorkerLost as lost:
            raise WorkerLost(
                f"{lost} {self._standing()} Continue with: quickstudy train --resume {self.run.path}"
            ) from lost
        except RemoteError as error:
            raise RunError(f"Step {self.progress.step + 1} failed on {error}. {self._standing()}") from error
        except (InputError, RunError):
            raise
        except Exception as error:
            raise RunError(
                f"Step {self.progress.step + 1} failed: {describe_error(error)}. {self._standing()}"
            ) from error

    def _standing(self) -> str:
        if not (self.world.first or self.run.path.is_dir()):
            return f"What was saved is on the first worker's machine, in {self.run.path}."
        if "last" not in self.run.checkpoints():
            return "No checkpoint had been saved yet."
        return f"The last good checkpoint is `last` of step {self.run.load('last').state['step']}, in {self.run.path}."

    def _stop_at(self, step: int, what: str) -> None:
        raise Diverged(
            f"The {what} at step {step}. {self._standing()} Try a smaller `method.inner_lr` or `train.meta_lr`, or "
            "bound the meta-gradient with `train.clip_norm`."
        )

    def _log(self, kind: str, **row: Any) -> None:
        if not self.world.first:
            return
        full = {"kind": kind, "step": self.progress.step, **row}
        self.run.log(full)
        self.watch.row(full)

    def _log_train(self) -> None:
        done = self.progress
        lr = self.optimizer.param_groups[0]["lr"]
        means = {"loss": done.loss / done.count, "metric": done.metric / done.count}
        self._log("train", **means, lr=lr, seconds=done.seconds)
        done.loss, done.metric, done.count = 0.0, 0.0, 0

    def _validate(self) -> None:
        config = self.config
        ahead = config.schedules if config.select_with == "final" else {}
        with schedule.final_schedules(self.learner, ahead):
            summary = evaluate(
                self.learner, self.family, self.metric, split="val", n=config.validate_tasks, world=self.world
            )
            spread = summary.spread
            self._log(
                "val", loss=summary.loss.mean, metric=spread.mean, interval=spread.interval,
                finite=spread.finite, tasks=spread.tasks,
            )  # fmt: skip
            score = spread.mean if self.metric.larger_is_better else -spread.mean
            # A warm-up checkpoint is in effect MAML: until the schedules are over, none is the best.
            eligible = config.select_with == "current" or self.progress.step >= schedule.last_step(config.schedules)
            if eligible and spread.finite and [float(spread.finite), score] > self.progress.best:
                self.progress.best = [float(spread.finite), score]
                self._save("best")

    def _save(self, name: str = "last") -> None:
        broken = [n for n, p in self.params.items() if not p.isfinite().all()]
        if broken:  # the loss of the next step would be NaN: stop before a good checkpoint is replaced
            self._stop_at(self.progress.step, f"parameter {broken[0]} became infinite or NaN")
        if not self.world.first:
            return
        tensors = {f"model.{n}": t for n, t in self.learner.state_dict().items()}
        if name == "last":
            for index, slots in self.optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{index}.{n}": t for n, t in slots.items() if isinstance(t, Tensor)}
            tensors["rng"] = torch.get_rng_state()  # a user's dropout draws from it
            if self.learner.device.type == "cuda":
                tensors["rng.cuda"] = torch.cuda.get_rng_state(self.learner.device)
        tensors = {n: t.detach().cpu() for n, t in tensors.items()}
        self.run.save(name, tensors, vars(self.progress) | {"tasks": to_plain_or_text(self.family.describe())})

    def _restore(self) -> None:
        """The first worker's start or checkpoint, on all."""
        self.world.from_first(self._begin)
        if self.world.size > 1:
            state = self.learner.state_dict(), self.optimizer.state_dict(), self.progress
            model, optimizer, self.progress = self.world.from_first(lambda: state)
            if not self.world.first:
                self.learner.load_state_dict(model)
                self.optimizer.load_state_dict(optimizer)

    def _begin(self) -> None:
        if "last" not in self.run.checkpoints():
            self.run.rewind(0)
            torch.manual_seed(self.setup.config.seed)  # whatever was drawn between building and here
            if self.setup.config.init_from:
                found = find_start(self.setup.config.init_from, self.learner, self.setup.named)
                apply_start(found, self.learner)
                self.progress.initial = found.told()
            return
        tensors, state = self.run.load("last")
        load_model(self.setup, tensors, f"Checkpoint `last` of {self.run.path}")
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, slot = name.split(".", 2)
                slots.setdefault(int(index), {})[slot] = value
        self._check_slots(tensors, state, {slot for held in slots.values() for slot in held})
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        torch.set_rng_state(tensors["rng"])
        if self.learner.device.type == "cuda" and "rng.cuda" in tensors:  # a run may have begun on another device
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.learner.device)
        self._check_data(state.pop("tasks", {}))
        self.progress = _Progress(**state)
        self.run.rewind(self.progress.step)

    def _check_data(self, saved: dict[str, Any]) -> None:
        """Training goes on with the pictures it began with: a data root may hold others by now."""
        for split in ("train", "val"):
            then, now = (describe_split(of, split) for of in (saved, to_plain_or_text(self.family.describe())))
            if "data" in then and then["data"] != now.get("data"):
                raise InputError(
                    f"{self.run.path} was trained on {then.get('name')}, data {then['data']}; what is there now "
                    f"is {now.get('name')}, data {now.get('data')}. Put the files back, or start a new run."
                )

    def _check_slots(self, tensors: Params, state: dict[str, Any], slots: set[str]) -> None:
        if "rng" not in tensors:
            raise InputError(
                f"Checkpoint `last` of {self.run.path} has no optimizer state, so training cannot go on from it; a "
                "copy of `best` has none. Start a new run, or evaluate this one."
            )
        held = {
            "adam": {"step", "exp_avg", "exp_avg_sq"},
            "sgd": {"momentum_buffer"} if self.config.momentum else set(),
        }
        if state["step"] and self.params and slots != held[self.config.optimizer]:
            raise InputError(
                f"Checkpoint `last` of {self.run.path} has the state of another optimizer than config.yaml names "
                f"({self.config.optimizer}, momentum {self.config.momentum}). Put config.yaml back, or start a new run."
            )

    def _log_probes(self) -> None:
        if not self.world.first:
            return
        held, seen = named_values(self.learner), {}
        if set(self.probes) - set(held):  # of the whole meta-batch of the step that is done
            seen = self.learner.observe(self.source(self.progress.step - 1), seed=self.setup.config.seed)
        for name in self.probes:
            value = held[name] if name in held else seen[name]
            if name in seen and value.numel() > PROBED_NUMBERS:  # per task: [T, ...]
                value = value.mean(0)
            if value.numel() > PROBED_NUMBERS:
                value = value.square().sum().sqrt()
            self._log("probe", name=name, value=value.detach().tolist())


def _probed(setup: Setup, tasks: Task) -> list[str]:
    """The names of what is probed."""
    patterns = setup.config.train.probes
    if not patterns:
        return []
    with restoring_buffers(setup.learner):
        known = [*named_values(setup.learner), *setup.learner.observe(tasks)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise InputError(
                f"`train.probes` has {pattern!r}, which matches nothing. {suggest_nearest(pattern, known)}"
            )
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]
