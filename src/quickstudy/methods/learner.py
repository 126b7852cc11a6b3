"""Learners: what training, evaluation and reports work with.

A learner is two pure functions, `update(support, noise) -> params` and `predict(params, x) -> output`, both written for
one task. Users call `adapt(support)`, which returns a plain module. A `RuleLearner` has a head that a rule adapts,
behind a body that all tasks share.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from quickstudy.engine.engine import Engine, Gradients, LoopFallbackWarning, sum_gradients, twice_differentiable
from quickstudy.engine.gradient_check import GradientCheck, relative_errors
from quickstudy.engine.precision import autocast_products
from quickstudy.engine.twin import Twins, copy_module, set_mode
from quickstudy.errors import InputError
from quickstudy.models.norms import describe_norms
from quickstudy.tasks.check import explain_misfit
from quickstudy.tasks.draws import task_noise
from quickstudy.types import Criterion, Examples, Outcome, Params, Shape, Task, move, pick

L = TypeVar("L", bound="Learner")

Noise = Mapping[str, Tensor]


class Learner(nn.Module, ABC):
    """A model that adapts to a support set and then predicts.

    Args:
        criterion: The query loss.
        engine: How batches of tasks are run; by default it is chosen from the model.
    """

    def __init__(self, criterion: Criterion, engine: Engine | None = None) -> None:
        super().__init__()
        self.criterion = criterion
        self.engine = engine or Engine()
        self.checked = False

    @property
    def device(self) -> torch.device:
        """The device of its parameters, on which tasks run."""
        return next(self.parameters(), torch.zeros(())).device

    def move_tasks(self, tasks: Task) -> Task:
        """Tasks with their examples on the learner's device. Keys stay on the CPU, where noise is drawn from them."""
        device = self.device
        if all(t.device == device for t in (*tasks.support, *tasks.query)):
            return tasks
        support, query = move((tasks.support, tasks.query), device)
        return tasks._replace(support=support, query=query)

    def check_first_task(self, support: Examples) -> None:
        """Look at the support set of a first task, and refuse a model that could not learn it; nothing by default."""

    def check_once(self, support: Examples) -> None:
        """Call `check_first_task` on the first task that this learner is given."""
        if not self.checked:
            self.check_first_task(support)
            self.checked = True

    @abstractmethod
    def update(self, support: Examples, noise: Noise, evaluating: bool = False) -> Params:
        """The parameters that adaptation to a task changes. One task; pure; called under `vmap` or in a loop."""

    @abstractmethod
    def predict(self, params: Params, x: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Outputs for `x`, given what `update` returned. One task; pure."""

    def noise(self) -> dict[str, Shape]:
        """Names and shapes of the noise that the update of one task reads; none unless overridden."""
        return {}

    def solve(self, support: Examples, query: Examples, noise: Noise) -> Outcome:
        """The query loss and outputs of one task in training. Overridden where the loss has several terms."""
        return self.query_outcome(self.update(support, noise), query)

    def query_outcome(self, params: Params, query: Examples) -> Outcome:
        """The query loss and outputs with given parameters."""
        output = self.predict(params, query.x)
        return Outcome(self.criterion(output, query.y), output)

    def evaluate(self, support: Examples, query: Examples, noise: Noise) -> Outcome:
        """The query loss and outputs of one task in evaluation: after the steps of evaluation, at the last of them."""
        return self.query_outcome(self.update(support, noise, evaluating=True), query)

    def forward(self, tasks: Task | Sequence[Task], *, seed: int = 0, evaluating: bool = False) -> Outcome:
        """Outcomes of a batch of tasks, or of a sequence of tasks of unequal sizes, which run one by one.

        For a sequence, outputs are padded with NaN to the longest query set. The noise of a task, such as its masks, is
        a function of (seed, task key).
        """
        if not isinstance(tasks, Task):
            return _pad_outcomes([self(_as_batch(task), seed=seed, evaluating=evaluating) for task in tasks])
        tasks = self.move_tasks(tasks)
        self.engine.settle(self, tasks.support.x)
        self.check_once(pick(tasks.support, 0))
        one = self.evaluate if evaluating else self.solve
        outcome: Outcome = self.engine.each(one, tasks.support, tasks.query, self.draw(tasks, seed))
        return outcome

    def draw(self, tasks: Task, seed: int = 0) -> dict[str, Tensor]:
        """The noise of a batch of tasks, a function of (seed, task key)."""
        return task_noise(self.noise(), tasks.key, seed, like=next(self.parameters(), torch.zeros(())).detach())

    def meta_gradient(
        self, tasks: Task | Sequence[Task], *, seed: int = 0, reduction: str = "mean"
    ) -> tuple[Outcome, Gradients]:
        """Outcomes, and the gradient of the outer loss for each trainable parameter in the order of `meta_params()`.

        Args:
            tasks: A batch, or a sequence of tasks of unequal sizes.
            seed: The seed of the adaptation's noise.
            reduction: Of the losses of the tasks: "mean" or "sum".
        """
        if reduction not in ("mean", "sum"):
            raise InputError(f"The outer loss is reduced by 'mean' or 'sum', not {reduction!r}.")
        if not isinstance(tasks, Task):
            outcomes, every = zip(*(self.meta_gradient(_as_batch(task), seed=seed) for task in tasks), strict=True)
            share = 1.0 if reduction == "sum" else 1.0 / len(every)
            return _pad_outcomes(list(outcomes)), [
                sum_gradients([g if g is None else share * g for g in own]) for own in zip(*every, strict=True)
            ]
        tasks = self.move_tasks(tasks)
        self.engine.settle(self, tasks.support.x)
        self.check_once(pick(tasks.support, 0))
        weight = 1.0 if reduction == "sum" else 1.0 / len(tasks.key)
        args = (tasks.support, tasks.query, self.draw(tasks, seed))
        return self.engine.meta_gradient(self, self.solve, args, self.meta_params(), weight)

    def task_gradients(self, tasks: Task, *, seed: int = 0) -> dict[str, Float[Tensor, "T ..."]]:
        """The meta-gradient of each task, `[T, *shape]` by name: their cosines show how tasks conflict."""
        own = [self.meta_gradient(pick(tasks, slice(i, i + 1)), seed=seed)[1] for i in range(len(tasks.key))]
        return {
            name: torch.stack([torch.zeros_like(p) if (g := grads[i]) is None else g for grads in own])
            for i, (name, p) in enumerate(self.meta_params().items())
        }

    def meta_params(self) -> Params:
        """The parameters that meta-training changes, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def check(self, tasks: Task, *, seed: int = 0) -> GradientCheck:
        """Compare the vectorised with the looped meta-gradient in float64, and name the modules that are wrong.

        It works on a copy, in evaluation mode: without dropout, both compute the same function.
        """
        copied = deepcopy(self).double().eval()
        tasks = self.move_tasks(move(tasks, torch.float64))
        copied.engine = Engine("loop")
        _, looped = copied.meta_gradient(tasks, seed=seed)
        copied.engine = Engine("vmap")
        with warnings.catch_warnings(record=True) as refusals, twice_differentiable():
            warnings.simplefilter("ignore")  # a kernel may warn that it is slow
            warnings.simplefilter("always", LoopFallbackWarning)
            _, together = copied.meta_gradient(tasks, seed=seed)
            wrong = copied.suspects(tasks.support.x[0])
        if copied.engine.backend == "loop":
            return GradientCheck({}, wrong, str(refusals[-1].message).partition("Reason: ")[2])
        return GradientCheck(relative_errors(list(copied.meta_params()), together, looped), wrong)

    def suspects(self, x: Tensor) -> dict[str, str]:
        """Modules with a wrong second-order gradient on the inputs of one task; none unless overridden."""
        del x
        return {}

    def observe(self, tasks: Task, *, seed: int = 0) -> dict[str, Float[Tensor, "T ..."]]:
        """Quantities of each task for the log, by name; none unless overridden."""
        del tasks, seed
        return {}

    def adapt(self, support: Examples, *, key: int = 0, seed: int = 0) -> nn.Module:
        """A plain module that is adapted to `support`, to be called, saved or exported.

        Args:
            support: The labelled examples of one task.
            key: The key of the task, from which its noise is drawn.
            seed: The seed of that noise.

        Raises:
            InputError: The support set is empty, or does not fit the model.
        """
        like = next(self.parameters(), torch.zeros(())).detach()  # a nearest neighbour has no parameters
        noise = task_noise(self.noise(), torch.tensor([key]), seed, like=like)
        with (
            torch.inference_mode(False),  # inner steps need gradients, which inference mode leaves out
            explain_misfit(support),
            torch.no_grad(),
            twice_differentiable(),
            autocast_products(self.engine.settings.autocast),
        ):
            support = move(Examples(*map(_recordable, support)), self.device)
            twin = self.evaluation_twin()
            twin.check_once(support)
            self.checked = True
            return self.module(twin.update(support, pick(noise, 0), evaluating=True))

    def evaluation_twin(self: L) -> L:
        """A twin of this learner in evaluation mode (dropout off), with the same tensors and the same engine.

        The learner itself stays in its mode. A module whose `train` does more than set the flag is put into evaluation
        mode by that method, on a copy, unless the method changes tensors (as merged low-rank layers do).
        """
        twin = Twins(self).twin({})
        twin.engine = self.engine
        set_mode(twin, self, training=False)
        return twin

    def __deepcopy__(self: L, memo: dict[int, Any]) -> L:
        return copy_module(self, memo)

    @abstractmethod
    def module(self, params: Params) -> nn.Module:
        """The adapted model as a plain module with parameters of its own."""

    @property
    def norms(self) -> str:
        """The norm policy in words; it is printed with every result."""
        return describe_norms(self.modules())


def _recordable(tensor: Tensor) -> Tensor:
    """The tensor; a copy if it was made in inference mode, because no gradient can be computed through it."""
    return tensor.clone() if tensor.is_inference() else tensor


def _as_batch(task: Task) -> Task:
    """A batch of one task."""
    return Task(
        Examples(task.support.x[None], task.support.y[None]),
        Examples(task.query.x[None], task.query.y[None]),
        task.key.reshape(1),
        {name: value[None] for name, value in task.about.items()},
    )


def _pad_outcomes(outcomes: list[Outcome]) -> Outcome:
    """One outcome from several of one task each, with NaN for the queries that a task does not have."""
    longest = max(outcome.output.shape[1] for outcome in outcomes)
    outputs = []
    for outcome in outcomes:
        output = outcome.output
        padding = output.new_full((1, longest - output.shape[1], *output.shape[2:]), torch.nan)
        outputs.append(torch.cat([output, padding], dim=1))
    return Outcome(torch.cat([outcome.loss for outcome in outcomes]), torch.cat(outputs))
