"""Blueprints: what it takes to build a trained learner again, without its tasks and their data."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from quickstudy.errors import InputError, RunError
from quickstudy.evaluation.calibration import Calibration
from quickstudy.models.encoders.feature_tasks import FeatureEpisodes
from quickstudy.storage.records import first_fault
from quickstudy.tasks.base import TaskFamily
from quickstudy.tasks.batches import Batches
from quickstudy.tasks.images.inputs import PictureInput, picture_input
from quickstudy.training.config.schema import Part
from quickstudy.types import InputShapes

Sizes = tuple[int, ...]


class EncoderName(BaseModel, frozen=True, extra="forbid"):
    """The encoder whose features are the inputs."""

    name: str
    digest: str


class Interface(BaseModel, frozen=True, extra="forbid"):
    """What a learner must know of its tasks."""

    inputs: Sizes | tuple[Sizes, ...] | dict[str, Sizes] = Field(description="the shape of one x, or of its parts")
    outputs: int
    train_outputs: int = Field(description="in training, where that has other classes than a task")
    loss: str = Field(description="of the tasks")
    picture: PictureInput | None = Field(None, description="how a picture becomes an x; null for other inputs")
    encoder: EncoderName | None = Field(None, description="what computes x, if x are features")

    def single_input(self) -> Sizes:
        """The shape of one x, which must be one tensor."""
        sizes = tuple(size for size in self.inputs if isinstance(size, int))
        if len(sizes) != len(self.inputs):
            raise InputError(
                f"This learner takes several tensors as one input ({self.inputs}), and an X is one array. Use "
                "`learner.adapt` with Examples of your own."
            )
        return sizes

    @staticmethod
    def of(family: TaskFamily) -> "Interface":
        """The interface of a family."""
        return Interface(
            inputs=_as_sizes(family.inputs),
            outputs=int(family.outputs),
            train_outputs=int(family.of_split("train").outputs),
            loss=family.loss,
            picture=picture_input(family),
            encoder=encoder_of(family),
        )


def _as_sizes(shapes: InputShapes) -> Any:
    """Shapes in Python's own numbers, whatever whole numbers a family has."""
    if isinstance(shapes, Mapping):
        return {str(name): _as_sizes(shape) for name, shape in shapes.items()}
    return tuple(_as_sizes(part) if isinstance(part, Iterable) else int(part) for part in shapes)


def encoder_of(family: TaskFamily) -> EncoderName | None:
    """The encoder whose features a family has in training; None for other inputs."""
    trained = family.of_split("train")
    trained = trained.of if isinstance(trained, Batches) else trained
    if not isinstance(trained, FeatureEpisodes):
        return None
    return EncoderName(name=trained.encoder, digest=trained.encoder_digest)


class Blueprint(BaseModel, frozen=True, extra="forbid"):
    """A learner as data, all but its tensors. It knows nothing of the classes that it was trained on but their number.

    A learner that was made by hand has a `factory` of the user's own in place of `method` and `model`.
    """

    factory: str | None = None
    method: Part | None = None
    model: Part | None = None
    tasks: Interface | None = None
    freeze: tuple[str, ...] = ()
    compute: dict[str, Any] = Field({}, description="how the engine runs tasks; numbers depend on it in the last bits")
    trained: dict[str, Any] = Field({}, description="what the learner was trained on and how long, in words")
    trained_norms: str | None = Field(None, description="the norm policy of training, if another one serves")
    norms_cost: str | None = Field(None, description="what that change costs on validation tasks, in words")
    calibrations: tuple[Calibration, ...] = ()
    errors: dict[int, FiniteFloat] = Field({}, description="of regression on validation tasks, by their shots")


def read_blueprint(values: Any, place: object) -> Blueprint:
    """The blueprint in a file, whatever else the file may hold."""
    try:
        blueprint = Blueprint.model_validate(values)
    except ValidationError as error:
        raise InputError(
            f"{place} does not describe a learner ({first_fault(error)}): it was changed, or saved by another version."
        ) from error
    if blueprint.factory is None and (blueprint.method is None or blueprint.tasks is None):
        raise InputError(f"{place} does not say which method its learner is. It was changed or damaged.")
    return blueprint


def read_interface(values: Any, what: str) -> Interface:
    """The interface in a checkpoint. `what` begins the message if it has another shape."""
    try:
        return Interface.model_validate(values)
    except ValidationError as error:
        raise RunError(f"{what} is damaged: its interface has another shape ({first_fault(error)}).") from error
