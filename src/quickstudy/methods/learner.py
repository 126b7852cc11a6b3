"""Learners: what training, evaluation and reports know.

A learner is a pure pair, `update(support, noise) -> params` and `predict(params, x) -> output`, both written for one
task. `adapt(support)` is the public face: it returns a plain module. A `RuleLearner` is a head that a rule adapts,
behind a body that all tasks share.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from quickstudy.engine.engine import Engine, Gradients, LoopFallback, sum_gradients, twice_differentiable
from quickstudy.engine.gradient_check import Check, relative_errors
from quickstudy.engine.precision import autocast_products
from quickstudy.errors import InputError
from quickstudy.models.norms import (
    describe_norms,
)
from quickstudy.tasks.draws import task_noise
from quickstudy.tasks.support import explain_misfit
from quickstudy.types import Criterion, Examples, Outcome, Params, Shape, Task, move, pick

Noise = Mapping[str, Tensor]


class Learner(nn.Module, ABC):
    """Something that adapts to a support set and predicts.

    Args:
        criterion: The query loss.
        engine: How batches of tasks are run; by default chosen from the model.
    """

    def __init__(self, criterion: Criterion, engine: Engine | None = None) -> None:
        super().__init__()
        self.criterion = criterion
        self.engine = engine or Engine()

    @property
    def device(self) -> torch.device:
        """Where its parameters are, and so where tasks are run."""
        return next(self.parameters(), torch.zeros(())).device

    def placed(self, tasks: Task) -> Task:
        """Tasks with their examples on the learner's device; keys, which noise is drawn from, stay where they are."""
        device = self.device
        if all(t.device == device for t in (*tasks.support, *tasks.query)):
            return tasks
        support, query = move((tasks.support, tasks.query), device)
        return tasks._replace(support=support, query=query)

    @abstractmethod
    def update(self, support: Examples, noise: Noise, evaluating: bool = False) -> Params:
        """What the task changes, as parameters. One task; pure; called under `vmap` or in a loop."""

    @abstractmethod
    def predict(self, params: Params, x: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Outputs for `x` under what `update` returned. One task; pure."""

    def noise(self) -> dict[str, Shape]:
        """The noise that one task's update reads, by name and shape; none unless overridden."""
        return {}

    def solve(self, support: Examples, query: Examples, noise: Noise) -> Outcome:
        """One task in training: its query loss and outputs. Overridden where training looks at more than the end."""
        return self.judge(self.update(support, noise), query)

    def judge(self, params: Params, query: Examples) -> Outcome:
        """The query loss and outputs under given parameters."""
        output = self.predict(params, query.x)
        return Outcome(self.criterion(output, query.y), output)

    def evaluate(self, support: Examples, query: Examples, noise: Noise) -> Outcome:
        """One task in evaluation: as `solve`, with the evaluation steps and the final parameters only."""
        return self.judge(self.update(support, noise, evaluating=True), query)

    def forward(self, tasks: Task | Sequence[Task], *, seed: int = 0, evaluating: bool = False) -> Outcome:
        """A batch of tasks, or a sequence of tasks of unequal sizes (which runs on the loop).

        For a sequence, outputs are padded with NaN to the longest query set. Masks and the like are drawn from
        (seed, task key).
        """
        if not isinstance(tasks, Task):
            return _padded([self(_as_batch(task), seed=seed, evaluating=evaluating) for task in tasks])
        tasks = self.placed(tasks)
        self.engine.settle(self, tasks.support.x)
        one = self.evaluate if evaluating else self.solve
        outcome: Outcome = self.engine.each(one, tasks.support, tasks.query, self.draw(tasks, seed))
        return outcome

    def draw(self, tasks: Task, seed: int = 0) -> dict[str, Tensor]:
        """The noise of a batch of tasks, a function of (seed, task key)."""
        return task_noise(self.noise(), tasks.key, seed, like=next(self.parameters(), torch.zeros(())).detach())

    def meta_gradient(
        self, tasks: Task | Sequence[Task], *, seed: int = 0, reduction: str = "mean"
    ) -> tuple[Outcome, Gradients]:
        """Outcomes and the gradient of the outer loss for each trainable parameter, in the order of `meta_params()`.

        Args:
            tasks: A batch, or a sequence of tasks of unequal sizes.
            seed: Of the adaptation's noise.
            reduction: Over the tasks of the batch: "mean" or "sum".
        """
        if reduction not in ("mean", "sum"):
            raise InputError(f"The outer loss is reduced by 'mean' or 'sum', not {reduction!r}.")
        if not isinstance(tasks, Task):
            outcomes, every = zip(*(self.meta_gradient(_as_batch(task), seed=seed) for task in tasks), strict=True)
            share = 1.0 if reduction == "sum" else 1.0 / len(every)
            return _padded(list(outcomes)), [
                sum_gradients([g if g is None else share * g for g in own]) for own in zip(*every, strict=True)
            ]
        tasks = self.placed(tasks)
        self.engine.settle(self, tasks.support.x)
        weight = 1.0 if reduction == "sum" else 1.0 / len(tasks.key)
        args = (tasks.support, tasks.query, self.draw(tasks, seed))
        return self.engine.meta_gradient(self, self.solve, args, self.meta_params(), weight)

    def task_gradients(self, tasks: Task, *, seed: int = 0) -> dict[str, Float[Tensor, "T ..."]]:
        """Each task's own meta-gradient, `[T, *shape]` by name: what their cosines and conflicts are read from."""
        own = [self.meta_gradient(pick(tasks, slice(i, i + 1)), seed=seed)[1] for i in range(len(tasks.key))]
        return {
            name: torch.stack([torch.zeros_like(p) if (g := grads[i]) is None else g for grads in own])
            for i, (name, p) in enumerate(self.meta_params().items())
        }

    def meta_params(self) -> Params:
        """What meta-training moves, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def check(self, tasks: Task, *, seed: int = 0) -> Check:
        """Compare the vectorised with the looped meta-gradient in float64, and name the module that disagrees.

        Works on a copy, in evaluation mode (dropout off), so that both see the same function.
        """
        twin = deepcopy(self).double().eval()
        tasks = self.placed(move(tasks, torch.float64))
        twin.engine = Engine("loop")
        _, looped = twin.meta_gradient(tasks, seed=seed)
        twin.engine = Engine("vmap")
        with warnings.catch_warnings(record=True) as refusals, twice_differentiable():
            warnings.simplefilter("ignore")  # what a kernel says of its speed
            warnings.simplefilter("always", LoopFallback)
            _, together = twin.meta_gradient(tasks, seed=seed)
            wrong = twin.suspects(tasks.support.x[0])
        if twin.engine.backend == "loop":
            return Check({}, wrong, str(refusals[-1].message).partition("Reason: ")[2])
        return Check(relative_errors(list(twin.meta_params()), together, looped), wrong)

    def suspects(self, x: Tensor) -> dict[str, str]:
        """Modules with a wrong second-order gradient, given one task's inputs; unknown unless overridden."""
        del x
        return {}

    def observe(self, tasks: Task, *, seed: int = 0) -> dict[str, Float[Tensor, "T ..."]]:
        """Quantities of each task worth logging, by name; none unless overridden."""
        del tasks, seed
        return {}

    def adapt(self, support: Examples, *, key: int = 0, seed: int = 0) -> nn.Module:
        """A plain module that has learned from `support`: call it, save it, export it.

        Args:
            support: One task's labelled examples.
            key: The task's key, which its noise is drawn from.
            seed: Of that noise.

        Raises:
            InputError: The support set is empty, or does not fit the model.
        """
        like = next(self.parameters(), torch.zeros(())).detach()  # a nearest neighbour has no parameters
        noise = task_noise(self.noise(), torch.tensor([key]), seed, like=like)
        with (
            explain_misfit(support),
            torch.no_grad(),
            twice_differentiable(),
            evaluation_mode(self),
            autocast_products(self.engine.autocast),
        ):
            return self.module(self.update(move(support, self.device), pick(noise, 0), evaluating=True))

    @abstractmethod
    def module(self, params: Params) -> nn.Module:
        """The adapted predictor as a plain module that owns its parameters."""

    @property
    def norms(self) -> str:
        """The norm policy in words, printed with every result."""
        return describe_norms(self.modules())


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """A model in evaluation mode (dropout off), each of its modules back in its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _as_batch(task: Task) -> Task:
    return Task(
        Examples(task.support.x[None], task.support.y[None]),
        Examples(task.query.x[None], task.query.y[None]),
        task.key.reshape(1),
        {name: value[None] for name, value in task.about.items()},
    )


def _padded(outcomes: list[Outcome]) -> Outcome:
    longest = max(outcome.output.shape[1] for outcome in outcomes)
    outputs = []
    for outcome in outcomes:
        short = outcome.output
        gap = short.new_full((1, longest - short.shape[1], *short.shape[2:]), torch.nan)
        outputs.append(torch.cat([short, gap], dim=1))
    return Outcome(torch.cat([outcome.loss for outcome in outcomes]), torch.cat(outputs))
