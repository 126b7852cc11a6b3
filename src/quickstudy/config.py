"""A run as data: what is learned, by which method, from which tasks, and how it is trained.

A configuration is a YAML file (or one that ships, by name) plus `--key.sub value` overrides. Methods, models and tasks
are named, or given as `package.module:factory` for one's own code; their options are checked against the factory's
signature. Unknown keys are refused with the nearest known name.
"""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from torch import nn

from quickstudy import devices, methods, metrics, nets
from quickstudy.baselines import BASELINES
from quickstudy.engine import Engine
from quickstudy.errors import InputError, RunError, nearest, told
from quickstudy.factories import fitted, imported, options_of, plain
from quickstudy.initial import InitFrom, freeze
from quickstudy.learner import Learner
from quickstudy.parts import mistaken, without_strangers
from quickstudy.schedule import SCHEDULES, Schedule
from quickstudy.settings import overlaid, read_file
from quickstudy.tasks import FAMILIES
from quickstudy.tasks.base import TaskFamily
from quickstudy.tasks.images.store import Progress

FORMAT = 1


class Part(BaseModel, frozen=True, extra="allow"):
    """Something built by a factory: its name, or `package.module:factory`, and the factory's options beside it."""

    name: str

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """The options as given."""
        return dict(self.model_extra or {})


class Train(BaseModel, frozen=True, extra="forbid"):
    """How a learner is meta-trained."""

    steps: int = Field(1000, ge=0, description="outer steps")
    meta_batch_size: int = Field(4, ge=1, description="tasks in an outer step")
    optimizer: Literal["adam", "sgd"] = "adam"
    meta_lr: float = Field(1e-3, gt=0, description="the outer step size")
    momentum: float = Field(0.0, ge=0, lt=1, description="of sgd")
    milestones: tuple[int, ...] = Field((), description="steps at which the outer step size is multiplied by gamma")
    gamma: float = Field(0.3, gt=0)
    reduction: Literal["mean", "sum"] = Field("mean", description="of the outer loss over tasks")
    clip_value: float | None = Field(None, gt=0, description="bound on each number of the meta-gradient")
    clip_norm: float | None = Field(None, gt=0, description="bound on the meta-gradient's norm")
    schedules: dict[str, Schedule] = Field({}, description="values of buffers by path, as functions of the step")
    probes: tuple[str, ...] = Field(
        (), description="quantities to log: names or patterns of parameters or observations"
    )
    probe_every: int = Field(100, ge=1)
    log_every: int | None = Field(None, ge=1, description="by default 200 rows over the run")
    validate_every: int | None = Field(None, ge=0, description="by default 20 times over the run; 0 is never")
    validate_tasks: int = Field(100, ge=1)
    select_with: Literal["final", "current"] = Field(
        "final", description="validate with every schedule at its end, and keep no best before; or as it is"
    )
    checkpoint_every: int | None = Field(None, ge=1, description="by default 20 times over the run")

    def often(self, given: int | None, times: int) -> int:
        """An interval in steps: the one given, or one that comes so many times over the run."""
        return given if given is not None else max(1, self.steps // times)


class Evaluate(BaseModel, frozen=True, extra="forbid"):
    """How a learner is judged."""

    tasks: int = Field(600, ge=1)
    split: str = "test"
    seed: int = Field(0, description="of the task list; not of the training")
    metric: str | None = Field(None, description="by default what suits the loss")
    options: dict[str, Any] = Field({}, description="of the tasks, where evaluation differs: {queries: 15}")


class Compute(BaseModel, frozen=True, extra="forbid"):
    """How the machine is used. A run keeps its number of threads, which its exact numbers depend on."""

    threads: int | None = Field(None, ge=1, description="by default as many as torch would use")
    backend: Literal["auto", "vmap", "loop"] = Field("auto", description="how a batch of tasks is run")
    chunk: int | None = Field(None, ge=1, description="at most so many tasks at once under vmap; by default what fits")
    compile: bool = Field(False, description="with torch.compile: minutes before the first step, then faster ones")
    recompute: bool = Field(False, description="inner steps again in the backward pass: memory that K does not raise")
    device: str = Field("auto", description="cpu, cuda or cuda:1; auto is the GPU where there is one")
    autocast: Literal["bf16", "fp16"] | None = Field(None, description="products in half precision")
    memory: float | str = Field(0.5, description="that tasks may take: a fraction of what is free, or '6 GB'")

    @field_validator("memory")
    @classmethod
    def _is_amount(cls, value: float | str) -> float | str:
        devices.amount(value)
        return value


class Config(BaseModel):
    """One run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    seed: int = Field(0, ge=0, lt=2**63)
    tasks: Part
    model: Part | None = Field(None, description="none for methods that have no model")
    method: Part
    init_from: InitFrom | None = Field(None, description="a run whose model this one starts from")
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    compute: Compute = Compute()


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


METHODS: dict[str, Callable[..., Any]] = {name: recipe.build for name, recipe in methods.RECIPES.items()} | BASELINES
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
    family, tasks = tasks_of(config.tasks, progress=progress)
    judged = family
    if config.evaluate.options:
        judged, _ = tasks_of(
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
        model, net = make(config.model, nets.NETS, "model", **context)
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
    learner, way = make(config.method, METHODS, "method", {"loss": family.loss}, **context)
    if not isinstance(learner, Learner):
        raise InputError(f"`method` {config.method.name!r} gave a {type(learner).__name__}; a Learner is needed.")
    metric = metrics.metric(config.evaluate.metric or metrics.FOR_LOSS[family.loss])
    _check_suits("evaluate.metric", metric.name, family.loss, {m.name: m.suits for m in metrics.METRICS.values()})
    device = devices.chosen(config.compute.device)
    learner.to(device)
    shared = judged is family
    if device.type != "cpu":
        family = family.on(device, (devices.room(device, config.compute.memory) or 0) // 2)
        judged = family if shared else judged.on(device, (devices.room(device, config.compute.memory) or 0) // 2)
    learner.engine = Engine(
        config.compute.backend,
        config.compute.chunk,
        compile=config.compute.compile,
        recompute=config.compute.recompute,
        autocast=config.compute.autocast,
        room=devices.room(device, config.compute.memory),
    )
    compute = config.compute.model_copy(update={"threads": config.compute.threads or torch.get_num_threads()})
    resolved = config.model_copy(update={"tasks": tasks, "model": net, "method": way, "compute": compute})
    return Setup(resolved, family, judged, learner, metric, named)


def _check_suits(option: str, name: Any, loss: str, suits: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse what would compare outputs with targets of another kind: broadcasting makes a number of that as well."""
    if name in suits and loss not in suits[name]:
        fit = ", ".join(sorted(other for other, those in suits.items() if loss in those))
        raise InputError(f"`{option}` is {name!r}, which cannot judge these tasks (their loss is {loss}). Use {fit}.")


def tasks_of(part: Part, what: str = "tasks", progress: Progress | None = None) -> tuple[TaskFamily, Part]:
    """The family that a part names, and the part with nothing left unsaid."""
    family, resolved = make(part, FAMILIES, what, progress=progress)
    if not isinstance(family, TaskFamily):
        raise InputError(f"`{what}` {part.name!r} gave a {type(family).__name__}; a TaskFamily is needed.")
    try:
        loss, described, _ = family.loss, family.describe(), (tuple(family.inputs), int(family.outputs))
    except Exception as error:  # the user's family may fail in any way
        raise InputError(f"`{what}` {part.name!r} does not say what its tasks are: {told(error)}.") from error
    if loss not in metrics.FOR_LOSS:
        raise InputError(f"`{what}` {part.name!r} has the loss {loss!r}. {nearest(str(loss), metrics.FOR_LOSS)}")
    if not isinstance(described, dict):
        raise InputError(f"`{what}` {part.name!r} describes itself by a {type(described).__name__}; give a dictionary.")
    return family, resolved


def make(
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
    factory = imported(part.name, what) if ":" in part.name else known.get(part.name)
    if factory is None:
        raise InputError(
            f"There is no {what} {part.name!r}. {nearest(part.name, known)} "
            "Your own is given as package.module:factory."
        )
    signature = options_of(factory, part.name, what)
    if what == "method" and "model" in signature and "model" not in context:
        raise InputError(f"`method` {part.name!r} adapts a model, and no `model` is given. {nearest('', nets.NETS)}")
    said = {name: value for name, value in (defaults or {}).items() if name in signature}
    options = _checked(Part.model_validate({**said, **part.model_dump()}), signature, what, context)
    kept = {name: value for name, value in options.items() if plain(value)}
    for name in [n for n in kept if n in signature and _takes_tasks(signature[n].annotation)]:
        if kept[name] is not None:
            options[name], kept[name] = _nested(kept[name], f"{what}.{name}", context.get("progress"))
    wanted = {name: value for name, value in context.items() if name in signature}
    try:
        made = factory(**wanted, **options)
    except (InputError, RunError):
        raise
    except Exception as error:  # the user's factory may fail in any way, and torch has its own words for a size of -1
        raise InputError(f"`{what}` {part.name!r} could not be built: {told(error)}.") from error
    return made, Part.model_validate({"name": part.name, **kept})


def _takes_tasks(annotation: Any) -> bool:
    """Whether a parameter is itself a family of tasks (or None): it is then built from its name and options."""
    return any(isinstance(kind, type) and issubclass(kind, TaskFamily) for kind in (annotation, *get_args(annotation)))


def _nested(value: Any, place: str, progress: Progress | None) -> tuple[TaskFamily, dict[str, Any]]:
    try:
        family, part = tasks_of(Part.model_validate(value), place, progress)
    except ValidationError as error:
        raise InputError(explain(error, place)) from None
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
            raise InputError(f"`{what}.{name}` is no option of {part.name!r}. {nearest(name, takes)}")
    missing = [n for n, p in takes.items() if p.default is p.empty and n not in part.options]
    if missing:
        raise InputError(
            f"{part.name!r} needs {', '.join(f'`{what}.{name}`' for name in missing)}, which is not given."
        )
    checked = {name: parameter.default for name, parameter in takes.items()}
    for name, value in part.options.items():
        try:
            fits = name not in takes or _takes_tasks(takes[name].annotation)
            checked[name] = value if fits else fitted(value, takes[name].annotation)
        except ValidationError as error:
            raise InputError(explain(error, place=f"{what}.{name}")) from None
    return checked


def explain(error: ValidationError, place: str = "") -> str:
    """A validation error as one sentence per mistake, unknown keys with the nearest known one.

    Args:
        error: The error.
        place: What was validated; by default a whole configuration.
    """
    sentences = []
    for item in error.errors():
        steps = [str(step) for step in item["loc"]]
        where = ".".join([place] if place else steps)
        given = " ".join(repr(item["input"]).split())
        given = given if len(given) <= 80 else given[:77] + "..."
        if item["type"] == "extra_forbidden":
            sentences.append(f"`{where}` is no setting. {near(steps[-1], _siblings(item['loc'][:-1]))}")
        elif item["type"] == "missing":
            sentences.append(f"`{where}` is missing.")
        else:
            said = item["msg"].removeprefix("Value error, ")
            listed = ("tuple" in said or "list" in said or "Sequence" in said) and not isinstance(item["input"], dict)
            hint = f" Write a list: '[{given.strip(chr(39))}]'." if listed else ""
            sentences.append(f"`{where}`: {said[:1].lower()}{said[1:]} (given: {given}).{hint}")
    return " ".join(dict.fromkeys(sentences))


def near(key: str, known: Sequence[str]) -> str:
    """The nearest of the known settings, or where a setting of that name is to be found: `--steps` is `train.steps`."""
    if key.lstrip("-").partition(".")[0] == "search":
        return "`quickstudy sweep` takes it, with the same configuration; to train once, leave it out."
    homes = {n: f"{part}.{n}" for part, sub in (("evaluate", Evaluate), ("train", Train)) for n in sub.model_fields}
    close = get_close_matches(key.lstrip("-").replace("-", "_"), homes, n=1, cutoff=0.8)
    if close and homes[close[0]].partition(".")[2] not in known:
        return f"Did you mean `{homes[close[0]]}`? Known here: {', '.join(sorted(known))}."
    return nearest(key, known)


def _siblings(path: Sequence[Any]) -> list[str]:
    """The settings beside an unknown one. A schedule's place ends in its kind."""
    if path and path[-1] in SCHEDULES:
        return sorted(SCHEDULES[path[-1]].model_fields)
    model: Any = Config
    for step in path:
        field = getattr(model, "model_fields", {}).get(step)
        model = field.annotation if field is not None else None
        model = next((kind for kind in get_args(model) if hasattr(kind, "model_fields")), model)  # InitFrom | None
    return sorted(getattr(model, "model_fields", {}))


def shipped() -> dict[str, Path]:
    """The configurations that come with the package, by name."""
    folder = Path(str(files("quickstudy"))) / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """A configuration from a file, or a shipped one by name, with `--key.sub value` overrides."""
    return parse(read(source), overrides)


def read(source: str | Path) -> dict[Any, Any]:
    """What a file says, or a shipped configuration by name; not yet looked at."""
    path = shipped().get(str(source), Path(source))
    if not os.path.exists(path):  # unlike Path.exists, False also for a name too long to be one
        raise InputError(
            mistaken(str(source), {name: read_file(path) for name, path in shipped().items()}, KNOWN)
            or f"There is no configuration {str(source)!r}: no such file, and none of that name ships. "
            f"{nearest(str(source), shipped())}"
        )
    return read_file(path)


def parse(raw: Mapping[Any, Any], overrides: Sequence[str] = ()) -> Config:
    """A configuration from plain data and overrides."""
    data = overlaid(without_strangers(raw, overrides, KNOWN), overrides)
    if isinstance(data.get("format"), int) and data["format"] > FORMAT:
        raise InputError(
            f"The configuration has format {data['format']}; this version reads up to {FORMAT}. Upgrade quickstudy."
        )
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise InputError(explain(error)) from None
