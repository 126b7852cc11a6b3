"""Other ways to compute the same: gradients by tape, steps replayed in the backward pass, functions compiled.

Everything here takes a pure function and gives one with the same results up to rounding. The engine chooses.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import zip_longest
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
from torch.func import functional_call, grad_and_value
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from quickstudy.errors import InputError
from quickstudy.rules.params import parameter_paths
from quickstudy.types import Outcome, Params

F = TypeVar("F", bound=Callable[..., Any])


def tape_gradient(loss: Callable[[Params], Tensor]) -> Callable[[Params], Params]:
    """The gradient as `torch.autograd.grad` finds it: for a task on its own, outside `vmap` and `torch.func.grad`.

    It is faster than `torch.func.grad` there, and what it remembers can be dropped and replayed.
    """

    def gradient(params: Params) -> Params:
        outer = torch.is_grad_enabled()
        with torch.enable_grad():
            # Views, so that each is a point of its own on the tape: one parameter may have been computed from another
            # (a gain from the body's weights), and its gradient must not run on into that.
            at = {name: p.view_as(p) if p.requires_grad else p.detach().requires_grad_() for name, p in params.items()}
            found = torch.autograd.grad(
                loss(at), list(at.values()), create_graph=outer, allow_unused=True, materialize_grads=True
            )
        return dict(zip(at, found, strict=True))

    return gradient


Again = Callable[[Sequence[Tensor]], list[Tensor]]


class _Captured(TorchFunctionMode):
    """Finds the tensors with a tape that a function reads without being given them: through closures and modules."""

    def __init__(self, given: Sequence[Tensor]) -> None:
        super().__init__()
        self.found: dict[int, Tensor] = {}
        self._known: dict[int, Tensor] = {id(t): t for t in given}  # the tensors too, lest their numbers be used again

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and leaf.requires_grad and id(leaf) not in self._known:
                self.found[id(leaf)] = leaf
        self._known |= {id(leaf): leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}
        return result


class _Instead(TorchFunctionMode):
    """Has a function read other tensors in the place of some that it reaches through closures and modules."""

    def __init__(self, instead: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._instead = instead

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map(lambda leaf: self._instead.get(id(leaf), leaf), (args, kwargs or {}))
        return func(*args, **kwargs)


class _Replay(torch.autograd.Function):
    """A step as one node of the tape: of all that it computes, only its inputs stay until the backward pass."""

    @staticmethod
    def forward(ctx: Any, again: Again, done: list[Tensor], starts: int, points: int, *inputs: Tensor) -> Any:
        """`done` is what `again` returned for the first inputs.

        Of the inputs, `starts` are what the step is given, up to `points` those that were computed from others, and
        the rest leaves of the tape.
        """
        ctx.again, ctx.starts, ctx.points = again, starts, points
        ctx.save_for_backward(*inputs)
        return tuple(t.detach() for t in done)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise InputError(
                "Steps that are recomputed have no derivatives beyond the meta-gradient (create_graph=True). Use an "
                "engine without `recompute`."
            )
        inputs = ctx.saved_tensors
        # Points of their own on the tape: one may have been computed from another (a phi from the features), and its
        # gradient must not run on into that.
        points = [t.detach().requires_grad_() for t in inputs[: ctx.points]]
        read = inputs[ctx.starts :]
        with torch.enable_grad():
            outputs = ctx.again(points)
            found = torch.autograd.grad(outputs, [*points, *read], grads, allow_unused=True)
        # At `read`: leaves, and what a user's autograd function has read, which no mode sees.
        pairs = zip_longest(found[: ctx.points], [*[None] * ctx.starts, *found[ctx.points :]])
        return None, None, None, None, *(g if h is None else h if g is None else g + h for g, h in pairs)


def replay_step(step: F) -> F:
    """A step, given parameters first, of which the tape keeps its inputs; the backward pass runs it again for the rest.

    `torch.utils.checkpoint` keeps a node for every operation, which for small nets is more than it saves.
    """

    def run(params: Params, *rest: Any) -> Params:
        if not torch.is_grad_enabled():
            result: Params = step(params, *rest)
            return result
        devices = sorted({p.device.index for p in params.values() if p.device.type == "cuda"})
        dice = torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in devices]

        def ran(starts: Sequence[Tensor]) -> list[Tensor]:
            return list(step(dict(zip(params, starts, strict=True)), *rest).values())

        def again(points: Sequence[Tensor]) -> list[Tensor]:
            starts, others = points[: len(params)], points[len(params) :]
            instead = {id(t): other for t, other in zip(computed, others, strict=True)}
            with torch.random.fork_rng(devices), _Instead(instead) if instead else nullcontext():
                torch.set_rng_state(dice[0])  # dropout falls as it did
                for device, state in zip(devices, dice[1], strict=True):
                    torch.cuda.set_rng_state(state, device)
                return ran(starts)

        starts = [p.detach().requires_grad_() for p in params.values()]
        with _Captured(starts) as captured:
            done = ran(starts)
        computed = [t for t in captured.found.values() if not t.is_leaf]
        leaves = [t for t in captured.found.values() if t.is_leaf]
        points = len(params) + len(computed)
        ended = _Replay.apply(again, done, len(params), points, *params.values(), *computed, *leaves)  # type: ignore[no-untyped-call]
        return dict(zip(params, ended, strict=True))

    return cast(F, run)


VERSIONS = 64
"""Of one compiled function, for other sizes of tasks; dynamo's own limit of 8 is over all learners of a process."""


class CompileRefused(UserWarning):
    """Said once per learner whose functions the compiler does not take."""


class Compiler:
    """Functions, each compiled when it first runs, and again for every new shape; plain ones once that has failed."""

    def __init__(self) -> None:
        self.refused = False
        self._compiled: dict[object, Callable[..., Any]] = {}

    def run(self, key: object, make: Callable[[], Callable[..., Any]], plain: Callable[[], Any], *args: Any) -> Any:
        """`make()(*args)`, or `plain()` where the compiler does not take that.

        Args:
            key: What the function is told apart by.
            make: Gives the function when it is first wanted; it is pure, but for the tensors of modules that it reads.
            plain: The same results, uncompiled.
            args: Its arguments.
        """
        if self.refused:
            return plain()
        if key not in self._compiled:
            self._compiled[key] = torch.compile(make(), fullgraph=True, dynamic=False)
        try:
            with torch.no_grad(), torch._dynamo.config.patch(recompile_limit=VERSIONS):
                return self._compiled[key](*args)
        except (TorchDynamoException, FailOnRecompileLimitHit) as refusal:
            result = plain()  # if this fails too, its error is the user's own: it is the one raised
            self.refused = True
            reason = next((line.strip() for line in str(refusal).splitlines() if line.strip()), "unknown")
            warnings.warn(
                f"torch.compile refuses this model, so it runs uncompiled (slower, same results). Reason: {reason}",
                CompileRefused,
                stacklevel=4,
            )
            return result


class _Method(nn.Module):
    """One method of a module as a module's forward, so that `functional_call` can swap parameters under it."""

    def __init__(self, owner: nn.Module, method: Callable[..., Any]) -> None:
        super().__init__()
        self.owner = owner
        self.method = method

    def forward(self, *args: Any) -> Any:
        return self.method(*args)


def outcome_and_gradient(
    owner: nn.Module, one: Callable[..., Outcome], names: Sequence[str]
) -> Callable[..., tuple[Outcome, list[Tensor]]]:
    """Outcomes of a batch of tasks with the summed gradient of their losses, as one function without a tape.

    Args:
        owner: The module that `one` is a method of.
        one: What is done with a task.
        names: The owner's parameters that the gradient is for.

    Returns:
        A function of (weight, the parameters by name, *batched arguments of `one`).
    """
    called = _Method(owner, one)
    places = parameter_paths(owner, names)

    def loss(meta: Params, *task: Any) -> tuple[Tensor, Outcome]:
        swapped = {f"owner.{place}": value for name, value in meta.items() for place in places[name]}
        outcome: Outcome = functional_call(called, swapped, task, tie_weights=False)
        return outcome.loss, outcome

    def run(weight: Tensor, meta: Params, *args: Any) -> tuple[Outcome, list[Tensor]]:
        each = torch.vmap(
            grad_and_value(loss, has_aux=True), in_dims=(None, *(0 for _ in args)), randomness="different"
        )
        grads, (_, outcomes) = each(meta, *args)
        return outcomes, [weight * g.sum(0) for g in grads.values()]

    return run


def detach_params(params: Mapping[str, Tensor]) -> Params:
    """The same numbers without a tape."""
    return {name: p.detach() for name, p in params.items()}


def outside_transforms() -> bool:
    """Whether no transform of `torch.func` is at work."""
    return not torch.compiler.is_compiling() and torch._C._functorch.maybe_current_level() is None
