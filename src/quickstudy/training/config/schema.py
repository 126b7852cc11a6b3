"""The settings of a run: tasks, model, method, and how it is trained, evaluated and computed.

A configuration is a YAML file, or the name of one that ships, with `--key.sub value` overrides. Methods, models and
tasks are chosen by name; a user's own are given as `package.module:factory`. Their options are checked against the
factory's signature. An unknown setting is refused with the nearest known name.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, field_validator, model_validator

from quickstudy.engine import devices
from quickstudy.engine.settings import EngineSettings
from quickstudy.tasks.draws import check_split
from quickstudy.training.config.schedule import Schedule
from quickstudy.training.init_from import InitFrom

CONFIG_FORMAT = 1


class Part(BaseModel, frozen=True, extra="allow"):
    """A factory's name (or `package.module:factory`) and, beside it, the factory's options."""

    name: str

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """The options as given."""
        return dict(self.model_extra or {})


class TrainSettings(BaseModel, frozen=True, extra="forbid"):
    """How a learner is meta-trained."""

    steps: int = Field(1000, ge=0, description="outer steps")
    meta_batch_size: int = Field(4, ge=1, description="tasks in an outer step")
    optimizer: Literal["adam", "sgd"] = "adam"
    meta_lr: float = Field(1e-3, gt=0, description="the outer step size")
    momentum: float = Field(0.0, ge=0, lt=1, description="of the optimizer sgd")
    milestones: tuple[NonNegativeInt, ...] = Field(
        (), description="steps at which the outer step size is multiplied by gamma"
    )
    gamma: float = Field(0.3, gt=0)
    reduction: Literal["mean", "sum"] = Field("mean", description="of the outer loss over tasks")
    clip_value: float | None = Field(None, gt=0, description="bound on each number of the meta-gradient")
    clip_norm: float | None = Field(None, gt=0, description="bound on the meta-gradient's norm")
    schedules: dict[str, Schedule] = Field({}, description="values of buffers, by path, as functions of the step")
    probes: tuple[str, ...] = Field(
        (), description="quantities to log: names or patterns of parameters or observations"
    )
    probe_every: int = Field(100, ge=1)
    log_every: int | None = Field(None, ge=1, description="by default 200 rows over the run")
    validate_every: int | None = Field(None, ge=0, description="by default 20 times over the run; 0 is never")
    validate_tasks: int = Field(100, ge=1)
    select_with: Literal["final", "current"] = Field(
        "final", description="final: validate at the schedules' final values, and choose no best before; current: as is"
    )
    checkpoint_every: int | None = Field(None, ge=1, description="by default 20 times over the run")

    def interval(self, given: int | None, times: int) -> int:
        """The steps between two events: `given`, or what makes so many events over the run."""
        return given if given is not None else max(1, self.steps // times)


class EvaluateSettings(BaseModel, frozen=True, extra="forbid"):
    """How a learner is evaluated."""

    tasks: int = Field(600, ge=1)
    split: str = "test"
    seed: int = Field(0, description="of the list of tasks; the training has its own")
    metric: str | None = Field(None, description="by default the usual one for the tasks' loss")
    options: dict[str, Any] = Field({}, description="of the tasks, where they differ in evaluation: {queries: 15}")

    @field_validator("split")
    @classmethod
    def _check_split(cls, split: str) -> str:
        return check_split(split)


class ComputeSettings(BaseModel, EngineSettings, frozen=True, extra="forbid"):
    """The engine's settings, and what else of the machine a run uses.

    A run keeps its number of threads, which its exact numbers depend on.
    """

    threads: int | None = Field(None, ge=1, le=1024, description="by default as many as torch would use")
    device: str = Field("auto", description="cpu, cuda or cuda:1; auto is the GPU where there is one")
    memory: float | str = Field(0.5, description="that tasks may take: a fraction of what is free, or '6 GB'")

    @model_validator(mode="after")
    def _suits_an_engine(self) -> "ComputeSettings":
        self.check()
        return self

    @field_validator("memory")
    @classmethod
    def _is_amount(cls, value: float | str) -> float | str:
        devices.parse_amount(value)
        return value


class Config(BaseModel):
    """The configuration of one run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    seed: int = Field(0, ge=0, lt=2**63)
    tasks: Part
    model: Part | None = Field(None, description="null for methods without a model")
    method: Part
    init_from: InitFrom | None = Field(None, description="a run whose model this one starts from")
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    compute: ComputeSettings = ComputeSettings()
