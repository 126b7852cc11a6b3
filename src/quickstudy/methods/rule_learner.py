"""A learner made of a head that a rule adapts, behind a body that all tasks share."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from quickstudy.engine.engine import Engine
from quickstudy.engine.twin import Twins, call_on, copy_module
from quickstudy.errors import InputError
from quickstudy.methods.first_task import explain_writes, refuse_other_reads
from quickstudy.methods.learner import Learner, Noise
from quickstudy.models.norms import (
    WarnSingleExample,
    is_transductive,
    per_step_params,
    record_statistics,
    store_statistics,
    support_norms,
    with_safe_norms,
)
from quickstudy.rules.base import Rule
from quickstudy.rules.criteria import check_loss
from quickstudy.rules.descend import Descend
from quickstudy.rules.objective import Objective
from quickstudy.rules.params import Selection, adaptable, check_module, trainable, with_prefix
from quickstudy.rules.per_step import PerStep
from quickstudy.rules.torch_private import count_changes, is_tracing, tree_leaves, tree_map
from quickstudy.types import Criterion, Examples, Inputs, Outcome, Params, Shape, Task

PROBE_RATE = 0.1


class RuleLearner(Learner):
    """A head that a rule adapts, behind a body that does not adapt.

    With a `body`, the rule sees features instead of inputs (ANIL, HyperMAML). `adapts` selects which parameters of the
    head adapt (in an MT-net W and its bias, but not T and not the norms). Models are copied, and their norms made safe.

    Args:
        head: The module whose parameters adapt.
        rule: How they adapt.
        criterion: The query loss.
        inner_criterion: The support loss, if it differs (the papers sum over classes there).
        body: Runs once for each set of examples; meta-training changes it, adaptation does not.
        adapts: A pattern, names or a predicate. What requires no gradient when the learner is made never adapts.
        norms: "batch", "support", "per_step" (norms of the head; the rule is then a `Descend`) or "running": see
            `with_safe_norms`.
        allow_unused: Whether parameters may adapt that the support loss does not depend on. They would never move, so
            the first task refuses them by name unless this is set.
        engine: How batches of tasks are run.
    """

    any_layout = True

    def __init__(
        self,
        head: nn.Module,
        rule: Rule,
        criterion: Criterion,
        *,
        inner_criterion: Criterion | None = None,
        body: nn.Module | None = None,
        adapts: Selection = trainable,
        norms: str = "batch",
        allow_unused: bool = False,
        engine: Engine | None = None,
    ) -> None:
        super().__init__(criterion, engine)
        _refuse_lazy(*(part for part in (head, body) if part is not None))
        self.allow_unused = allow_unused
        self.head = with_safe_norms(head, norms)
        # Inner steps do not run the body, so its norms have one scale and bias.
        self.body = None if body is None else with_safe_norms(body, "batch" if norms == "per_step" else norms)
        self.rule = rule
        self.inner_criterion = inner_criterion or criterion
        self.adapts = tuple(adaptable(self.head, adapts))
        if norms == "per_step":
            own = per_step_params(self.head)
            if not own:
                raise InputError(
                    "`norms` is 'per_step', but what the inner steps run has no batch norm with a scale or bias that "
                    "trains. Use norms='batch', or a method that adapts the whole model (maml, not anil)."
                )
            try:
                self.rule = PerStep(rule, own)
            except InputError as refusal:
                raise InputError(
                    f"`norms` is 'per_step'. {refusal} Of the methods, maml, fomaml, meta_sgd, mamlpp, sign_maml, "
                    "meta_curvature, tnet and the masked ones have such steps. Else use norms='support'."
                ) from None
            self.adapts = tuple(name for name in dict(self.head.named_parameters()) if name in {*self.adapts, *own})
        self.head_twins = Twins(self.head)
        self.body_twins = None if self.body is None else Twins(self.body)
        self.noise()  # raises an error if the rule was built for other parameters

    @property
    def criteria(self) -> Sequence[Criterion]:
        return self.criterion, self.inner_criterion

    @property
    def ignored_labels(self) -> set[int]:
        named = (getattr(loss, "ignore_index", None) for loss in self.criteria)
        own = {number for number in named if isinstance(number, int)}
        reads = own and any(isinstance(part, Rule) and part.reads_labels for part in self.rule.modules())
        return set() if reads else own

    def params(self) -> Params:
        """theta: the parameters that adapt, as they are before a task."""
        every = dict(self.head.named_parameters())
        return {name: every[name] for name in self.adapts}

    def noise(self) -> dict[str, Shape]:
        return self.rule.noise(self.params())

    def features(self, x: Inputs, params: Params | None = None) -> Inputs:
        """The input of the head; by the support set's statistics if `params` contain them."""
        if self.body_twins is None:
            return x
        body = partial(self.body_twins.call, with_prefix(params or {}, "body:"))
        return call_on(body, self.engine.autodiff.images(self.unshared(x)))

    def run_head(self, params: Params, features: Inputs) -> Any:
        """The output of the head with these parameters."""
        if self.copies_features:
            features = tree_map(torch.clone, features)
        return call_on(partial(self.head_twins.call, _of_head(params)), features)

    def with_statistics(self, params: Params, support: Examples) -> Params:
        """The parameters for prediction: under norms="support", together with the support set's statistics.

        The names of the statistics begin with `body:` or `head:`; the name of a parameter does not contain a colon.
        """
        if not any(support_norms(part) for part in (self.head, self.body) if part is not None):
            return params
        statistics: Params = {}
        x = self.engine.autodiff.images(self.unshared(support.x))
        if self.body_twins is not None:
            body = self.body_twins.twin({})
            record_statistics(body, "body:", statistics)
            x = self.engine.autodiff.images(call_on(body, x))
        head = self.head_twins.twin(_of_head(params))
        record_statistics(head, "head:", statistics)
        call_on(head, x)
        return params | statistics

    def objective(self, support: Examples, noise: Noise, evaluating: bool = False) -> Objective:
        """The support loss of the task as a function of the parameters that adapt."""
        x = self.engine.autodiff.images(self.features(support.x))
        return Objective(
            lambda params: self.run_head(params, x),
            self.inner_criterion,
            Examples(x, support.y),
            noise,
            evaluating,
            self.engine.autodiff,
        )

    def check_first_task(self, support: Examples) -> None:
        """Refuse what would seem to succeed, by the loss of a first task.

        - A parameter that should adapt and that the loss does not depend on. A forward may read it in a way that nobody
          can follow, such as through a C extension. It would never move.
        - A forward that writes to a parameter: every call would begin from other numbers.
        - A loss that reads the module that the learner was made from, and of which it has a copy.
        """
        theta = {name: p.detach().clone().requires_grad_() for name, p in self.params().items()}
        places = {name: p.data_ptr() for name, p in theta.items()}
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):  # dropout draws what it would have drawn anyway
            x = tree_map(lambda value: value.detach().clone(), self.features(support.x))
            before = [count_changes(value) for value in tree_leaves(x)]
            output = self.run_head(theta, x)
            loss = check_loss(self.inner_criterion(output, support.y), "support loss")
            # Every step must find its input as it was given.
            self.copies_features |= [count_changes(value) for value in tree_leaves(x)] != before
            grads = torch.autograd.grad(loss, list(theta.values()), allow_unused=True) if loss.requires_grad else ()
        if not is_tracing() and loss.device.type != "meta":  # values are not known there
            self._refuse_writes_to(theta, places)
            refuse_other_reads(self, loss, output, theta)
        unused = [name for name, g in zip(theta, grads or [None] * len(theta), strict=True) if g is None]
        # What was right in the other mode may leave out a part in this one, but not all.
        if unused and not self.allow_unused and (not self.checked or len(unused) == len(theta)):
            raise InputError(
                f"These parameters should adapt, but the support loss does not depend on them: {', '.join(unused)}. "
                "Leave them out of `adapts`, freeze them by requires_grad_(False), or read them from the module in its "
                "forward. allow_unused=True lets them stay as they are."
            )

    def _refuse_writes_to(self, theta: Params, places: Mapping[str, int]) -> None:
        """Refuse a forward that has changed the copies of theta, or put other numbers in their places."""
        params = self.params()
        written = [
            name
            for name, p in theta.items()
            if p.data_ptr() != places[name] or not ((params[name] == p) | (params[name] != params[name])).all()
        ]
        if written:
            raise InputError(explain_writes(written))

    def update(self, support: Examples, noise: Noise, evaluating: bool = False) -> Params:
        theta = self.params()
        phi: Params = self.rule(theta, self.objective(support, noise, evaluating))
        _refuse_misfit(phi, theta, self.rule)
        return self.with_statistics(phi, support)

    def predict(self, params: Params, x: Inputs) -> Any:  # a tensor, or what a loss of the user's own takes
        return self.run_head(params, self.engine.autodiff.images(self.features(x, params)))

    def solve(self, support: Examples, query: Examples, noise: Noise) -> Outcome:
        theta = self.params()
        ends = self.rule.endpoints(theta, self.objective(support, noise))
        for _, phi in ends:
            _refuse_misfit(phi, theta, self.rule)
        return self.outcome_at(ends, support, query)

    def outcome_at(
        self, endpoints: Sequence[tuple[Tensor | float, Params]], support: Examples, query: Examples
    ) -> Outcome:
        """The weighted sum of the losses at these parameters; the outputs are those at the last of them."""
        weights, phis = zip(*endpoints, strict=True)
        ends = [self.with_statistics(phi, support) for phi in phis]
        # The body and its statistics are the same at every endpoint.
        x = self.engine.autodiff.images(self.features(query.x, ends[-1]))
        outputs = [self.run_head(params, x) for params in ends]
        losses = [weight * self.query_loss(out, query.y) for weight, out in zip(weights, outputs, strict=True)]
        return Outcome(torch.stack(losses).sum(), outputs[-1])

    def observe(self, tasks: Task, *, seed: int = 0) -> dict[str, Float[Tensor, "T ..."]]:
        """What the rule observes of each task, and as `update.<name>` the norm of each parameter's change."""
        theta = self.params()

        def one(support: Examples, noise: Noise) -> dict[str, Tensor]:
            objective = self.objective(support, noise, evaluating=True)
            phi = self.rule(theta, objective)
            moved = {f"update.{name}": (phi[name] - p).square().sum().sqrt() for name, p in theta.items()}
            return moved | self.rule.observe(theta, objective)

        tasks = self.move_tasks(tasks)
        self.engine.settle(self, tasks.support.x)
        with torch.no_grad():
            support = self.unshared(tasks.support)
            observed: dict[str, Tensor] = self.engine.each(one, support, self.draw(tasks, seed))
        return observed

    def probe(self, support: Examples, query: Examples, noise: Noise) -> Tensor:
        """The query loss after one plain gradient step that is differentiated too, whatever the rule.

        Of a rule that is of first order throughout, which needs no second derivative: without the step.
        """
        descents = [part for part in self.rule.modules() if isinstance(part, Descend)]
        if descents and all(part.first_order for part in descents):
            return self.query_outcome(self.with_statistics(self.params(), support), query).loss
        theta = self.params()
        steps = self.objective(support, noise).gradient(theta) if theta else {}
        phi = {name: p - PROBE_RATE * steps[name] for name, p in theta.items()}
        return self.query_outcome(self.with_statistics(phi, support), query).loss

    def module(self, params: Params) -> nn.Module:
        head = copy_module(self.head)
        body = None if self.body is None else copy_module(self.body)
        own = dict(head.named_parameters())
        for name in self.adapts:
            own[name].data.copy_(params[name])
        store_statistics(head, with_prefix(params, "head:"))
        if body is not None:
            store_statistics(body, with_prefix(params, "body:"))
        adapted = head if body is None else AdaptedBody(body, head)
        if is_transductive(adapted):
            adapted.register_forward_pre_hook(WarnSingleExample())
        return adapted.eval().requires_grad_(False)


def _refuse_lazy(*parts: nn.Module) -> None:
    """Refuse parameters without a shape: what adapts must be there before a first task."""
    for part in parts:
        check_module(part)
    lazy = [name for part in parts for name, p in part.named_parameters() if is_lazy(p)]
    if lazy:
        raise InputError(
            f"{lazy[0]} has no shape yet, as it is of a lazy module. Call the model once on an example before you make "
            "a learner of it: model(x)."
        )


def _refuse_misfit(phi: Params, theta: Params, rule: Rule) -> None:
    """Refuse adapted parameters of other names or shapes than those that adapt: torch would broadcast some of them."""
    if phi.keys() == theta.keys() and all(phi[name].shape == p.shape for name, p in theta.items()):
        return
    own, asked = ({name: tuple(p.shape) for name, p in params.items()} for params in (phi, theta))
    differ = [
        f"{name} of shape {own[name]}, not {asked[name]}" for name in asked if own.get(name) not in (None, asked[name])
    ]
    missing, spare = [name for name in asked if name not in own], [name for name in own if name not in asked]
    faults = differ + [f"no {name}" for name in missing] + [f"{name}, which does not adapt" for name in spare]
    raise InputError(
        f"{type(rule).__name__} must give each parameter that adapts, in its own shape, and nothing else. It gave "
        f"{'; '.join(faults)}."
    )


class AdaptedBody(nn.Sequential):
    """A body and its adapted head. The body takes what the model took: a tensor, arguments, or keywords."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        body, head = self
        output: Tensor = head(call_on(partial(body, *args), kwargs))
        return output


def _of_head(params: Params) -> Params:
    """The parameters and statistics of the head among those of a task; the body's statistics are left out."""
    return {name.removeprefix("head:"): value for name, value in params.items() if not name.startswith("body:")}
