"""Other ways to compute the same result: gradients by tape, steps computed again in the backward pass, compilation.

Everything here takes a pure function and returns one with the same results up to rounding. The engine chooses.
"""

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import zip_longest
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value
from torch.overrides import TorchFunctionMode

from quickstudy.engine.second_derivatives import twice_differentiable
from quickstudy.engine.threads import cast_as, casting_here, keep_generators
from quickstudy.errors import InputError
from quickstudy.rules.params import parameter_paths
from quickstudy.rules.torch_private import compiler_errors, recompile_limit, tree_leaves, tree_map
from quickstudy.types import Outcome, Params

Function = TypeVar("Function", bound=Callable[..., Any])


def tape_gradient(loss: Callable[[Params], Tensor]) -> Callable[[Params], Params]:
    """The gradient by `torch.autograd.grad`: for one task, outside `vmap` and `torch.func.grad`.

    It is faster than `torch.func.grad` there, and a step that uses it can be computed again instead of stored.
    """

    def gradient(params: Params) -> Params:
        outer = torch.is_grad_enabled()
        with torch.enable_grad():
            # Views, so that each is a node of its own on the tape: one parameter may have been computed from another
            # (a gain from the body's weights), and its gradient must not flow on into that.
            at = {name: p.view_as(p) if p.requires_grad else p.detach().requires_grad_() for name, p in params.items()}
            gradients = torch.autograd.grad(
                loss(at), list(at.values()), create_graph=outer, allow_unused=True, materialize_grads=True
            )
        return dict(zip(at, gradients, strict=True))

    return gradient


def tape_leaves(output: Tensor) -> list[Tensor]:
    """The tensors that a gradient of the output would be added up in."""
    seen, found, waiting = set(), [], [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [before for before, _ in node.next_functions]
    return found


StepFunction = Callable[[Sequence[Tensor]], list[Tensor]]
"""A step as a function of a list of tensors: the parameters it starts from, then what else it reads."""


class _RecordReads(TorchFunctionMode):
    """Records the tensors on the tape that a function reads but is not given: through closures and modules."""

    def __init__(self, given: Sequence[Tensor]) -> None:
        super().__init__()
        self.reads: dict[int, Tensor] = {}
        self._known: dict[int, Tensor] = {id(t): t for t in given}  # holds the tensors, so that no id is used twice

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and leaf.requires_grad and id(leaf) not in self._known:
                self.reads[id(leaf)] = leaf
        self._known |= {id(leaf): leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}
        return result


class _SubstituteReads(TorchFunctionMode):
    """Makes a function read other tensors in place of some that it reaches through closures and modules."""

    def __init__(self, substitutes: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._substitutes = substitutes

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map(lambda leaf: self._substitutes.get(id(leaf), leaf), (args, kwargs or {}))
        return func(*args, **kwargs)


REPLAY_TOLERANCE = 1e-4
"""How far a step that is computed again may be from the first time, relative to its size and absolutely."""


class _ReplayedStep(torch.autograd.Function):
    """A step as one node of the tape. Until the backward pass, only its inputs stay in memory."""

    @staticmethod
    def forward(
        ctx: Any, step: StepFunction, result: list[Tensor], starts: int, points: int, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        """`result` is what `step` returned for the first `points` inputs.

        The first `starts` inputs are the parameters that the step starts from. Those up to `points` are what it reads
        and what was computed from something else. The others are leaves of the tape.
        """
        ctx.step, ctx.starts, ctx.points, ctx.casting = step, starts, points, casting_here()
        outputs = tuple(t.detach() for t in result)
        ctx.save_for_backward(*inputs, *outputs)
        ctx.inputs = len(inputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise InputError(
                "With `recompute`, the meta-gradient itself has no derivative (create_graph=True). Use an engine "
                "without `recompute`."
            )
        inputs, before = ctx.saved_tensors[: ctx.inputs], ctx.saved_tensors[ctx.inputs :]
        # Nodes of their own on the tape: one may have been computed from another (a phi from the features), and its
        # gradient must not flow on into that.
        points = [t.detach().requires_grad_() for t in inputs[: ctx.points]]
        reads = inputs[ctx.starts :]
        # torch calls a backward without the modes of Python code, so what the first pass had is set again.
        with torch.enable_grad(), twice_differentiable(), cast_as(ctx.casting):
            outputs = ctx.step(points)
            if not all(map(_nearly_equal, outputs, before)):
                raise InputError(
                    "With `recompute`, a step that was computed again came to other parameters: the forward draws from "
                    "a generator of its own, or keeps something where the next call finds it. Use an engine without "
                    "`recompute`."
                )
            found = torch.autograd.grad(outputs, [*points, *reads], grads, allow_unused=True)
        # The gradients for `reads` are those of leaves, and of what a user's own autograd function reads: no mode sees
        # that, so the function has read the tensor itself and not its substitute.
        pairs = zip_longest(found[: ctx.points], [*[None] * ctx.starts, *found[ctx.points :]])
        return None, None, None, None, *(g if h is None else h if g is None else g + h for g, h in pairs)


def _nearly_equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors differ by no more than the order in which a device adds up."""
    return torch.allclose(one.detach(), other, rtol=REPLAY_TOLERANCE, atol=REPLAY_TOLERANCE, equal_nan=True)


def replay_step(step: Function) -> Function:
    """The same step, of which only the inputs are stored; the backward pass computes the rest again.

    `torch.utils.checkpoint` stores a node for every operation, which for small nets is more than it saves.

    Args:
        step: A pure function whose first argument is the parameters.
    """

    def run(params: Params, *rest: Any) -> Params:
        if not torch.is_grad_enabled():
            result: Params = step(params, *rest)
            return result
        devices = sorted({p.device.index for p in params.values() if p.device.type == "cuda"})
        cpu_state, cuda_states = torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in devices]
        numpys, pythons = np.random.get_state(), random.getstate()

        def run_from(starts: Sequence[Tensor]) -> list[Tensor]:
            return list(step(dict(zip(params, starts, strict=True)), *rest).values())

        def run_again(points: Sequence[Tensor]) -> list[Tensor]:
            starts, others = points[: len(params)], points[len(params) :]
            substitutes = {id(t): other for t, other in zip(computed, others, strict=True)}
            seen = _SubstituteReads(substitutes) if substitutes else nullcontext()
            with keep_generators(devices), seen:
                torch.set_rng_state(cpu_state)  # dropout drops the same units as the first time
                np.random.set_state(numpys)
                random.setstate(pythons)
                for device, state in zip(devices, cuda_states, strict=True):
                    torch.cuda.set_rng_state(state, device)
                return run_from(starts)

        starts = [p.detach().requires_grad_() for p in params.values()]
        with _RecordReads(starts) as recorder:
            end = run_from(starts)
        computed = [t for t in recorder.reads.values() if not t.is_leaf]
        leaves = [t for t in recorder.reads.values() if t.is_leaf]
        points = len(params) + len(computed)
        outputs = _ReplayedStep.apply(run_again, end, len(params), points, *params.values(), *computed, *leaves)  # type: ignore[no-untyped-call]
        return dict(zip(params, outputs, strict=True))

    return cast(Function, run)


COMPILED_VERSIONS = 64
"""How often one function may be compiled, each time for other sizes of tasks. torch's own limit is 8 in a process."""


class CompileRefusedWarning(UserWarning):
    """Warns, once per learner, that its functions cannot be compiled."""


class Compiler:
    """Compiles each function when it first runs, and again for every new shape; gives up after a failure."""

    def __init__(self) -> None:
        self.refused = False
        self._compiled: dict[object, Callable[..., Any]] = {}

    def run(self, key: object, make: Callable[[], Callable[..., Any]], plain: Callable[[], Any], *args: Any) -> Any:
        """`make()(*args)` compiled, or `plain()` where that cannot be compiled.

        Args:
            key: What identifies the function.
            make: Returns the function when it is first needed. It is pure, except that it reads tensors of modules.
            plain: Computes the same result uncompiled.
            args: The arguments of the function.
        """
        if self.refused:
            return plain()
        if key not in self._compiled:
            self._compiled[key] = torch.compile(make(), fullgraph=True, dynamic=False)
        try:
            with torch.no_grad(), recompile_limit(COMPILED_VERSIONS):
                return self._compiled[key](*args)
        except compiler_errors() as refusal:
            result = plain()  # if this fails too, its error is the user's own: it is the one raised
            self.refused = True
            reason = next((line.strip() for line in str(refusal).splitlines() if line.strip()), "unknown")
            warnings.warn(
                f"torch.compile refuses this model, so it runs uncompiled (slower, same results). Reason: {reason}",
                CompileRefusedWarning,
                stacklevel=4,
            )
            return result

    def run_again(self, key: object, *args: Any) -> Any:
        """`run` with a key that has just run, for arguments of the same sizes and types: that is not checked again.

        Nothing but numbers may have changed meanwhile, no mode of a module for example.
        """
        with torch.no_grad(), torch.compiler.set_stance("default", skip_guard_eval_unsafe=True):
            return self._compiled[key](*args)


class _MethodModule(nn.Module):
    """One method of a module as a module's forward, so that `functional_call` can put parameters into the owner."""

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
        one: The computation of one task.
        names: The owner's parameters that the gradient is for.

    Returns:
        A function of (weight, the parameters by name, *batched arguments of `one`).
    """
    called = _MethodModule(owner, one)
    paths = parameter_paths(owner, names)

    def loss(meta: Params, *task: Any) -> tuple[Tensor, Outcome]:
        swapped = {f"owner.{path}": value for name, value in meta.items() for path in paths[name]}
        outcome: Outcome = functional_call(called, swapped, task, tie_weights=False)
        return outcome.loss, outcome

    def run(weight: Tensor, meta: Params, *args: Any) -> tuple[Outcome, list[Tensor]]:
        each = torch.vmap(
            grad_and_value(loss, has_aux=True), in_dims=(None, *(0 for _ in args)), randomness="different"
        )
        grads, (_, outcomes) = each(meta, *args)
        return outcomes, [weight * g.sum(0) for g in grads.values()]

    return run
