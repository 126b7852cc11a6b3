r"""Calibration from episodes: how far a learner's outputs can be trusted, measured without a user's labels.

The learner adapts to validation tasks of its training classes, with the ways and shots of the user's task. The outputs
for their queries, whose classes are known, give

- one temperature: :math:`p = \mathrm{softmax}(o / T)` with the T of the smallest cross-entropy. One example more is
  added, which pulls T to the usual spread of the outputs: a few examples that are all right, or all wrong, would
  otherwise make T zero or infinite,
- thresholds of sets: a set holds the classes with p of at least q. Of n true classes' p, q for the coverage c is the
  one of rank (n + 1) (1 - c), rounded down, so that a set has the true class as often as asked for with few examples
  too. With rank 0 it holds every class. The most probable class is always in it,
- the usual size of the largest output; far below it, an input is unlike those that calibrated.

Guo et al., 2017 (https://arxiv.org/abs/1706.04599); Sadinle, Lei & Wasserman, 2019 (https://arxiv.org/abs/1609.00451).
"""

import math
from dataclasses import fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import NDArray
from pydantic import BaseModel, Field, FiniteFloat
from torch import Tensor

from quickstudy.errors import InputError
from quickstudy.evaluation.evaluate import task_batches
from quickstudy.methods.learner import Learner
from quickstudy.tasks import Batches, Episodes, TaskFamily
from quickstudy.types import Integer

EPISODES = 200
QUERIES = 15
LEVELS = 201
"""Quantiles that are kept of the true classes' probabilities: one each half percent."""
BINS = 15
"""Of the expected calibration error, as in Guo et al."""
HALVINGS = 60
TEMPERATURES = (1e-6, 1e6)
"""Where the temperature is looked for, as shares of the usual spread of the outputs."""
PRIOR = 1.0
"""How many examples the pull of a temperature to that spread counts as."""
FARTHEST = 0.005
"""An input whose largest output is below this quantile of those of the episodes is unlike them."""


class Calibration(BaseModel, frozen=True, extra="forbid"):
    """What episodes say of a learner at some ways and shots."""

    ways: int = Field(ge=2)
    shots: int = Field(ge=1)
    episodes: int = Field(ge=0, description="tasks; 0 where the user's own examples were left out one at a time")
    source: str = Field(description="where the tasks come from, in words")
    temperature: FiniteFloat = Field(gt=0)
    levels: tuple[FiniteFloat, ...] = Field(min_length=LEVELS, max_length=LEVELS, description="quantiles of p")
    least_output: FiniteFloat = Field(description="below it, an input is unlike those of the episodes")
    accuracy: FiniteFloat
    error_before: FiniteFloat = Field(description="the expected calibration error without a temperature")
    error_after: FiniteFloat = Field(description="with the temperature, on episodes that did not choose it")

    def probabilities(self, outputs: Float[Tensor, "n ways"]) -> Float[Tensor, "n ways"]:
        """The probability of each class."""
        return (outputs.double() / self.temperature).softmax(-1)

    def threshold(self, coverage: float) -> float:
        """The least probability in a set that has the true class with this probability."""
        return self.levels[math.floor((1 - coverage) * (LEVELS - 1) + 1e-9)]

    def is_far(self, outputs: Float[Tensor, "n ways"]) -> Tensor:
        """Which inputs are unlike those of the episodes."""
        return outputs.amax(-1) < self.least_output

    def __str__(self) -> str:
        by = f"{self.episodes} tasks of {self.source}" if self.episodes else self.source
        return (
            f"{self.ways} classes with {self.shots} examples each, on {by}: {100 * self.accuracy:.1f} % right, "
            f"calibration error {100 * self.error_before:.1f} % before and {100 * self.error_after:.1f} % after "
            f"(temperature {self.temperature:.3g})"
        )


def fit_temperature(outputs: Float[Tensor, "n ways"], y: Int[Tensor, "n"], prior: float = 0.0) -> float:
    r"""The temperature of the smallest cross-entropy, which is convex in 1 / T: its slope is halved in.

    With b = 1 / T and s, the usual spread of the outputs of an example, what is minimised is

    .. math:: \sum_i -\log \mathrm{softmax}(b\, o_i)_{y_i} + a\, (b s - \log b s)

    Args:
        outputs: Of examples.
        y: Their classes.
        prior: a, the number of examples that the pull to T = s counts as.
    """
    outputs = outputs.double()
    true, spread = outputs[torch.arange(len(y)), y], _usual_spread(outputs)

    def slope(inverse: float) -> float:
        # A class that cannot be has the output minus infinity, and no part in the mean.
        p = (inverse * outputs).softmax(-1)
        of_entropy = float(((p * outputs.nan_to_num(neginf=0.0)).sum(-1) - true).sum())
        return of_entropy + prior * (spread - 1 / inverse)

    low, high = (1 / (spread * share) for share in reversed(TEMPERATURES))
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 1 / math.sqrt(low * high)


def _usual_spread(outputs: Float[Tensor, "n ways"]) -> float:
    """The mean over examples of the standard deviation of their finite outputs; 1 where nothing differs."""
    known = outputs.isfinite()
    count = known.sum(-1).clamp(min=1)
    centred = torch.where(known, outputs - (outputs.nan_to_num(neginf=0.0).sum(-1) / count)[:, None], 0.0)
    return float((centred.square().sum(-1) / count).sqrt().mean()) or 1.0


def calibration_error(p: Float[Tensor, "n ways"], y: Int[Tensor, "n"]) -> float:
    """The mean distance of confidence and accuracy over bins of equal width, weighted by how many are in each.

    >>> round(calibration_error(torch.tensor([[0.9, 0.1], [0.9, 0.1]]), torch.tensor([0, 1])), 3)
    0.4
    """
    sure, guess = p.max(-1)
    bins = (sure * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, (guess == y).double() - sure.double())
    return float(gaps.abs().sum() / len(y))


def calibrate(
    outputs: Float[Tensor, "n ways"],
    y: Int[Tensor, "n"],
    *,
    shots: int,
    episodes: int,
    source: str,
    first: Bool[Tensor, "n"] | None = None,
) -> Calibration:
    """Calibrate outputs whose true classes are known. Half of them choose the temperature that is judged on the rest.

    The temperature that is kept is chosen by all.

    Args:
        outputs: Of examples that taught nothing.
        y: Their classes.
        shots: See `Calibration`.
        episodes: See `Calibration`.
        source: See `Calibration`.
        first: Which of them are in the first half; by default those that come first.
    """
    if outputs.isnan().any() or not outputs.amax(-1).isfinite().all():  # of a class it may be minus infinity
        raise InputError("The outputs for the examples are not numbers. The inputs may be too large: scale them.")
    temperature = fit_temperature(outputs, y, PRIOR)
    first = torch.arange(len(y)) < len(y) // 2 if first is None else first
    halves = [(first, ~first), (~first, first)] if 0 < int(first.sum()) < len(y) else [(first | True,) * 2]
    judged = [(outputs[to].double() / fit_temperature(outputs[of], y[of], PRIOR)).softmax(-1) for of, to in halves]
    order = torch.cat([y[to] for _, to in halves])
    p = (outputs.double() / temperature).softmax(-1)
    true = p[torch.arange(len(y)), y].numpy()
    largest = outputs.amax(-1).double().numpy()
    return Calibration(
        ways=outputs.shape[1],
        shots=shots,
        episodes=episodes,
        source=source,
        temperature=temperature,
        levels=_find_levels(true),
        least_output=float(np.quantile(largest, FARTHEST)),
        accuracy=float((outputs.argmax(-1) == y).double().mean()),
        error_before=calibration_error(outputs.double().softmax(-1), y),
        error_after=calibration_error(torch.cat(judged), order),
    )


def _find_levels(true: NDArray[np.float64]) -> tuple[float, ...]:
    """The thresholds of sets by the probabilities of true classes: 0 where so few examples cannot tell."""
    ranks = np.floor((len(true) + 1) * np.linspace(0, 1, LEVELS) + 1e-9).astype(int)
    return tuple(np.concatenate([[0.0], np.sort(true)])[ranks.clip(max=len(true))].tolist())


def with_sizes(family: TaskFamily, split: str, ways: Integer, shots: Integer) -> tuple[Episodes, int, int]:
    """The tasks of a split with other ways and shots, or the nearest for which it has enough classes and images."""
    part = family.of_split(split)
    part = part.of if isinstance(part, Batches) else part
    if not isinstance(part, Episodes) or split not in part.pools:
        raise InputError(f"These tasks have no classes of a split {split!r}, so nothing can be calibrated on them.")
    classes, _, counts = part.pools[split]
    groups = part.groups(split)
    most = len(classes) if groups is None else int(np.unique(groups, return_counts=True)[1].max())
    least = int(counts.min())
    if most < 2 or least < 2:
        raise InputError(f"{split!r} has too few classes or images for a task.")
    near_ways, near_shots = min(int(ways), most), min(int(shots), least - 1)
    queries = min(QUERIES, least - near_shots)
    return replace(part, ways=near_ways, shots=near_shots, queries=queries), near_ways, near_shots


def collect_outputs(
    learner: Learner, family: TaskFamily, split: str, episodes: Integer, seed: Integer = 0
) -> tuple[Float[Tensor, "tasks n outputs"], Shaped[Tensor, "tasks n ..."]]:
    """The learner's outputs for the queries of fixed tasks, and the targets of these."""
    twin, outputs, targets = learner.evaluation_twin(), [], []
    with torch.no_grad():
        for tasks in task_batches(family, split, episodes, seed):
            outputs.append(twin(tasks, seed=seed, evaluating=True).output.cpu())
            targets.append(tasks.query.y)
    return torch.cat(outputs), torch.cat(targets)


def calibrate_on_tasks(
    learner: Learner, family: TaskFamily, ways: Integer, shots: Integer, *, episodes: Integer = EPISODES
) -> Calibration:
    """Calibrate a learner on validation tasks; on training tasks where there are none, or too few images for one.

    A learner that was built for more classes than the tasks have answers with the first of them.
    """
    split = "val" if _has_tasks(family, "val") else "train"
    tasks, near_ways, near_shots = with_sizes(family, split, ways, shots)
    outputs, y = collect_outputs(learner, tasks, split, episodes)
    flat, true = outputs[..., :near_ways].flatten(0, 1), y.flatten()
    finite = flat.isfinite().any(-1) & ~flat.isnan().any(-1)
    if not finite.any():
        raise InputError("The learner's outputs are not finite on any validation task, so it cannot be calibrated.")
    return calibrate(
        flat[finite], true[finite], shots=near_shots, episodes=int(episodes), source=_describe(tasks, split)
    )


def measure_error(learner: Learner, family: TaskFamily, shots: Integer, *, episodes: Integer = EPISODES) -> float:
    """The root mean squared error of a learner of regression on validation tasks with so many examples."""
    part = family.of_split("val")
    if "shots" in {field.name for field in fields(part)}:  # type: ignore[arg-type]  # a family is a dataclass
        part = replace(part, shots=int(shots))  # type: ignore[type-var]
    outputs, y = collect_outputs(learner, part, "val", episodes)
    return float((outputs - y).double().square().mean().sqrt())


def _has_tasks(family: TaskFamily, split: str) -> bool:
    """Whether a split has two classes, with two images of each."""
    try:
        with_sizes(family, split, 2, 1)
    except InputError:
        return False
    return True


def _describe(tasks: Episodes, split: str) -> str:
    return f"{tasks.name} ({'validation' if split == 'val' else 'training'} classes, {tasks.rule})"
