"""Building what a configuration describes: tasks, model, method and metric."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, get_args

import torch
from pydantic import ValidationError
from torch import nn

from quickstudy.engine import devices
from quickstudy.engine.engine import Engine
from quickstudy.engine.settings import EngineSettings
from quickstudy.errors import InputError, RunError, describe_error, suggest_nearest
from quickstudy.evaluation import metrics
from quickstudy.methods.learner import Learner
from quickstudy.methods.registry import METHODS
from quickstudy.models import nets
from quickstudy.models.encoders.feature_tasks import features
from quickstudy.tasks import FAMILIES
from quickstudy.tasks.base import TaskFamily
from quickstudy.tasks.images.store import Progress
from quickstudy.training.config.blueprint import Blueprint, Interface
from quickstudy.training.config.factories import check_finite, fit_value, import_factory, is_plain, options_of, walk
from quickstudy.training.config.messages import explain_validation
from quickstudy.training.config.schema import Config, Part
from quickstudy.training.init_from import freeze


@dataclass(frozen=True)
class Setup:
    """The parts of a run, built from its configuration.

    Args:
        config: The configuration with every default filled in.
        family: The tasks of training and validation.
        eval_family: The tasks of the evaluation: `family`, unless `evaluate.options` changes them.
        learner: The method around its model, on its device.
        metric: What is measured on the queries.
        model_shapes: The shapes of the model's tensors by the model's own names. A method may rename them.
    """

    config: Config
    family: TaskFamily
    eval_family: TaskFamily
    learner: Learner
    metric: metrics.Metric
    model_shapes: Mapping[str, torch.Size]


TASKS: dict[str, Callable[..., TaskFamily]] = {**FAMILIES, "features": features}
"""The families by name, with those that need an encoder."""

FACTORIES: dict[str, Mapping[str, Callable[..., Any]]] = {"tasks": TASKS, "model": nets.NETS, "method": METHODS}

COMPATIBLE_LOSSES = {
    "cross_entropy": ("cross_entropy",),
    "class_sum_cross_entropy": ("cross_entropy",),
    "one_hot_mse": ("cross_entropy",),
    "mse": ("mse", "binary_cross_entropy"),
    "binary_cross_entropy": ("binary_cross_entropy",),
}
"""For each loss that a method may use, the losses of the tasks whose targets it can read."""


def build(
    config: Config, progress: Progress | None = None, within: AbstractContextManager[object] | None = None
) -> Setup:
    """Build tasks, model and method. The model's first numbers depend on the seed alone.

    Args:
        config: The configuration.
        progress: Called with the number of decoded pictures and of all pictures, when a set of images is read for the
            first time.
        within: In this context the model and the method are made: it may bound what they take.
    """
    family, tasks = build_tasks(config.tasks, progress=progress)
    eval_family = family
    if config.evaluate.options:
        changed = Part.model_validate({**config.tasks.model_dump(), **config.evaluate.options})
        eval_family, _ = build_tasks(changed, "evaluate.options", progress)
    torch.manual_seed(config.seed)
    interface = Interface.of(family)
    plan = plan_learner(config, interface)
    with within or nullcontext():
        parts = _build_parts(config.method, config.model, interface, plan.freeze)
    learner, method, net = parts.learner, parts.method, parts.model
    if net is None and config.init_from:
        raise InputError(
            f"`init_from` loads a model, and `method` {config.method.name!r} was given none. Leave `init_from` out."
        )
    metric = metrics.get_metric(config.evaluate.metric or metrics.METRIC_FOR_LOSS[family.loss])
    readable = {m.name: m.compatible_losses for m in metrics.METRICS.values()}
    _check_compatible("evaluate.metric", metric.name, family.loss, readable)
    device = devices.choose_device(config.compute.device)
    learner.to(device)
    if device.type != "cpu":

        def placed(own: TaskFamily) -> TaskFamily:
            return own.to_device(device, (devices.memory_budget(device, config.compute.memory) or 0) // 2)

        shared = eval_family is family
        family = placed(family)
        eval_family = family if shared else placed(eval_family)
    learner.engine = Engine.from_settings(config.compute, devices.memory_budget(device, config.compute.memory))
    compute = config.compute.model_copy(update={"threads": config.compute.threads or torch.get_num_threads()})
    learner.blueprint = plan.model_copy(update={"method": method, "model": net}).model_dump(mode="json")
    resolved = config.model_copy(update={"tasks": tasks, "model": net, "method": method, "compute": compute})
    check_finite(resolved.model_dump(), " by default")  # a run could not record it
    return Setup(resolved, family, eval_family, learner, metric, parts.model_shapes)


class _Parts(NamedTuple):
    """A learner with the parts that made it, their defaults filled in, and the shapes of its model's tensors."""

    learner: Learner
    method: Part
    model: Part | None
    model_shapes: dict[str, torch.Size]


def _build_parts(method: Part, model: Part | None, interface: Interface, freeze_patterns: Sequence[str]) -> _Parts:
    """Build a model and the method around it."""
    context: dict[str, Any] = {
        "inputs": interface.inputs,
        "outputs": interface.outputs,
        "train_outputs": interface.train_outputs,
    }
    net = None
    model_shapes: dict[str, torch.Size] = {}
    if model is not None:
        built, net = build_part(model, nets.NETS, "model", **context)
        if not isinstance(built, nn.Module):
            raise InputError(f"`model` {model.name!r} gave a {type(built).__name__}; an nn.Module is needed.")
        context["model"] = built
        model_shapes = {name: value.shape for name, value in built.state_dict().items()}
        freeze(built, freeze_patterns)
    for option in ("loss", "inner_loss"):
        _check_compatible(f"method.{option}", method.options.get(option), interface.loss, COMPATIBLE_LOSSES)
    learner, resolved = build_part(method, METHODS, "method", {"loss": interface.loss}, **context)
    if not isinstance(learner, Learner):
        raise InputError(f"`method` {method.name!r} gave a {type(learner).__name__}; a Learner is needed.")
    return _Parts(learner, resolved, net, model_shapes)


def plan_learner(config: Config, interface: Interface) -> Blueprint:
    """The blueprint of the learner of a configuration, for tasks that have this interface."""
    return Blueprint(
        method=config.method,
        model=config.model,
        tasks=interface,
        freeze=config.init_from.freeze if config.init_from else (),
        compute={field.name: getattr(config.compute, field.name) for field in fields(EngineSettings)},
    )


def build_learner(blueprint: Blueprint) -> Learner:
    """The learner of a blueprint, whose numbers are still to be loaded. The user's random generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        if blueprint.factory is not None:
            made, _ = build_part(Part(name=blueprint.factory), METHODS, "method")
            if not isinstance(made, Learner):
                raise InputError(f"`{blueprint.factory}` gave a {type(made).__name__}; a Learner is needed.")
            learner = made
        else:
            assert blueprint.method is not None and blueprint.tasks is not None
            parts = _build_parts(blueprint.method, blueprint.model, blueprint.tasks, blueprint.freeze)
            learner = parts.learner
            blueprint = blueprint.model_copy(update={"method": parts.method, "model": parts.model})
    try:
        learner.engine = Engine.from_settings(EngineSettings(**blueprint.compute))
    except TypeError as error:
        raise InputError(f"`compute` of the saved learner has other settings than this version: {error}.") from error
    learner.blueprint = blueprint.model_dump(mode="json")
    return learner


def _check_compatible(option: str, name: Any, loss: str, readable: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse a loss or metric that reads other targets than the tasks have.

    Without this check broadcasting would often make a number of the two, and the run would train on nonsense.
    """
    if isinstance(name, str) and name in readable and loss not in readable[name]:
        fit = ", ".join(sorted(other for other, losses in readable.items() if loss in losses))
        raise InputError(f"`{option}` is {name!r}, which does not fit these tasks (their loss is {loss}). Use {fit}.")


def build_tasks(part: Part, what: str = "tasks", progress: Progress | None = None) -> tuple[TaskFamily, Part]:
    """The family that a part names, and the part with every default filled in."""
    family, resolved = build_part(part, TASKS, what, progress=progress)
    if not isinstance(family, TaskFamily):
        raise InputError(f"`{what}` {part.name!r} gave a {type(family).__name__}; a TaskFamily is needed.")
    try:
        loss, description, _ = family.loss, family.describe(), (tuple(family.inputs), int(family.outputs))
    except (Exception, SystemExit) as error:  # the user's family may fail in any way
        raise InputError(f"`{what}` {part.name!r} does not say what its tasks are: {describe_error(error)}.") from error
    if loss not in metrics.METRIC_FOR_LOSS:
        raise InputError(
            f"`{what}` {part.name!r} has the loss {loss!r}. {suggest_nearest(str(loss), metrics.METRIC_FOR_LOSS)}"
        )
    if not isinstance(description, dict):
        raise InputError(
            f"`{what}` {part.name!r} describes itself by a {type(description).__name__}; give a dictionary."
        )
    return family, resolved


def build_part(
    part: Part,
    known: Mapping[str, Callable[..., Any]],
    what: str,
    defaults: Mapping[str, Any] | None = None,
    **context: Any,
) -> tuple[Any, Part]:
    """Call a part's factory. Returned are its result, and the part with the factory's defaults filled in.

    Args:
        part: The name of the factory and its options.
        known: Factories by name.
        what: The setting that holds the part, for messages.
        defaults: Options that the part itself may override.
        **context: Values that the library sets. A factory gets those that it has a parameter for: a model may have
            the parameters `inputs` and `outputs`.
    """
    factory = import_factory(part.name, what) if ":" in part.name else known.get(part.name)
    if factory is None:
        raise InputError(
            f"There is no {what} {part.name!r}. {suggest_nearest(part.name, known)} "
            "Your own is given as package.module:factory."
        )
    signature = options_of(factory, part.name, what)
    if what == "method" and "model" in signature and "model" not in context:
        raise InputError(
            f"`method` {part.name!r} adapts a model, and no `model` is given. {suggest_nearest('', nets.NETS)}"
        )
    _check_keys(part.options, what)
    known_defaults = {name: value for name, value in (defaults or {}).items() if name in signature}
    options = _check_options(Part.model_validate({**known_defaults, **part.model_dump()}), signature, what, context)
    plain = {name: value for name, value in options.items() if is_plain(value)}
    # What became a path, a set or a member of an enumeration is recorded as it was given, and becomes the same again.
    plain |= {name: given for name, given in part.options.items() if name not in plain and is_plain(given)}
    for name in [n for n in plain if n in signature and _takes_tasks(signature[n].annotation)]:
        if plain[name] is not None:
            options[name], plain[name] = _build_nested_tasks(plain[name], f"{what}.{name}", context.get("progress"))
    wanted = {name: value for name, value in context.items() if name in signature}
    try:
        result = factory(**wanted, **options)
    except (InputError, RunError):
        raise
    except (Exception, SystemExit) as error:  # the user's factory may fail in any way; torch, at a size of -1
        raise InputError(f"`{what}` {part.name!r} could not be built: {describe_error(error)}.") from error
    return result, Part.model_validate({"name": part.name, **plain})


def _check_keys(options: Mapping[str, Any], what: str) -> None:
    """Refuse a key that is no text, at any depth: a run's settings would have it as a text."""
    for path, value in walk(options, what):
        for key in value if isinstance(value, Mapping) else ():
            if not isinstance(key, str):
                raise InputError(
                    f"`{path}` has the key {key!r}, and keys in a configuration are texts. Write '{key}': a parameter "
                    "with the annotation dict[int, ...] gets numbers."
                )


def _takes_tasks(annotation: Any) -> bool:
    """Whether a parameter takes a family of tasks (or None). Such a family is built from its name and options."""
    return any(isinstance(kind, type) and issubclass(kind, TaskFamily) for kind in (annotation, *get_args(annotation)))


def _build_nested_tasks(value: Any, place: str, progress: Progress | None) -> tuple[TaskFamily, dict[str, Any]]:
    """A family that is an option of another one (`cross`, `batches`), and its name and options."""
    try:
        family, part = build_tasks(Part.model_validate(value), place, progress)
    except ValidationError as error:
        raise InputError(explain_validation(error, place)) from None
    return family, part.model_dump()


def _check_options(
    part: Part, signature: Mapping[str, inspect.Parameter], what: str, context: Mapping[str, Any]
) -> dict[str, Any]:
    """The options as the factory's annotations want them, defaults included; unknown or missing ones are refused."""
    keywords = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    takes = {n: p for n, p in signature.items() if p.kind in keywords and n not in context}
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.values())
    for name in part.options:
        if name in context:
            raise InputError(f"`{what}.{name}` comes from the tasks and the model; it cannot be set.")
        if name not in takes and not takes_any:
            raise InputError(f"`{what}.{name}` is no option of {part.name!r}. {suggest_nearest(name, takes)}")
    missing = [n for n, p in takes.items() if p.default is p.empty and n not in part.options]
    if missing:
        raise InputError(
            f"{part.name!r} needs {', '.join(f'`{what}.{name}`' for name in missing)}, which is not given."
        )
    checked = {name: parameter.default for name, parameter in takes.items()}
    for name, value in part.options.items():
        try:
            as_given = name not in takes or _takes_tasks(takes[name].annotation)
            checked[name] = value if as_given else fit_value(value, takes[name].annotation)
        except ValidationError as error:
            raise InputError(explain_validation(error, place=f"{what}.{name}")) from None
    return checked
