"""What a configuration describes, built: tasks, model, method and metric."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from pydantic import ValidationError
from torch import nn

from quickstudy.engine import devices
from quickstudy.engine.engine import Engine
from quickstudy.errors import InputError, RunError, describe_error, suggest_nearest
from quickstudy.evaluation import metrics
from quickstudy.methods.learner import Learner
from quickstudy.methods.registry import METHODS
from quickstudy.models import nets
from quickstudy.tasks import FAMILIES
from quickstudy.tasks.base import TaskFamily
from quickstudy.tasks.images.store import Progress
from quickstudy.training.config.factories import fit_value, import_factory, is_plain, options_of
from quickstudy.training.config.messages import explain_validation
from quickstudy.training.config.schema import Config, Part
from quickstudy.training.init_from import freeze


@dataclass(frozen=True)
class Setup:
    """What a configuration describes, built.

    `judged` are the tasks of the evaluation, `family` those of training; `named` are the shapes of the model's tensors
    by the model's own names, before a method took it apart.
    """

    config: Config
    family: TaskFamily
    judged: TaskFamily
    learner: Learner
    metric: metrics.Metric
    named: Mapping[str, torch.Size]


KNOWN: dict[str, Mapping[str, Callable[..., Any]]] = {"tasks": FAMILIES, "model": nets.NETS, "method": METHODS}


TARGETS = {  # losses by name, and the families' losses whose targets they can read
    "cross_entropy": ("cross_entropy",),
    "class_sum_cross_entropy": ("cross_entropy",),
    "one_hot_mse": ("cross_entropy",),
    "mse": ("mse", "binary_cross_entropy"),
    "binary_cross_entropy": ("binary_cross_entropy",),
}


def build(config: Config, progress: Progress | None = None) -> Setup:
    """Tasks, model and method, started from the seed, and the configuration with nothing left unsaid.

    `progress` is told how many of how many pictures are decoded, where tasks of images are built for the first time.
    """
    family, tasks = build_tasks(config.tasks, progress=progress)
    judged = family
    if config.evaluate.options:
        judged, _ = build_tasks(
            Part.model_validate({**config.tasks.model_dump(), **config.evaluate.options}), progress=progress
        )
    torch.manual_seed(config.seed)
    context: dict[str, Any] = {
        "inputs": family.inputs,
        "outputs": family.outputs,
        "train_outputs": family.of_split("train").outputs,
    }
    net = None
    named: dict[str, torch.Size] = {}
    if config.model is not None:
        model, net = build_part(config.model, nets.NETS, "model", **context)
        if not isinstance(model, nn.Module):
            raise InputError(f"`model` {config.model.name!r} gave a {type(model).__name__}; an nn.Module is needed.")
        context["model"] = model
        named = {name: value.shape for name, value in model.state_dict().items()}
        freeze(model, config.init_from.freeze if config.init_from else ())
    elif config.init_from:
        raise InputError(
            f"`init_from` starts a model, and `method` {config.method.name!r} was given none. Leave it out."
        )
    for option in ("loss", "inner_loss"):
        _check_suits(f"method.{option}", config.method.options.get(option), family.loss, TARGETS)
    learner, way = build_part(config.method, METHODS, "method", {"loss": family.loss}, **context)
    if not isinstance(learner, Learner):
        raise InputError(f"`method` {config.method.name!r} gave a {type(learner).__name__}; a Learner is needed.")
    metric = metrics.metric(config.evaluate.metric or metrics.FOR_LOSS[family.loss])
    _check_suits("evaluate.metric", metric.name, family.loss, {m.name: m.suits for m in metrics.METRICS.values()})
    device = devices.choose_device(config.compute.device)
    learner.to(device)
    shared = judged is family
    if device.type != "cpu":
        family = family.on(device, (devices.memory_budget(device, config.compute.memory) or 0) // 2)
        judged = (
            family if shared else judged.on(device, (devices.memory_budget(device, config.compute.memory) or 0) // 2)
        )
    learner.engine = Engine(
        config.compute.backend,
        config.compute.chunk,
        compile=config.compute.compile,
        recompute=config.compute.recompute,
        autocast=config.compute.autocast,
        room=devices.memory_budget(device, config.compute.memory),
    )
    compute = config.compute.model_copy(update={"threads": config.compute.threads or torch.get_num_threads()})
    resolved = config.model_copy(update={"tasks": tasks, "model": net, "method": way, "compute": compute})
    return Setup(resolved, family, judged, learner, metric, named)


def _check_suits(option: str, name: Any, loss: str, suits: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse what would compare outputs with targets of another kind: broadcasting makes a number of that as well."""
    if name in suits and loss not in suits[name]:
        fit = ", ".join(sorted(other for other, those in suits.items() if loss in those))
        raise InputError(f"`{option}` is {name!r}, which cannot judge these tasks (their loss is {loss}). Use {fit}.")


def build_tasks(part: Part, what: str = "tasks", progress: Progress | None = None) -> tuple[TaskFamily, Part]:
    """The family that a part names, and the part with nothing left unsaid."""
    family, resolved = build_part(part, FAMILIES, what, progress=progress)
    if not isinstance(family, TaskFamily):
        raise InputError(f"`{what}` {part.name!r} gave a {type(family).__name__}; a TaskFamily is needed.")
    try:
        loss, described, _ = family.loss, family.describe(), (tuple(family.inputs), int(family.outputs))
    except Exception as error:  # the user's family may fail in any way
        raise InputError(f"`{what}` {part.name!r} does not say what its tasks are: {describe_error(error)}.") from error
    if loss not in metrics.FOR_LOSS:
        raise InputError(
            f"`{what}` {part.name!r} has the loss {loss!r}. {suggest_nearest(str(loss), metrics.FOR_LOSS)}"
        )
    if not isinstance(described, dict):
        raise InputError(f"`{what}` {part.name!r} describes itself by a {type(described).__name__}; give a dictionary.")
    return family, resolved


def build_part(
    part: Part,
    known: Mapping[str, Callable[..., Any]],
    what: str,
    defaults: Mapping[str, Any] | None = None,
    **context: Any,
) -> tuple[Any, Part]:
    """Call a part's factory; the result, and the part with the factory's defaults filled in.

    `context` is passed to a factory that asks for it by name (a model may want `inputs` and `outputs`), and so are
    `defaults`, which the part's own options override.
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
    said = {name: value for name, value in (defaults or {}).items() if name in signature}
    options = _checked(Part.model_validate({**said, **part.model_dump()}), signature, what, context)
    kept = {name: value for name, value in options.items() if is_plain(value)}
    for name in [n for n in kept if n in signature and _takes_tasks(signature[n].annotation)]:
        if kept[name] is not None:
            options[name], kept[name] = _nested(kept[name], f"{what}.{name}", context.get("progress"))
    wanted = {name: value for name, value in context.items() if name in signature}
    try:
        made = factory(**wanted, **options)
    except (InputError, RunError):
        raise
    except Exception as error:  # the user's factory may fail in any way, and torch has its own words for a size of -1
        raise InputError(f"`{what}` {part.name!r} could not be built: {describe_error(error)}.") from error
    return made, Part.model_validate({"name": part.name, **kept})


def _takes_tasks(annotation: Any) -> bool:
    """Whether a parameter is itself a family of tasks (or None): it is then built from its name and options."""
    return any(isinstance(kind, type) and issubclass(kind, TaskFamily) for kind in (annotation, *get_args(annotation)))


def _nested(value: Any, place: str, progress: Progress | None) -> tuple[TaskFamily, dict[str, Any]]:
    try:
        family, part = build_tasks(Part.model_validate(value), place, progress)
    except ValidationError as error:
        raise InputError(explain_validation(error, place)) from None
    return family, part.model_dump()


def _checked(
    part: Part, signature: Mapping[str, inspect.Parameter], what: str, context: Mapping[str, Any]
) -> dict[str, Any]:
    keywords = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    takes = {n: p for n, p in signature.items() if p.kind in keywords and n not in context}
    free = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.values())
    for name in part.options:
        if name in context:
            raise InputError(f"`{what}.{name}` comes from the tasks and the model; it cannot be set.")
        if name not in takes and not free:
            raise InputError(f"`{what}.{name}` is no option of {part.name!r}. {suggest_nearest(name, takes)}")
    missing = [n for n, p in takes.items() if p.default is p.empty and n not in part.options]
    if missing:
        raise InputError(
            f"{part.name!r} needs {', '.join(f'`{what}.{name}`' for name in missing)}, which is not given."
        )
    checked = {name: parameter.default for name, parameter in takes.items()}
    for name, value in part.options.items():
        try:
            fits = name not in takes or _takes_tasks(takes[name].annotation)
            checked[name] = value if fits else fit_value(value, takes[name].annotation)
        except ValidationError as error:
            raise InputError(explain_validation(error, place=f"{what}.{name}")) from None
    return checked
