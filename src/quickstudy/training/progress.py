"""How far a training has come: the plain values in its checkpoints."""

from math import inf
from typing import Any

from pydantic import BaseModel, Field, FiniteFloat, NonNegativeInt, ValidationError

from quickstudy.engine.engine import Way
from quickstudy.errors import RunError
from quickstudy.storage.checkpoints import Checkpoint
from quickstudy.storage.records import first_fault

TASKS_STATE = ("tasks", "interface")
"""What a checkpoint holds of the tasks: how they describe themselves, and what a learner must know of them."""


class Progress(BaseModel, strict=True, extra="forbid"):
    """The state in a checkpoint besides tensors, without what the tasks say of themselves."""

    step: NonNegativeInt = Field(0, description="outer steps done")
    seconds: FiniteFloat = Field(0.0, ge=0, description="time spent in training")
    # More finite tasks win.
    best: list[float] = Field([-1.0, -inf], min_length=2, max_length=2, description="of `best`: finite tasks and score")
    loss: FiniteFloat = Field(0.0, description="the sum of losses since the last row of kind `train`")
    metric: float = Field(0.0, description="the sum of metrics since then")
    count: NonNegativeInt = Field(0, description="the number of steps since then")
    compiled_from: NonNegativeInt | None = Field(None, description="the step after which steps are compiled")
    way: Way | None = Field(None, description="how tasks run, where it was measured")
    initial: dict[str, Any] | None = Field(None, description="what the model started from, if from another run")


def read_progress(checkpoint: Checkpoint, what: str) -> Progress:
    """The progress in a checkpoint. `what` begins the message if there is none, as in "Checkpoint `last`"."""
    try:
        return Progress(**{name: value for name, value in checkpoint.state.items() if name not in TASKS_STATE})
    except ValidationError as error:
        raise RunError(f"{what} is damaged: its state has another shape ({first_fault(error)}).") from None
