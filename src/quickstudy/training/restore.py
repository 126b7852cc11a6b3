"""Restoring a learner: from the configuration and a checkpoint of a run, or from a directory that it was saved to."""

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quickstudy.engine.devices import choose_device
from quickstudy.engine.distributed import SINGLE_WORKER, World
from quickstudy.errors import InputError, RunError
from quickstudy.evaluation.leakage import check_leakage
from quickstudy.methods.learner import Learner
from quickstudy.rules.params import with_prefix
from quickstudy.storage.checkpoints import MODEL, Checkpoint, check_matches
from quickstudy.storage.model_files import CONFIG_FILE, TENSORS_FILE, is_model, read_model
from quickstudy.storage.run import Run
from quickstudy.storage.trust import code_parts, named_code
from quickstudy.tasks import TaskFamily
from quickstudy.training.allowance import Allowance
from quickstudy.training.config import (
    Config,
    Interface,
    Setup,
    build,
    build_learner,
    build_tasks,
    check_trust,
    complete_run,
    parse_config,
    plan_learner,
    read_blueprint,
    read_interface,
    schedule,
)
from quickstudy.training.config.overrides import parse_overrides
from quickstudy.training.progress import read_progress


def check_model(learner: Learner, tensors: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """A checkpoint's model, for `load_state_dict`. That of another method, of other shapes or types is refused."""
    own = with_prefix(tensors, MODEL)
    check_matches(own, learner.state_dict(), what)
    return own


def load(path: str | Path, checkpoint: str | None = None, *, trust: bool = False) -> Learner:
    """A trained learner, from a run or from a directory that `learner.save` or `quickstudy pack` wrote.

    `load("runs/first").adapt(Examples(x, y))` is a classifier. Neither needs the data of training.

    Args:
        path: The directory.
        checkpoint: Of a run: "best" or "last". By default "best" if the run has it, else "last".
        trust: Whether to run code that the directory names as `package.module:factory`. The library's own names need no
            trust, and neither does what was made here.
    """
    path = Path(path)
    if is_model(path):
        if checkpoint is not None:
            raise InputError(f"{path} is a saved learner, which has no checkpoint `{checkpoint}`: leave that out.")
        return load_learner(path, trust=trust)
    run = Run.open(path)
    check_trust(run.path, run.config, trust)
    name, saved = _read_checkpoint(run, checkpoint)
    if "interface" not in saved.state:  # a run of an older version, which says only by its tasks what they are like
        return restore(run, name, trust=trust)[0].learner
    config, what = parse_config(run.config), f"Checkpoint `{name}` of {run.path}"
    plan = plan_learner(config, read_interface(saved.state["interface"], what))
    with _allow(run.config, _sizes(saved.tensors), what):
        learner = build_learner(plan)
    learner.to(choose_device(config.compute.device))
    _finish(learner, run, config, name, saved)
    return learner


def load_learner(path: Path, *, trust: bool = False) -> Learner:
    """The learner in a directory that `learner.save` wrote."""
    values, tensors = read_model(path)
    if values.get("kind") != "learner" or not isinstance(values.get("learner"), dict):
        raise InputError(
            f"{path} holds a {values.get('kind', 'model')}, not a learner. Open it by quickstudy.open({str(path)!r})."
        )
    return make_learner(values["learner"], tensors, path, trust=trust)


def make_learner(values: dict[str, Any], tensors: Mapping[str, Tensor], place: Path, *, trust: bool = False) -> Learner:
    """The learner that a blueprint and tensors describe, as they were read from a file at `place`."""
    blueprint = read_blueprint(values, place / CONFIG_FILE)
    check_trust(place, code_parts(values), trust)
    with _allow(values, _sizes(tensors), str(place / TENSORS_FILE)):
        learner = build_learner(blueprint)
    learner.load_tensors(tensors, str(place / TENSORS_FILE))
    return learner.eval()


def _allow(settings: Mapping[str, Any], saved: Sequence[int], what: str) -> AbstractContextManager[object]:
    """In it a learner is built for tensors that were saved, of so many bytes each. A far larger one is refused.

    Code of others that was trusted may take what it needs.
    """
    return nullcontext() if named_code(code_parts(settings)) else Allowance(saved, what)


def _sizes(tensors: Mapping[str, Tensor]) -> list[int]:
    return [tensor.nbytes for tensor in tensors.values()]


def _finish(learner: Learner, run: Run, config: Config, name: str, saved: Checkpoint) -> dict[str, Any]:
    """Load a checkpoint into a learner, ready for use; how far its training was."""
    what = f"Checkpoint `{name}` of {run.path}"
    progress = read_progress(saved, what)
    learner.load_state_dict(check_model(learner, saved.tensors, what))
    # A run that was stopped during its warm-up is evaluated at its schedules' final values: HyperMAML by its emission.
    # With `select_with: current` it is evaluated as it was validated, with the values of the step that led there.
    schedules = config.train.schedules
    final, reached = schedule.last_step(schedules), max(progress.step - 1, 0)
    schedule.apply_schedules(learner, schedules, reached if config.train.select_with == "current" else final)
    learner.eval()
    about = {"run": run.path.name, "checkpoint": name, "step": progress.step, "tasks": saved.state.get("tasks", {})}
    if learner.blueprint is not None:
        learner.blueprint = {**learner.blueprint, "trained": about}
    return {**progress.model_dump(), "checkpoint": name}


def restore(
    run: Run,
    checkpoint: str | None = None,
    overrides: Sequence[str] = (),
    world: World = SINGLE_WORKER,
    *,
    trust: bool = False,
) -> tuple[Setup, dict[str, Any]]:
    """The learner of a run, ready for evaluation, and the state in its checkpoint.

    Args:
        run: The run.
        checkpoint: "best" or "last". By default "best" if the run has it, else "last".
        overrides: `--key.sub value` pairs: other shots, more steps in evaluation.
        world: The workers. The first reads the checkpoint and sends it to the others.
        trust: Whether the run may run code that its configuration names, wherever it comes from.
    """
    changed = parse_overrides(overrides)
    for keys, _ in changed:
        if keys[0] in ("train", "seed", "format", "init_from"):
            raise InputError(
                f"`--{'.'.join(keys)}` belongs to the training of {run.path}. Evaluations are changed by --evaluate.* "
                "(tasks, split, seed, metric, options), --method.* and --tasks.*."
            )
    setup = rebuild(run, overrides, world, trust=trust)
    _refuse_hidden(run, setup.config, changed)
    name, saved = world.from_first(partial(_read_checkpoint, run, checkpoint))
    with _allow(run.config, _sizes(saved.tensors), f"Checkpoint `{name}` of {run.path}"):
        _check_effect(run, setup, changed)
    other_tasks = any(keys[0] == "tasks" or keys[:2] == ["evaluate", "options"] for keys, _ in changed)
    check_leakage(
        str(run.path),
        saved.state.get("tasks", {}),
        _build_training_tasks(run, setup) if other_tasks else setup.family,
        setup.eval_family,
        setup.config.evaluate.split,
        other_tasks=other_tasks,
    )
    return setup, _finish(setup.learner, run, setup.config, name, saved)


def _refuse_hidden(run: Run, config: Config, changed: Sequence[tuple[Sequence[str], Any]]) -> None:
    """Refuse overrides in whose place an evaluation takes another setting."""
    given = {".".join(keys) for keys, _ in changed}
    given |= {".".join((*keys, str(name))) for keys, value in changed if isinstance(value, Mapping) for name in value}
    hidden = {f"tasks.{name}": f"evaluate.options.{name}" for name in config.evaluate.options}
    if config.method.options.get("eval_inner_steps") is not None:
        hidden["method.inner_steps"] = "method.eval_inner_steps"
    for key, place in hidden.items():
        if key in given and not given & {place, place.rpartition(".")[0]}:
            raise InputError(
                f"`--{key}` would have no effect on an evaluation of {run.path}, where `{place}` is set and takes its "
                f"place. Give --{place}."
            )


def _check_effect(run: Run, setup: Setup, changed: Sequence[tuple[Sequence[str], Any]]) -> None:
    """Refuse overrides that set where learned numbers begin: those of the checkpoint take their places."""
    parts = [{f"--{'.'.join(k)}": value for k, value in changed if k[0] == part} for part in ("model", "method")]
    if not any(parts):
        return
    plain = _begin(run, setup, ())
    for given in filter(None, parts):
        other = _begin(run, setup, [f"{key}={json.dumps(value)}" for key, value in given.items()])
        starts, others = plain.state_dict(), other.state_dict()
        if {name: value.shape for name, value in starts.items()} != {name: v.shape for name, v in others.items()}:
            return  # loading the checkpoint will say so
        # What is shipped draws the same numbers whatever it computes from them: others are another start. Code of
        # others may draw in another order.
        begins_elsewhere = _filled_otherwise if named_code(code_parts(run.config)) else _differ
        if learned := [name for name, value in starts.items() if begins_elsewhere(value, others[name])]:
            raise InputError(
                f"{' and '.join(given)}: {learned[0]} only begins there in training, and {run.path} holds what it has "
                "learned since. Leave that override out, or train with it."
            )
        settings, otherwise = dict(plain.named_buffers()), dict(other.named_buffers())
        moved = [path for path in setup.config.train.schedules if path in settings and path in otherwise]
        if set_again := [path for path in moved if _differ(settings[path], otherwise[path])]:
            raise InputError(
                f"{' and '.join(given)}: the schedule of {set_again[0]} in the training of {run.path} sets it, so it "
                "would have no effect. Leave that override out, or train with it."
            )


def _begin(run: Run, setup: Setup, overrides: Sequence[str]) -> Learner:
    """The learner with which a training of the run would begin, with the same draws whatever the overrides are."""
    config = parse_config(complete_run(run.config), overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return build_learner(plan_learner(config, Interface.of(setup.family)))


def _differ(value: Tensor, other: Tensor) -> bool:
    return not torch.equal(value, other)


def _filled_otherwise(value: Tensor, other: Tensor) -> bool:
    """Whether each of two tensors holds one number everywhere, and not the same: what a setting does, and no draw."""
    if not value.numel():
        return False
    one, two = value.flatten()[0], other.flatten()[0]
    return bool((value == one).all()) and bool((other == two).all()) and one.item() != two.item()


def rebuild(run: Run, overrides: Sequence[str] = (), world: World = SINGLE_WORKER, *, trust: bool = False) -> Setup:
    """Build what a run's configuration describes, with overrides. Arguments are those of `restore`."""
    world.from_first(partial(check_trust, run.path, run.config, trust))
    newest = world.from_first(partial(_measure_newest, run))

    def make() -> Setup:
        config = parse_config(complete_run(run.config), overrides)
        return build(config, within=None if newest is None else _allow(config.model_dump(mode="json"), *newest))

    return world.agree(make)


def _measure_newest(run: Run) -> tuple[list[int], str] | None:
    """The bytes of each tensor of the newest checkpoint, and its name in words.

    There is none before training has saved one. A damaged one is reported where it is loaded.
    """
    name = next((name for name in ("last", "best") if name in run.checkpoints()), None)
    try:
        return None if name is None else (_sizes(run.load(name).tensors), f"Checkpoint `{name}` of {run.path}")
    except RunError:
        return None


def _read_checkpoint(run: Run, name: str | None) -> tuple[str, Checkpoint]:
    name = name or ("best" if "best" in run.checkpoints() else "last")
    return name, run.load(name)


def _build_training_tasks(run: Run, setup: Setup) -> TaskFamily:
    """The tasks of training. Where their files have gone, the tasks of the overrides stand for them."""
    try:
        return build_tasks(parse_config(complete_run(run.config)).tasks)[0]
    except InputError:
        return setup.family
