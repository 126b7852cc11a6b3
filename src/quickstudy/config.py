"""A run as data: what is learned, by which method, from which tasks, and how it is trained.

A configuration is a YAML file (or one that ships, by name) plus `--key.sub value` overrides. Methods, models and tasks
are named, or given as `package.module:factory` for one's own code; their options are checked against the factory's
signature. Unknown keys are refused with the nearest known name.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from torch import nn

from quickstudy import methods, metrics, nets
from quickstudy.baselines import BASELINES
from quickstudy.errors import InputError, nearest
from quickstudy.learner import Learner
from quickstudy.schedule import Schedule
from quickstudy.tasks import FAMILIES
from quickstudy.tasks.base import TaskFamily

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


class Config(BaseModel):
    """One run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    seed: int = Field(0, ge=0)
    tasks: Part
    model: Part | None = Field(None, description="none for methods that have no model")
    method: Part
    train: Train = Train()
    evaluate: Evaluate = Evaluate()


@dataclass(frozen=True)
class Setup:
    """What a configuration describes, built. `judged` are the tasks of the evaluation, `family` those of training."""

    config: Config
    family: TaskFamily
    judged: TaskFamily
    learner: Learner
    metric: metrics.Metric


METHODS: dict[str, Callable[..., Any]] = {name: recipe.build for name, recipe in methods.RECIPES.items()} | BASELINES


def build(config: Config) -> Setup:
    """Tasks, model and method, started from the seed, and the configuration with nothing left unsaid."""
    family, tasks = _tasks(config.tasks)
    judged = family
    if config.evaluate.options:
        judged, _ = _tasks(Part.model_validate({**config.tasks.model_dump(), **config.evaluate.options}))
    torch.manual_seed(config.seed)
    context: dict[str, Any] = {"inputs": family.inputs, "outputs": family.outputs}
    net = None
    if config.model is not None:
        model, net = make(config.model, nets.NETS, "model", **context)
        if not isinstance(model, nn.Module):
            raise InputError(f"`model` {config.model.name!r} gave a {type(model).__name__}; an nn.Module is needed.")
        context["model"] = model
    method = config.method
    if "loss" not in method.options:
        method = Part.model_validate({"name": method.name, **method.options, "loss": family.loss})
    learner, way = make(method, METHODS, "method", **context)
    if not isinstance(learner, Learner):
        raise InputError(f"`method` {method.name!r} gave a {type(learner).__name__}; a Learner is needed.")
    metric = metrics.metric(config.evaluate.metric or metrics.FOR_LOSS.get(family.loss, "mse"))
    resolved = config.model_copy(update={"tasks": tasks, "model": net, "method": way})
    return Setup(resolved, family, judged, learner, metric)


def _tasks(part: Part) -> tuple[TaskFamily, Part]:
    family, resolved = make(part, FAMILIES, "tasks")
    if not isinstance(family, TaskFamily):
        raise InputError(f"`tasks` {part.name!r} gave a {type(family).__name__}; a TaskFamily is needed.")
    return family, resolved


def make(part: Part, known: Mapping[str, Callable[..., Any]], what: str, **context: Any) -> tuple[Any, Part]:
    """Call a part's factory; the result, and the part with the factory's defaults filled in.

    `context` is passed to a factory that asks for it by name (a model may want `inputs` and `outputs`).
    """
    factory = imported(part.name, what) if ":" in part.name else known.get(part.name)
    if factory is None:
        raise InputError(
            f"There is no {what} {part.name!r}. {nearest(part.name, known)} "
            "Your own is given as package.module:factory."
        )
    signature = inspect.signature(factory).parameters
    if what == "method" and "model" in signature and "model" not in context:
        raise InputError(f"`method` {part.name!r} adapts a model, and no `model` is given. {nearest('', nets.NETS)}")
    options = _checked(part, signature, what, context)
    wanted = {name: value for name, value in context.items() if name in signature}
    said = {name: value for name, value in options.items() if _plain(value)}
    return factory(**wanted, **options), Part.model_validate({"name": part.name, **said})


def _checked(
    part: Part, signature: Mapping[str, inspect.Parameter], what: str, context: Mapping[str, Any]
) -> dict[str, Any]:
    keywords = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    takes = {n: p for n, p in signature.items() if p.kind in keywords and n not in context}
    free = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.values())
    for name in part.options:
        if name in context:
            raise InputError(f"`{what}.{name}` comes from the tasks and cannot be set.")
        if name not in takes and not free:
            raise InputError(f"`{what}.{name}` is no option of {part.name!r}. {nearest(name, takes)}")
    fields: dict[str, Any] = {}
    for name, parameter in takes.items():
        given = Any if parameter.annotation is parameter.empty else parameter.annotation
        fields[name] = (given, ... if parameter.default is parameter.empty else parameter.default)
    extra: Literal["allow", "forbid"] = "allow" if free else "forbid"
    schema = create_model(what, __config__=ConfigDict(extra=extra, arbitrary_types_allowed=True), **fields)
    try:
        checked = schema(**part.options)
    except ValidationError as error:
        raise InputError(explain(error, prefix=f"{what}.")) from None
    return {name: getattr(checked, name) for name in (*fields, *(checked.model_extra or {}))}


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, str | int | float | bool)


def imported(path: str, what: str) -> Callable[..., Any]:
    """`package.module:factory`, imported; errors in the user's module are shown as one line with their place."""
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's module may fail in any way while it is imported
        raise InputError(
            f"`{what}` is {path!r}, but importing {module_name!r} failed: {type(error).__name__}: {error}. "
            "It must be importable from the current directory or installed."
        ) from error
    factory = getattr(module, name, None)
    if not callable(factory):
        raise InputError(
            f"`{what}` is {path!r}, but {module_name!r} has no callable {name!r}. {nearest(name, vars(module))}"
        )
    chosen: Callable[..., Any] = factory
    return chosen


def explain(error: ValidationError, prefix: str = "") -> str:
    """A validation error as one sentence per mistake, unknown keys with the nearest known one."""
    sentences = []
    for item in error.errors():
        place = prefix + ".".join(str(step) for step in item["loc"])
        if item["type"] == "extra_forbidden":
            sentences.append(f"`{place}` is no setting. {nearest(str(item['loc'][-1]), _siblings(item['loc'][:-1]))}")
        else:
            given = "" if item["type"] == "missing" else f" (given: {item['input']!r})"
            sentences.append(f"`{place}`: {item['msg']}{given}.")
    return " ".join(sentences)


def _siblings(path: Sequence[Any]) -> list[str]:
    model: Any = Config
    for step in path:
        field = getattr(model, "model_fields", {}).get(step)
        model = field.annotation if field is not None else None
    return sorted(getattr(model, "model_fields", {}))


def shipped() -> dict[str, Path]:
    """The configurations that come with the package, by name."""
    folder = Path(str(files("quickstudy"))) / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """A configuration from a file, or a shipped one by name, with `--key.sub value` overrides."""
    path = shipped().get(str(source), Path(source))
    if not path.is_file():
        raise InputError(
            f"There is no configuration {str(source)!r}: no such file, and none of that name ships. "
            f"{nearest(str(source), shipped())}"
        )
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise InputError(
            f"{path} holds a {type(raw).__name__}; a configuration is a mapping with tasks, model and method."
        )
    return parse(raw, overrides)


def parse(raw: Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """A configuration from plain data and overrides."""
    data: dict[str, Any] = {key: dict(value) if isinstance(value, dict) else value for key, value in raw.items()}
    for keys, value in _pairs(overrides):
        _set(data, keys, value)
    if isinstance(data.get("format"), int) and data["format"] > FORMAT:
        raise InputError(
            f"The configuration has format {data['format']}; this version reads up to {FORMAT}. Upgrade quickstudy."
        )
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise InputError(explain(error)) from None


def _pairs(words: Sequence[str]) -> list[tuple[list[str], Any]]:
    pairs = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise InputError(
                f"{word!r} stands alone; an override is written --key.sub value, for example --train.steps 100."
            )
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not rest:
                raise InputError(f"--{key} has no value; write --{key} VALUE.")
            value = rest.pop(0)
        try:
            pairs.append((key.replace("-", "_").split("."), yaml.safe_load(value)))
        except yaml.YAMLError:
            raise InputError(f"--{key} was {value!r}, which is not readable as a value. Quote it.") from None
    return pairs


def _set(data: dict[str, Any], keys: list[str], value: Any) -> None:
    *above, last = keys
    for key in above:
        below = data.get(key)
        if isinstance(below, str):  # a part given by its bare name
            below = {"name": below}
        elif below is None:
            below = {}
        elif not isinstance(below, dict):
            raise InputError(f"--{'.'.join(keys)} goes into {key!r}, which is a value and has no settings of its own.")
        data[key] = dict(below)
        data = data[key]
    if isinstance(data.get(last), dict) and "name" in data[last] and isinstance(value, str):
        value = {**data[last], "name": value}  # --method mtnet changes the method and keeps the options
    data[last] = value
