"""Learners: what training, evaluation and reports work with.

A learner is two pure functions, `update(support, noise) -> params` and `predict(params, x) -> output`, both written for
one task. Users call `adapt(support)`, which returns a plain module. A `RuleLearner` has a head that a rule adapts,
behind a body that all tasks share.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from quickstudy.engine.engine import Engine, Gradients, sum_gradients
from quickstudy.engine.gradient_check import (
    GradientCheck,
    WrongGradient,
    check_learner,
    check_learner_here,
)
from quickstudy.engine.precision import autocast_products
from quickstudy.engine.second_derivatives import twice_differentiable
from quickstudy.engine.twin import Twins, copy_module, set_mode
from quickstudy.errors import InputError
from quickstudy.methods.first_task import look_at_what_is_left, look_at_what_is_read, refuse_writes
from quickstudy.methods.misfits import as_class_numbers, explain_batch_misfit, explain_support_misfit, list_tasks
from quickstudy.models.norms import describe_norms
from quickstudy.models.spectral import Changes, advance_power_iterations
from quickstudy.rules.criteria import check_loss
from quickstudy.rules.params import with_prefix
from quickstudy.rules.torch_private import (
    is_tracing,
    outside_transforms,
    tree_leaves,
    tree_map,
    without_kept_parameters,
)
from quickstudy.tasks.draws import task_noise
from quickstudy.types import Criterion, Examples, Inputs, Outcome, Params, Shape, Task, move, pick

L = TypeVar("L", bound="Learner")
I = TypeVar("I")  # noqa: E741  # inputs of any kind

Noise = Mapping[str, Tensor]

STATE, SETTING = "state.", "setting."
"""Begin the names of a learner's tensors in a file."""


class Learner(nn.Module, ABC):
    """A model that adapts to a support set and then predicts.

    Args:
        criterion: The query loss.
        engine: How batches of tasks are run; by default it is chosen from the model.
    """

    allow_unused = False
    """Whether parameters may adapt or train that the losses do not depend on, and so never move."""
    ways: int | None = None
    """The classes of a task, for a learner without parameters of a class: its outputs follow the labels of a task."""
    blueprint: dict[str, Any] | None = None
    """What a file says to build this learner again; None for one that was made from a module by hand."""

    def __init__(self, criterion: Criterion, engine: Engine | None = None) -> None:
        super().__init__()
        self.criterion = criterion
        self.engine = engine or Engine()
        self.trusted = self.differentiated = self.copies_features = self.reads_known = False
        self.power_iterations: Changes = {}
        self.checked: frozenset[bool] = frozenset()  # the modes, `training` or not, in which a first task was looked at

    @property
    def criteria(self) -> Sequence[Criterion]:
        """The losses that it computes."""
        return (self.criterion,)

    @property
    def ignored_labels(self) -> set[int]:
        """The class numbers that its losses leave out, which may be below 0; none for what reads classes itself."""
        return set()

    @property
    def device(self) -> torch.device:
        """The device of its parameters, on which tasks run."""
        return next(self.parameters(), torch.zeros(())).device

    def move_tasks(self, tasks: Task) -> Task:
        """Tasks with their examples on the learner's device. Keys stay on the CPU, where noise is drawn from them."""
        device = self.device
        if all(t.device == device for t in tree_leaves((tasks.support, tasks.query))):
            return tasks
        support, query = move((tasks.support, tasks.query), device)
        return tasks._replace(support=support, query=query)

    def check_first_task(self, support: Examples) -> None:
        """Look at the support set of a first task, and refuse a model that could not learn it; nothing by default."""

    def check_once(self, support: Examples) -> None:
        """Call `check_first_task` on the first task that this learner is given, in each mode: a forward may differ.

        What the losses read is looked at where somebody may take their gradient: an evaluation builds no outer graph.
        """
        if not is_tracing() and not outside_transforms():  # in a transform of the user's nothing can be looked at
            return
        known = not is_tracing() and self.device.type != "meta"  # the values of tensors are
        if self.training not in self.checked:
            with twice_differentiable(), refuse_writes(self) if known else nullcontext():
                self.check_first_task(tree_map(torch.clone, support))
                if known:
                    own = tree_map(torch.clone, support)
                    look_at_what_is_left(
                        self, self.engine, self.criteria, lambda: self.update(own, self._first_noise(own))
                    )
            self.checked |= {self.training}
        if known and torch.is_grad_enabled() and not self.reads_known:
            with twice_differentiable():
                own = tree_map(torch.clone, support)
                look_at_what_is_read(self, self.criteria, lambda: self.solve(own, own, self._first_noise(own)))
            self.reads_known = True

    def _first_noise(self, support: Examples) -> Noise:
        """The noise of a first task that is only looked at."""
        noise: Noise = pick(self.draw(Task(support, support, torch.zeros(1, dtype=torch.int64), {})), 0)
        return noise

    @abstractmethod
    def update(self, support: Examples, noise: Noise, evaluating: bool = False) -> Params:
        """The parameters that adaptation to a task changes. One task; pure; called under `vmap` or in a loop."""

    @abstractmethod
    def predict(self, params: Params, x: Inputs) -> Float[Tensor, "n ..."]:
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
        return Outcome(self.query_loss(output, query.y), output)

    def query_loss(self, output: Any, y: Tensor) -> Tensor:
        """The query loss of one task, which is one number."""
        return check_loss(self.criterion(output, y), "query loss")

    def evaluate(self, support: Examples, query: Examples, noise: Noise) -> Outcome:
        """The query loss and outputs of one task in evaluation: after the steps of evaluation, at the last of them."""
        return self.query_outcome(self.update(support, noise, evaluating=True), query)

    def forward(self, tasks: Task | Sequence[Task], *, seed: int = 0, evaluating: bool = False) -> Outcome:
        """Outcomes of a batch of tasks, or of a sequence of tasks of unequal sizes, which run one by one.

        For a sequence, outputs are padded with NaN to the longest query set. The noise of a task, such as its masks, is
        a function of (seed, task key).
        """
        if not isinstance(tasks, Task):
            return _pad_outcomes(
                [self(_as_batch(task), seed=seed, evaluating=evaluating) for task in list_tasks(tasks)]
            )
        if torch.is_inference_mode_enabled():  # inner steps need gradients, and what inference mode made has none
            with torch.inference_mode(False), torch.no_grad():
                found: Outcome = self(tree_map(torch.clone, tasks), seed=seed, evaluating=evaluating)
            return found
        with explain_batch_misfit(tasks, self.ignored_labels):
            learner = self.for_labels(tasks.support.y, tasks.query.y, evaluating=evaluating)
            tasks = learner.begin(tasks)
            one = learner.evaluate if evaluating else learner.solve
            outcome: Outcome = self.engine.each(one, tasks.support, tasks.query, learner.draw(tasks, seed))
        return outcome

    def begin(self, tasks: Task) -> Task:
        """Tasks on the learner's device, once the engine has settled and the first of them has been looked at."""
        if self.training and outside_transforms():
            advance_power_iterations(self, self.power_iterations)
        tasks = self.move_tasks(tasks)
        support, query = (as_class_numbers(half, 2, self.criteria) for half in (tasks.support, tasks.query))
        tasks = tasks._replace(support=support, query=query)
        self.engine.settle(self, tasks.support.x)
        support, query = self.unshared((tasks.support, tasks.query))
        tasks = tasks._replace(support=support, query=query)
        with without_kept_parameters():
            self._check_strangers(tasks)
            self.check_once(pick(tasks.support, 0))
        return tasks

    def unshared(self, inputs: I) -> I:
        """Copies of inputs where a forward may change them in place: whoever has them finds them as they were."""
        copies: I = tree_map(torch.clone, inputs) if self.engine.may_change_inputs else inputs
        return copies

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
            outcomes, every = zip(
                *(self.meta_gradient(_as_batch(task), seed=seed) for task in list_tasks(tasks)), strict=True
            )
            share = 1.0 if reduction == "sum" else 1.0 / len(every)
            return _pad_outcomes(list(outcomes)), [
                sum_gradients([g if g is None else share * g for g in own]) for own in zip(*every, strict=True)
            ]
        if torch.is_inference_mode_enabled():
            raise InputError(
                "Inference mode is on, in which no gradient can be taken. Compute a meta-gradient outside of it."
            )
        with explain_batch_misfit(tasks, self.ignored_labels), torch.enable_grad():
            learner = self.for_labels(tasks.support.y, tasks.query.y, evaluating=False)
            tasks = learner.begin(tasks)
            weight = 1.0 if reduction == "sum" else 1.0 / len(tasks.key)
            args = (tasks.support, tasks.query, learner.draw(tasks, seed))
            trained = learner.meta_params()
            if not trained:
                raise InputError(
                    "Nothing of this learner trains: its parameters are frozen, or it has none. Let some train by "
                    "requires_grad_(), or use the learner as it is: `adapt` and a call need no training."
                )
            outcome, grads = self.engine.meta_gradient(learner, learner.solve, args, trained, weight)
        if not self.differentiated:
            self._refuse_unused(grads)
            self.differentiated = True
        return outcome, grads

    def meta_gradients(
        self, steps: Sequence[Task], *, seed: int = 0, reduction: str = "mean"
    ) -> Iterator[tuple[Outcome, Gradients]]:
        """`meta_gradient` of one batch after the other, each with the parameters of its moment.

        Where the meta-gradient is compiled, batches of equal sizes are checked and their noise is drawn all at once:
        for a small net this takes as long as its gradient. Nothing but values may change before the last.
        """
        prepared = self._prepare(steps, seed) if self.engine.compile and self.differentiated else None
        if prepared is None:
            yield from (self.meta_gradient(tasks, seed=seed, reduction=reduction) for tasks in steps)
            return
        weight = 1.0 if reduction == "sum" else 1.0 / len(steps[0].key)
        yield from self.engine.meta_gradients(self, self.solve, prepared, self.meta_params(), weight)

    def _prepare(self, steps: Sequence[Task], seed: int) -> list[tuple[Examples, Examples, Noise]] | None:
        """What `solve` is given in each of these steps; None where they are unequal, or one by one would be refused."""
        parts = [(tasks.support, tasks.query, tasks.key) for tasks in steps]
        first, *others = ([leaf.shape for leaf in tree_leaves(part)] for part in parts)
        if self.ways is not None or any(shapes != first for shapes in others):
            return None
        support, query, key = tree_map(lambda *leaves: torch.cat(leaves), *parts)
        together = Task(support, query, key, {})
        try:
            with explain_batch_misfit(together, self.ignored_labels):
                together = self.begin(together)
        except InputError:  # it is raised when its turn comes, and then names the right task
            return None
        size = len(steps[0].key)

        every = (together.support, together.query, self.draw(together, seed))

        def cut(number: int) -> tuple[Examples, Examples, Noise]:
            # Clones have addresses of their own, as the tasks of a single step: matrix products round by the address.
            part = slice(number * size, (number + 1) * size)
            own: tuple[Examples, Examples, Noise] = tree_map(lambda value: value[part].clone(), every)
            return own

        return [cut(number) for number in range(len(steps))]

    def _refuse_unused(self, grads: Gradients) -> None:
        """Refuse parameters of the model that the outer loss of the first tasks does not depend on.

        The parameters of a rule are not meant: a schedule may bring them in later.
        """
        named = zip(self.meta_params(), grads, strict=True)
        unused = [name for name, g in named if g is None and not name.startswith("rule.")]
        if unused and not self.allow_unused:
            raise InputError(
                f"These parameters should train, but the query loss does not depend on them: {', '.join(unused)}. "
                "Freeze them by requires_grad_(False), or read them from the module in its forward."
                + (" allow_unused=True lets them stay as they are." if hasattr(self, "rule") else "")
            )

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
        """Whether this learner computes what it says, on two of these tasks in float64; what is wrong is named.

        It compares `vmap` with the loop, gradients with central differences, and a call with the next one.
        """
        return check_learner(self, tasks, seed)

    def heed(self, report: GradientCheck) -> None:
        """Leave `vmap` where a check has found it wrong, and warn of what else it has found."""
        self.trusted = True
        right = report.loop_ok if self.engine.backend == "loop" else report.ok
        if not report.vmap_ok:
            self.engine.leave_vmap()
        if not right:
            warnings.warn(f"{report}", WrongGradient, stacklevel=3)

    def _check_strangers(self, tasks: Task) -> None:
        """Check a learner with code of strangers once, on the first tasks whose gradient somebody may take."""
        if self.trusted or not torch.is_grad_enabled() or not outside_transforms() or is_tracing():
            return
        self.trusted = True
        if self.engine.has_strangers and self.meta_params():
            try:
                report = check_learner_here(self, tasks)
            except Exception:  # such as a forward that takes no float64; what is the user's own error is raised later
                return
            self.heed(report)

    def probe(self, support: Examples, query: Examples, noise: Noise) -> Tensor:
        """A loss of one task that `check` holds against central differences: no part of it stops a gradient."""
        return self.solve(support, query, noise).loss

    def params(self) -> Params:
        """The parameters that adapt, as they are before a task; none unless overridden."""
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
            InputError: The support set is empty, holds NaN or does not fit the model, or the adaptation diverges.
        """
        like = next(self.parameters(), torch.zeros(())).detach()  # a nearest neighbour has no parameters
        with (
            torch.inference_mode(False),  # inner steps need gradients, which inference mode leaves out
            explain_support_misfit(support, self.ignored_labels),
            torch.no_grad(),
            twice_differentiable(),
            without_kept_parameters(),
            autocast_products(self.engine.settings.autocast),
        ):
            # Copies: a forward may change its input, and no gradient is computed through what inference mode made.
            support = as_class_numbers(move(tree_map(torch.clone, support), self.device), 1, self.criteria)
            learner = self.for_labels(support.y, evaluating=True)
            learner.check_support(support)
            twin = learner.evaluation_twin()
            twin.check_once(support)
            self.checked, self.copies_features = twin.checked, twin.copies_features
            noise = task_noise(learner.noise(), torch.tensor([key]), seed, like=like)
            params = twin.update(support, pick(noise, 0), evaluating=True)
            _refuse_divergence(params)
            return learner.module(params)

    def for_labels(self: L, support: Tensor, *others: Tensor, evaluating: bool) -> L:
        """This learner, or its twin for the number of classes that the labels have."""
        del evaluating
        if self.ways is None or not outside_transforms() or support.is_floating_point():
            return self
        ways = 1 + max(int(y.long().max()) for y in (support, *others))
        if ways == self.ways:
            return self
        if not 2 <= ways <= max(self.ways, support.shape[-1]):
            raise InputError(
                f"The largest class number is {ways - 1}, in a task with {support.shape[-1]} support examples. Number "
                "the classes from 0 without a gap, and give two or more classes."
            )
        return self.with_ways(ways)

    def with_ways(self: L, ways: int) -> L:
        """A twin of this learner for tasks of another number of classes, with the same parameters and engine."""
        twin = self._twin()
        twin.ways = ways
        return twin

    def check_support(self, support: Examples) -> None:
        """Refuse a support set that this method cannot adapt to; nothing by default."""

    def evaluation_twin(self: L) -> L:
        """A twin of this learner in evaluation mode (dropout off), with the same tensors and the same engine.

        The learner itself stays in its mode. A module whose `train` does more than set the flag is put into evaluation
        mode by that method, on a copy, unless the method changes tensors (as merged low-rank layers do).
        """
        twin = self._twin()
        set_mode(twin, self, training=False)
        return twin

    def _twin(self: L) -> L:
        """A twin with the same tensors and the same engine."""
        twin = Twins(self).twin({})
        twin.engine = self.engine
        return twin

    def __deepcopy__(self: L, memo: dict[int, Any]) -> L:
        return copy_module(self, memo)

    @abstractmethod
    def module(self, params: Params) -> nn.Module:
        """The adapted model as a plain module with parameters of its own."""

    def save(self, path: str | Path, *, factory: str | None = None) -> None:
        """Save the learner as a directory, which `quickstudy.load` reads on any machine, without the training data.

        Args:
            path: The directory. A learner that is already there is replaced, and not lost if that fails.
            factory: `package.module:function` of your own, which makes this learner without its numbers. It is needed
                for a learner that was made by hand, and whoever loads the directory has to trust that code.
        """
        from quickstudy.storage.model_files import write_model  # it imports pydantic, which a method does without
        from quickstudy.storage.trust import code_parts, remember

        blueprint = self.blueprint if factory is None else {"factory": factory}
        if blueprint is None:
            raise InputError(
                "This learner was made by hand, so a file cannot say how to make it again. Name a function of yours "
                "that does: save(path, factory='package.module:function'); or train it by a configuration."
            )
        write_model(Path(path), {"kind": "learner", "learner": blueprint}, self.tensors())
        remember(code_parts(blueprint))

    def tensors(self) -> dict[str, Tensor]:
        """All numbers of the learner: those of its state dict, and the settings that schedules move."""
        state = self.state_dict()
        settings = {name: buffer for name, buffer in self.named_buffers() if name not in state}
        return {f"{STATE}{name}": value for name, value in state.items()} | {
            f"{SETTING}{name}": value for name, value in settings.items()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor], what: str) -> None:
        """Take over what `tensors` gave; what does not fit is refused. `what` begins the message."""
        from quickstudy.storage.checkpoints import check_matches

        own = self.tensors()
        check_matches(tensors, own, what)
        self.load_state_dict(with_prefix(tensors, STATE))
        with torch.no_grad():
            for name, buffer in self.named_buffers():
                if f"{SETTING}{name}" in own:
                    buffer.copy_(tensors[f"{SETTING}{name}"])

    @property
    def norms(self) -> str:
        """The norm policy in words; it is printed with every result."""
        return describe_norms(self.modules())


def _refuse_divergence(params: Params) -> None:
    """Refuse adapted parameters that are NaN or infinite."""
    for name, value in params.items():
        if not value.isfinite().all():
            raise InputError(
                f"The adaptation diverged: {name} holds NaN or infinity after it. Use a smaller `inner_lr` or fewer "
                "inner steps, or scale the inputs."
            )


def _as_batch(task: Task) -> Task:
    """A batch of one task."""
    support, query, about = tree_map(lambda value: value[None], (task.support, task.query, task.about))
    return Task(support, query, task.key.reshape(1), about)


def _pad_outcomes(outcomes: list[Outcome]) -> Outcome:
    """One outcome from several of one task each; a query that a task lacks is NaN, a class minus infinity."""
    output = tree_map(lambda *parts: _pad_outputs(parts), *(outcome.output for outcome in outcomes))
    return Outcome(torch.cat([outcome.loss for outcome in outcomes]), output)


def _pad_outputs(parts: Sequence[Tensor]) -> Tensor:
    """Outputs `[1, n, ...]` of several tasks as one tensor. Numbers that are no floats are padded with 0."""
    if len({part.shape for part in parts}) == 1:  # among them numbers of a whole task, which have no n
        return torch.cat(list(parts))
    longest = max(part.shape[1] for part in parts)
    widest = max(part.shape[-1] for part in parts)
    classes, queries = (-torch.inf, torch.nan) if parts[0].is_floating_point() else (0, 0)
    padded = []
    for part in parts:
        wide = F.pad(part, (0, widest - part.shape[-1]), value=classes) if part.ndim > 2 else part
        padding = wide.new_full((1, longest - wide.shape[1], *wide.shape[2:]), queries)
        padded.append(torch.cat([wide, padding], dim=1))
    return torch.cat(padded)
