"""A learner made of a head that a rule adapts, behind a body that all tasks share."""

from copy import deepcopy

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.engine.engine import Engine
from quickstudy.engine.gradient_check import find_suspects
from quickstudy.errors import InputError
from quickstudy.methods.learner import Learner, Noise
from quickstudy.models.norms import (
    WarnsOfOne,
    is_transductive,
    keep_statistics,
    per_step_params,
    record_statistics,
    statistics_of,
    support_norms,
    with_safe_norms,
)
from quickstudy.rules.base import Rule
from quickstudy.rules.descend import with_own
from quickstudy.rules.objective import Objective
from quickstudy.rules.params import Selection, adaptable, call_with, parameter_paths, trainable, with_prefix
from quickstudy.types import Criterion, Examples, Outcome, Params, Shape, Task


class RuleLearner(Learner):
    """A head that a rule adapts, behind a body that it does not.

    `body` decides what the rule sees (features instead of inputs: ANIL, HyperMAML); `adapts` decides what moves among
    what it sees (in an MT-net, W and its bias; not T, not the norms). Models are copied, with norms made safe; so
    is the rule under norms="per_step", which gives it parameters of its own.

    Args:
        head: The module whose parameters adapt.
        rule: How they adapt.
        criterion: The query loss.
        inner_criterion: The support loss, where it differs (the papers sum over classes inside).
        body: Run once per set of examples, never adapted, trained with the rest.
        adapts: Pattern, names or predicate; never what requires no gradient.
        norms: "batch", "support", "per_step" (of the head, whose rule is then a `Descend`) or "running": see
            `with_safe_norms`.
        engine: How batches of tasks are run.
    """

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
        engine: Engine | None = None,
    ) -> None:
        super().__init__(criterion, engine)
        self.head = with_safe_norms(head, norms)
        # No step runs the body, so its norms have one scale and bias.
        self.body = None if body is None else with_safe_norms(body, "batch" if norms == "per_step" else norms)
        self.rule = rule
        self.inner_criterion = inner_criterion or criterion
        self.adapts = tuple(adaptable(self.head, adapts))
        if norms == "per_step":
            own = per_step_params(self.head)
            if not own:
                raise InputError(
                    "`norms` is 'per_step', but no batch norm with a scale or bias that trains is in what the steps "
                    "run through. Use norms='batch', or a method that adapts the whole model (maml, not anil)."
                )
            self.rule = with_own(rule, own)
            self.adapts = tuple(name for name in dict(self.head.named_parameters()) if name in {*self.adapts, *own})
        self.waiting = {f"head:{name}": norm for name, norm in support_norms(self.head).items()}
        if self.body is not None:
            self.waiting |= {f"body:{name}": norm for name, norm in support_norms(self.body).items()}
        self.places = parameter_paths(self.head, self.adapts)
        for name in (name for norm in self.waiting for name in statistics_of(norm)):
            self.places[name] = [name.removeprefix("head:")] if name.startswith("head:") else []
        self.noise()  # a rule built for other parameters says so here

    def params(self) -> Params:
        """theta: what adapts, as it is before any task."""
        every = dict(self.head.named_parameters())
        return {name: every[name] for name in self.adapts}

    def noise(self) -> dict[str, Shape]:
        return self.rule.noise(self.params())

    def features(self, x: Tensor, params: Params | None = None) -> Tensor:
        """What the head sees, by the support set's statistics if `params` hold them."""
        if self.body is None:
            return x
        x = self.engine.means.images(x)
        seen: Tensor = functional_call(self.body, with_prefix(params or {}, "body:"), (x,), tie_weights=False)
        return seen

    def read(self, params: Params, features: Tensor) -> Tensor:
        """What the head, with these parameters, makes of features."""
        return call_with(self.head, params, self.places, features)

    def with_statistics(self, params: Params, support: Examples) -> Params:
        """The parameters that predict: under norms="support", with the support set's statistics under them.

        Their names begin with `body:` or `head:`, which no parameter's does.
        """
        if not self.waiting:
            return params
        with record_statistics(self.waiting) as statistics:
            self.predict(params, support.x)
        return params | statistics

    def objective(self, support: Examples, noise: Noise, evaluating: bool = False) -> Objective:
        """The task's support loss as a function of what adapts."""
        x = self.features(support.x)
        if evaluating or not torch.is_grad_enabled():
            x = self.engine.means.images(x)
        return Objective(
            lambda params: self.read(params, x),
            self.inner_criterion,
            Examples(x, support.y),
            noise,
            evaluating,
            self.engine.means,
        )

    def update(self, support: Examples, noise: Noise, evaluating: bool = False) -> Params:
        phi: Params = self.rule(self.params(), self.objective(support, noise, evaluating))
        return self.with_statistics(phi, support)

    def predict(self, params: Params, x: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        return self.read(params, self.engine.means.images(self.features(x, params)))

    def solve(self, support: Examples, query: Examples, noise: Noise) -> Outcome:
        """The losses of the rule's endpoints, weighted and added up; the outputs are those of the last."""
        weights, phis = zip(*self.rule.endpoints(self.params(), self.objective(support, noise)), strict=True)
        ends = [self.with_statistics(phi, support) for phi in phis]
        # The body and its statistics are the same at every endpoint.
        x = self.engine.means.images(self.features(query.x, ends[-1]))
        outputs = [self.read(params, x) for params in ends]
        losses = [weight * self.criterion(out, query.y) for weight, out in zip(weights, outputs, strict=True)]
        return Outcome(torch.stack(losses).sum(), outputs[-1])

    def observe(self, tasks: Task, *, seed: int = 0) -> dict[str, Float[Tensor, "T ..."]]:
        """What the rule reports of each task, and `update.<name>`, the norm of each parameter's change."""
        theta = self.params()

        def one(support: Examples, noise: Noise) -> dict[str, Tensor]:
            objective = self.objective(support, noise, evaluating=True)
            phi = self.rule(theta, objective)
            moved = {f"update.{name}": (phi[name] - p).square().sum().sqrt() for name, p in theta.items()}
            return moved | self.rule.observe(theta, objective)

        tasks = self.placed(tasks)
        self.engine.settle(self, tasks.support.x)
        with torch.no_grad():
            seen: dict[str, Tensor] = self.engine.each(one, tasks.support, self.draw(tasks, seed))
        return seen

    def suspects(self, x: Tensor) -> dict[str, str]:
        model = nn.ModuleDict({"head": self.head} if self.body is None else {"body": self.body, "head": self.head})
        return find_suspects(model, lambda: self.head(self.features(x)))

    def module(self, params: Params) -> nn.Module:
        head, body = deepcopy(self.head), deepcopy(self.body)
        own = dict(head.named_parameters())
        for name in self.adapts:
            own[name].data.copy_(params[name])
        keep_statistics(head, with_prefix(params, "head:"))
        if body is not None:
            keep_statistics(body, with_prefix(params, "body:"))
        adapted = head if body is None else nn.Sequential(body, head)
        if is_transductive(adapted):
            adapted.register_forward_pre_hook(WarnsOfOne())
        return adapted.eval().requires_grad_(False)
