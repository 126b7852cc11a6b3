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
    WarnSingleExample,
    is_transductive,
    per_step_params,
    record_statistics,
    statistics_names,
    store_statistics,
    support_norms,
    with_safe_norms,
)
from quickstudy.rules.base import Rule
from quickstudy.rules.objective import Objective
from quickstudy.rules.params import Selection, adaptable, call_with, parameter_paths, trainable, with_prefix
from quickstudy.rules.per_step import PerStep
from quickstudy.types import Criterion, Examples, Outcome, Params, Shape, Task


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
        adapts: A pattern, names or a predicate. A parameter that requires no gradient never adapts.
        norms: "batch", "support", "per_step" (norms of the head; the rule is then a `Descend`) or "running": see
            `with_safe_norms`.
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
        engine: Engine | None = None,
    ) -> None:
        super().__init__(criterion, engine)
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
                raise InputError(f"`norms` is 'per_step'. {refusal} Else use norms='support'.") from None
            self.adapts = tuple(name for name in dict(self.head.named_parameters()) if name in {*self.adapts, *own})
        self.support_norms = {f"head:{name}": norm for name, norm in support_norms(self.head).items()}
        if self.body is not None:
            self.support_norms |= {f"body:{name}": norm for name, norm in support_norms(self.body).items()}
        self.paths = parameter_paths(self.head, self.adapts)
        for name in (name for norm in self.support_norms for name in statistics_names(norm)):
            self.paths[name] = [name.removeprefix("head:")] if name.startswith("head:") else []
        self.noise()  # raises an error if the rule was built for other parameters

    def params(self) -> Params:
        """theta: the parameters that adapt, as they are before a task."""
        every = dict(self.head.named_parameters())
        return {name: every[name] for name in self.adapts}

    def noise(self) -> dict[str, Shape]:
        return self.rule.noise(self.params())

    def features(self, x: Tensor, params: Params | None = None) -> Tensor:
        """The input of the head; by the support set's statistics if `params` contain them."""
        if self.body is None:
            return x
        x = self.engine.autodiff.images(x)
        features: Tensor = functional_call(self.body, with_prefix(params or {}, "body:"), (x,), tie_weights=False)
        return features

    def run_head(self, params: Params, features: Tensor) -> Tensor:
        """The output of the head with these parameters."""
        return call_with(self.head, params, self.paths, features)

    def with_statistics(self, params: Params, support: Examples) -> Params:
        """The parameters for prediction: under norms="support", together with the support set's statistics.

        The names of the statistics begin with `body:` or `head:`; the name of a parameter does not contain a colon.
        """
        if not self.support_norms:
            return params
        with record_statistics(self.support_norms) as statistics:
            self.predict(params, support.x)
        return params | statistics

    def objective(self, support: Examples, noise: Noise, evaluating: bool = False) -> Objective:
        """The support loss of the task as a function of the parameters that adapt."""
        x = self.features(support.x)
        if evaluating or not torch.is_grad_enabled():
            x = self.engine.autodiff.images(x)
        return Objective(
            lambda params: self.run_head(params, x),
            self.inner_criterion,
            Examples(x, support.y),
            noise,
            evaluating,
            self.engine.autodiff,
        )

    def update(self, support: Examples, noise: Noise, evaluating: bool = False) -> Params:
        phi: Params = self.rule(self.params(), self.objective(support, noise, evaluating))
        return self.with_statistics(phi, support)

    def predict(self, params: Params, x: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        return self.run_head(params, self.engine.autodiff.images(self.features(x, params)))

    def solve(self, support: Examples, query: Examples, noise: Noise) -> Outcome:
        """The weighted sum of the losses at the rule's endpoints; the outputs are those at the last one."""
        weights, phis = zip(*self.rule.endpoints(self.params(), self.objective(support, noise)), strict=True)
        ends = [self.with_statistics(phi, support) for phi in phis]
        # The body and its statistics are the same at every endpoint.
        x = self.engine.autodiff.images(self.features(query.x, ends[-1]))
        outputs = [self.run_head(params, x) for params in ends]
        losses = [weight * self.criterion(out, query.y) for weight, out in zip(weights, outputs, strict=True)]
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
            observed: dict[str, Tensor] = self.engine.each(one, tasks.support, self.draw(tasks, seed))
        return observed

    def suspects(self, x: Tensor) -> dict[str, str]:
        model = nn.ModuleDict({"head": self.head} if self.body is None else {"body": self.body, "head": self.head})
        return find_suspects(model, lambda: self.head(self.features(x)))

    def module(self, params: Params) -> nn.Module:
        head, body = deepcopy(self.head), deepcopy(self.body)
        own = dict(head.named_parameters())
        for name in self.adapts:
            own[name].data.copy_(params[name])
        store_statistics(head, with_prefix(params, "head:"))
        if body is not None:
            store_statistics(body, with_prefix(params, "body:"))
        adapted = head if body is None else nn.Sequential(body, head)
        if is_transductive(adapted):
            adapted.register_forward_pre_hook(WarnSingleExample())
        return adapted.eval().requires_grad_(False)
