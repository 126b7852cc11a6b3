"""Whether a learner computes what it says: the functions behind `learner.check(tasks)`.

A kernel's second derivative can be wrong without an error, under `vmap` (see `norms`) or everywhere (the fused kernel
of weight norm); a function can have none; a forward can read a tensor behind the back of the adaptation, or keep
something from one task to the next; a kernel can end the process. A user's model or loss can contain each of these. So
two small tasks are tried, in float64, where right implementations agree up to rounding (in the learner's own precision
where it does not run in float64):

- the meta-gradient of `vmap` against that of the loop, also in training mode where the model's code asks for the mode;
- the gradient of the query loss after one plain step against central differences, whatever the learner's own rule;
- a second call against the first one, and what the learner holds before against what it holds after;
- the tensors that an output depends on against those that the adaptation gives.

Where a gradient is wrong, every module and the losses are tried alone to name the one to blame. All of it runs in a
copy of this process, where there can be one: if that dies, this one lives and says so.
"""

import faulthandler
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pipe
from types import FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import grad
from torch.overrides import TorchFunctionMode

from quickstudy.engine.autodiff import tape_leaves
from quickstudy.engine.engine import Engine, LoopFallbackWarning
from quickstudy.engine.outside import codes_of, is_users
from quickstudy.engine.second_derivatives import is_strange, twice_differentiable
from quickstudy.engine.threads import keep_generators
from quickstudy.engine.twin import PLAIN, Twins
from quickstudy.rules.torch_private import tree_leaves, tree_map, without_kept_parameters
from quickstudy.types import Criterion, Examples, Params, Task, move, pick

T = TypeVar("T")

Tell = Callable[[str], None]
"""Tells the process that waits what is tried next."""

TOLERANCE = 1e-8
"""Relative. Rounding gives 1e-15 to 1e-12 in float64; the wrong kernels give 1e-4 to 3e-2."""

SLOPE_TOLERANCE = 1e-5
"""Relative, between a gradient and a central difference in float64: truncation and rounding stay below 1e-6."""
NEARBY = 1e-3
"""How far the second point lies at which they are compared: further than rounding, and the model is still the same."""

SIDES = (16, 32)
"""Pixels of a side that pictures are cut to, if the model takes them so: a gradient is as right on small pictures."""

EXAMPLES = 4
"""The least number of examples that a set keeps: a batch norm of fewer hides what comes before it."""

PATIENCE = 600.0
"""Seconds without a sign of life after which the copy of this process is given up, and the check runs here."""


class WrongGradient(UserWarning):
    """The model or its loss uses a function whose gradient is wrong, or is not the function that it seems to be."""


@dataclass(frozen=True)
class GradientCheck:
    """The result of `learner.check`.

    Args:
        errors: The relative error of the vectorised meta-gradient against the looped one, by parameter; empty where the
            looped one is not finite, so that there is nothing to compare with.
        modules: The smallest modules, and the losses, whose second-order gradient is wrong when they are tried alone:
            "under vmap", or "everywhere" when the plain gradient too differs from central differences.
        refused: Why `vmap` refuses the model (its tasks then run on the loop); empty if it does not.
        faults: What else is wrong, in sentences.
        vectorised: Whether `vmap` was tried. It is not where "auto" means the loop: convolutions over large images.
        fatal: What the process was doing when it died, and of what; empty if it lives.
        tolerance: Of `errors`: larger where a forward computes in a coarser precision than float64.
    """

    errors: Mapping[str, float]
    modules: Mapping[str, str]
    refused: str = ""
    faults: tuple[str, ...] = ()
    vectorised: bool = True
    fatal: str = ""
    tolerance: float = TOLERANCE

    @property
    def vmap_ok(self) -> bool:
        """Whether the vectorised meta-gradient equals the looped one, or `vmap` refuses the model."""
        return all(error < self.tolerance for error in self.errors.values())

    @property
    def loop_ok(self) -> bool:
        """Whether no error was found but those of `vmap`."""
        return "everywhere" not in self.modules.values() and not self.faults and not self.fatal

    @property
    def ok(self) -> bool:
        """Whether no error was found."""
        return self.loop_ok and self.vmap_ok and not self.modules

    def __str__(self) -> str:
        if self.fatal:
            return f"This model ends the process: {self.fatal}. Replace what is named, or give it another layout."
        worst = max(self.errors, key=lambda name: self.errors[name], default="")
        sentences = []
        if self.refused:
            sentences.append(f"vmap refuses this model, so its tasks run one after the other. Reason: {self.refused}")
        elif not self.vectorised:
            sentences.append("The tasks of this model run one after the other here, so vmap was not tried.")
        elif not self.errors and not self.faults:
            sentences.append("The meta-gradient of these tasks is not finite, so vmap and the loop cannot be compared.")
        elif self.errors and self.vmap_ok:
            sentences.append(
                f"vmap agrees with the loop: the largest relative error is {self.errors[worst]:.1e} ({worst})."
            )
        elif self.errors:
            sentences.append(
                f"vmap gives a wrong meta-gradient: the relative error is {self.errors[worst]:.1e} for {worst}."
            )
        sentences += self.faults
        sentences += [f"The second-order gradient of {name} is wrong {where}." for name, where in self.modules.items()]
        if not self.vmap_ok:
            sentences.append('Use engine=Engine("loop"), or replace the module.')
        if "everywhere" in self.modules.values():
            sentences.append("Where it is wrong everywhere, replace the module or use a first-order method.")
        return " ".join(sentences)


def check_learner(learner: Any, tasks: Task, seed: int) -> GradientCheck:
    """Try a `Learner` on two tasks of a batch: see the head of this file. It stays as it is."""
    vectorised, begin = _prepare(learner, tasks, seed)
    if hasattr(os, "fork") and learner.device.type == "cpu" and not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        if vectorised:
            grad(torch.sum)(torch.zeros(1))  # imports the compiler, which takes seconds: here, and not in every copy
        found, stage, cause = _in_a_copy_of_this_process(partial(_result, begin))
        if found is not None:
            return found
        if cause and stage == UNDER_VMAP:
            return GradientCheck({"every parameter": float("inf")}, {}, faults=(f"Under vmap, {cause}.",))
        if cause:
            _, part, _ = _in_a_copy_of_this_process(lambda tell: begin(tell).modules())
            return GradientCheck({}, {}, fatal=f"{cause} in {part or stage}")
    # There can be no copy, or it has raised an error: here the user sees where that comes from.
    return _result(begin, lambda stage: None)


def check_learner_here(learner: Any, tasks: Task) -> GradientCheck:
    """The same without a copy of the process, which a library must not make unasked: it may have other threads."""
    _, begin = _prepare(learner, tasks, 0)
    with keep_generators():
        return _result(begin, lambda stage: None)


Begin = Callable[..., "_Trial"]
"""Begins a trial: called with what to tell, and with the precision if that is not to be float64."""


def _result(begin: Begin, tell: Tell) -> GradientCheck:
    """The whole check; in the learner's own precision where it does not run in float64, as a forward that casts may."""
    with without_kept_parameters():
        try:
            return begin(tell).result()
        except Exception as error:  # a user's model may raise anything
            try:
                return begin(tell, exact=False).result()
            except Exception:
                raise error from None


def _prepare(learner: Any, tasks: Task, seed: int) -> tuple[bool, Begin]:
    """Whether `vmap` is tried, and what begins a trial on one or two small tasks."""
    auto = Engine()
    auto.settle(learner, tasks.support.x)
    vectorised = "vmap" in (auto.backend, learner.engine.settings.backend)
    tasks = learner.move_tasks(_small(pick(tasks, slice(0, 2 if vectorised else 1))))
    return vectorised, partial(_Trial, learner, tasks, seed, vectorised)


ON_THE_LOOP, UNDER_VMAP = "the adaptation on the loop", "the meta-gradient under vmap"


def _in_a_copy_of_this_process(work: Callable[[Tell], T]) -> tuple[T | None, str, str]:
    """What `work` returns, what it told of last, and what the copy died of; None without a cause where it raised."""
    receiver, sender = Pipe(duplex=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads in this process; the copy uses none
        child = os.fork()
    if not child:
        try:
            faulthandler.disable()
            torch.set_num_threads(1)  # the threads of kernels are not copied
            sender.send((True, work(lambda stage: sender.send((False, stage)))))
        finally:
            os._exit(0)
    sender.close()
    result, stage, status = None, "", 0
    try:
        while result is None and receiver.poll(PATIENCE):
            done, told = receiver.recv()
            result, stage = (told, stage) if done else (None, told)
        os.kill(child, signal.SIGKILL)  # it has answered, or it hangs
    except EOFError:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except BaseException:  # such as Ctrl-C
        os.kill(child, signal.SIGKILL)
        raise
    else:
        os.waitpid(child, 0)
    return result, stage, f"the process dies of {signal.Signals(-status).name}" if status < 0 else ""


class _Trial:
    """A check on a copy of the learner, in evaluation mode: without dropout, every way computes the same function.

    Args:
        learner: The learner.
        tasks: One or two small tasks.
        seed: Of the adaptation's noise.
        vectorised: Whether `vmap` is tried.
        tell: Told what is tried next.
        exact: Whether everything is computed in float64, or in the learner's own precision.
        training: Whether the mode is that of training, for `compare` alone.
    """

    def __init__(
        self, learner: Any, tasks: Task, seed: int, vectorised: bool, tell: Tell, *, exact: bool = True,
        training: bool = False,
    ) -> None:  # fmt: skip
        self.original, self.seed, self.vectorised, self.tell, self.exact = learner, seed, vectorised, tell, exact
        copied = deepcopy(learner)
        copied = copied.double() if exact else copied
        copied = copied if training else copied.evaluation_twin()  # its `eval` might merge what should adapt
        self.learner = copied.for_labels(tasks.support.y, tasks.query.y, evaluating=False)
        for part in self.learner.modules() if exact else ():
            for key, value in vars(part).items():  # `double` leaves tensors alone that are no buffers
                if isinstance(value, Tensor) and value.is_floating_point():
                    vars(part)[key] = value.double()
        self.learner.engine = Engine("loop")
        self.learner.trusted = True  # it is being checked
        self.tasks = move(tasks, torch.float64) if exact else tasks

    def cut(self, side: int) -> Task:
        """The tasks with pictures of at most this many pixels a side."""
        support, query = (h._replace(x=h.x[..., :side, :side]) for h in (self.tasks.support, self.tasks.query))
        return self.tasks._replace(support=support, query=query)

    def runs(self, tasks: Task) -> bool:
        """Whether the model takes pictures of this size."""
        try:
            self.output(tasks)
        except Exception:  # a user's model may raise anything
            return False
        return True

    def output(self, tasks: Task) -> Tensor:
        """The outputs of the first task, before its adaptation where a rule adapts."""
        model = self.learner
        (support, query), noise = self.task(tasks)
        with torch.no_grad(), twice_differentiable():
            theta = model.params()
            output: Tensor = model.predict(theta, query.x) if theta else model.solve(support, query, noise).output
        return output

    def result(self) -> GradientCheck:
        """The whole check."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a kernel may warn that it is slow
            held = dict(_held(self.learner))
            self.tell(ON_THE_LOOP)
            if isinstance(self.tasks.support.x, Tensor) and self.tasks.support.x.ndim == 5:
                self.tasks = next(filter(self.runs, map(self.cut, SIDES)), self.tasks)
            self.tasks = self.learner.begin(self.tasks)
            try:
                with _Precision() as precision:
                    loss = self.probe()
                faults = [*self.inconsistencies(loss.detach(), held), *self.foreign_reads()]
                if faults:  # two functions that are not the same cannot be compared
                    return GradientCheck({}, {}, faults=tuple(faults), vectorised=self.vectorised)
                slope = self.slope(loss, precision.eps)
                errors, refused = self.compare() if self.vectorised else ({}, "")
                if errors and self.original.training and any(map(_asks_for_the_mode, self.original.modules())):
                    also = self.errors_in_training()
                    errors = {name: max(error, also.get(name, 0.0)) for name, error in errors.items()}
            except (RuntimeError, NotImplementedError) as refusal:
                with torch.no_grad():
                    self.learner(self.tasks, seed=self.seed)  # a misfit is the user's own error, and raised
                reason = str(refusal).strip().splitlines()[0]
                return GradientCheck({}, self.modules(), faults=(f"The meta-gradient cannot be computed: {reason}",))
            tolerance = max(TOLERANCE, (100 if self.exact else 1000) * precision.eps)
            wrong = {}
            if slope or any(error >= tolerance for error in errors.values()):
                wrong = self.modules() if self.exact else {}
                if slope and "everywhere" not in wrong.values():
                    faults.append(slope)
        return GradientCheck(errors, wrong, refused, tuple(faults), self.vectorised, tolerance=tolerance)

    def compare(self) -> tuple[dict[str, float], str]:
        """The errors of the meta-gradient of `vmap` against that of the loop, or why `vmap` refuses."""
        _, looped = self.learner.meta_gradient(self.tasks, seed=self.seed)
        self.tell(UNDER_VMAP)
        engine = self.learner.engine = Engine("vmap")
        with warnings.catch_warnings(record=True) as refusals:
            warnings.simplefilter("always", LoopFallbackWarning)
            _, together = self.learner.meta_gradient(self.tasks, seed=self.seed)
        self.learner.engine = Engine("loop")
        if engine.backend == "loop":
            reasons = [str(refusal.message) for refusal in refusals if refusal.category is LoopFallbackWarning]
            return {}, reasons[-1].partition("Reason: ")[2]
        return relative_errors(list(self.learner.meta_params()), together, looped), ""

    def errors_in_training(self) -> dict[str, float]:
        """The errors of `compare` in training mode; none where the model draws random numbers there."""
        trial = _Trial(self.original, self.tasks, self.seed, True, self.tell, exact=self.exact, training=True)
        trial.tasks = trial.learner.begin(trial.tasks)
        first, again = trial.probe().detach(), trial.probe().detach()
        return trial.compare()[0] if torch.allclose(first, again, rtol=1e-6) else {}

    def inconsistencies(self, loss: Tensor, held: Mapping[str, Any]) -> Iterator[str]:
        """What a second call and the state afterwards give away."""
        if loss.isfinite() and not torch.allclose(self.probe(), loss, rtol=1e-6):
            yield (
                "A second call on the same task gives another loss: the forward draws random numbers in evaluation "
                "mode, or keeps something where the next call finds it."
            )
        if self.learner.params():
            (support, _), noise = self.task(self.tasks)
            with torch.no_grad(), twice_differentiable():
                self.learner.evaluation_twin().update(support, noise, evaluating=True)
        changed = [name for name, value in _held(self.learner) if name in held and not _same(held[name], value)]
        if changed and all(name.startswith(("criterion.", "inner_criterion.")) for name in changed):
            yield (
                f"The loss changes {', '.join(changed)}, so that of the next call is another one. Let a loss depend on "
                "nothing but the output and the targets."
            )
        elif changed:
            yield f"A call changes {', '.join(changed)}. Register what a forward changes as a buffer."

    def foreign_reads(self) -> list[str]:
        """The tensors that an output depends on though they are neither adapted values nor the learner's own."""
        model = self.learner
        phi = {name: p.detach().requires_grad_() for name, p in model.params().items()}
        if not phi:
            return []
        given = {id(p) for p in phi.values()}
        with twice_differentiable():
            # What a forward makes is not the same tensor in a second call.
            outputs = (model.predict(phi, pick(self.tasks.query.x, 0)) for _ in range(2))
            first, again = (
                [leaf for part in tree_leaves(output) if isinstance(part, Tensor) for leaf in tape_leaves(part)]
                for output in outputs
            )
        adapted = {id(p) for p in model.params().values()}
        names = {id(p): name for name, p in model.named_parameters()}
        reads = [
            names.get(id(leaf), f"a tensor of the shape {list(leaf.shape)}")
            for leaf in first
            if any(leaf is other for other in again)
            and id(leaf) not in given
            and (id(leaf) in adapted or id(leaf) not in names)
        ]
        if not reads:
            return []
        return [
            f"The forward reads {', '.join(reads)} from elsewhere than the module that it is called on, so adaptation "
            "does not reach it. Read it from `self`, as a registered parameter."
        ]

    def task(self, tasks: Task) -> tuple[tuple[Examples, Examples], Mapping[str, Tensor]]:
        """The first task, and its noise."""
        return pick(((tasks.support, tasks.query), self.learner.draw(tasks, self.seed)), 0)

    def probe(self) -> Tensor:
        """The loss whose gradient is held against central differences."""
        (support, query), noise = self.task(self.tasks)
        with torch.enable_grad(), twice_differentiable():
            loss: Tensor = self.learner.probe(support, query, noise)
        return loss

    def slope(self, loss: Tensor, eps: float) -> str:
        """How the gradient of the probe differs from central differences; empty if it does not."""
        if not loss.requires_grad or not loss.isfinite():
            return ""
        leaves = [p for p in self.learner.parameters() if p.requires_grad]
        try:
            grads = _gradients(loss, leaves)
        except (RuntimeError, NotImplementedError) as refusal:
            return f"The loss after a gradient step has no gradient: {str(refusal).strip().splitlines()[0]}"
        draw = torch.Generator().manual_seed(0)
        way = [torch.randn(p.shape, generator=draw, dtype=torch.float64) for p in leaves]
        for table in self.learner.modules():
            if isinstance(table, nn.Embedding) and table.padding_idx is not None:  # it has no gradient, by intention
                for p, direction in zip(leaves, way, strict=True):
                    if p is table.weight:
                        direction[table.padding_idx] = 0
        if not _differs_from_slope(self.probe, leaves, grads, way, eps):
            return ""
        return (
            "The gradient of the loss after a gradient step is not the slope that central differences give: a part of "
            "the model or of a loss is without a derivative there, replaces it by another, or has a wrong one."
        )

    def modules(self) -> dict[str, str]:
        """The smallest modules and the losses whose second-order gradient is wrong, and where."""
        seen: dict[str, Tensor] = {}

        def remember(name: str) -> Callable[[nn.Module, tuple[object, ...]], None]:
            def hook(module: nn.Module, args: tuple[object, ...]) -> None:
                del module
                if args and isinstance(args[0], Tensor):
                    seen[name] = args[0].detach()
                    self.tell(name)

            return hook

        model = self.learner
        handles = [m.register_forward_pre_hook(remember(name)) for name, m in model.named_modules() if name]
        try:
            output = self.output(self.tasks)
        except Exception:  # what the model raises now, it does not raise in a call of its own
            return {}
        finally:
            for handle in handles:
                handle.remove()
        tried = {}
        with twice_differentiable():
            for name, module in reversed(list(model.named_modules())):  # the smallest first
                if name in seen:
                    self.tell(name)
                    own = {n: p.detach().clone().requires_grad_() for n, p in module.named_parameters()}
                    tried[name] = _check_alone(Twins(module).call, own, seen[name])
            for name in ("criterion", "inner_criterion"):
                loss = getattr(model, name, None)
                if loss is not None and isinstance(output, Tensor):
                    tried[name] = _check_alone(_loss_alone(loss, self.tasks.query.y[0]), {}, output)
        wrong = {name: where for name, where in tried.items() if where}
        return {name: w for name, w in wrong.items() if not any(other.startswith(f"{name}.") for other in wrong)}


def _loss_alone(criterion: Criterion, y: Tensor) -> Callable[[Params, Tensor], Tensor]:
    """A loss as a function of the outputs, in the shape of a module that has no parameters."""
    return lambda _, output: criterion(output, y)


def _small(tasks: Task) -> Task:
    """Tasks with some examples of every class, or with the first ones where there are no classes."""

    def some(examples: Examples) -> Examples:
        y = examples.y
        if y.ndim != 2 or y.is_floating_point():
            return pick_examples(examples, torch.arange(min(EXAMPLES, y.shape[1])).expand(len(y), -1))
        rank = (y[:, :, None] == y[:, None]).tril(-1).sum(-1)  # among the examples of its class
        classes = max(len(own.unique()) for own in y)
        keep = min(y.shape[1], classes * max(1, -(-EXAMPLES // classes)))
        return pick_examples(examples, rank.argsort(dim=1, stable=True)[:, :keep].sort(dim=1).values)

    def pick_examples(examples: Examples, index: Tensor) -> Examples:
        rows = torch.arange(len(index))[:, None]
        picked: Examples = tree_map(lambda value: value[rows, index], examples)
        return picked

    return tasks._replace(support=some(tasks.support), query=some(tasks.query))


def _asks_for_the_mode(module: nn.Module) -> bool:
    """Whether the code of a stranger's module names `training`."""
    return is_strange(module) and any(
        "training" in code.co_names
        for kind in type(module).__mro__
        if is_users(kind)
        for value in vars(kind).values()
        if isinstance(value, FunctionType)
        for code in codes_of(value)
    )


def _held(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """What the parts of a learner hold: tensors, as copies, and plain values such as the mode."""
    for path, part in model.named_modules():
        if path:
            for name, value in {**vars(part), **part._parameters, **part._buffers}.items():
                if isinstance(value, Tensor):
                    yield f"{path}.{name}", value.detach().clone()
                elif isinstance(value, PLAIN):
                    yield f"{path}.{name}", value


def _same(one: Any, other: Any) -> bool:
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return type(one) is type(other) and (one == other or one != one)
    return have_same_numbers(one, other)


def have_same_numbers(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers; NaN is one of them."""
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())


class _Precision(TorchFunctionMode):
    """Notes the coarsest precision that anything is computed in: a forward may cast."""

    def __init__(self) -> None:
        super().__init__()
        self.eps = torch.finfo(torch.float64).eps

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_floating_point():
            self.eps = max(self.eps, torch.finfo(result.dtype).eps)
        return result


def relative_errors(
    names: Sequence[str], given: Sequence[Tensor | None], right: Sequence[Tensor | None]
) -> dict[str, float]:
    """The norm of the difference over the largest norm of a right gradient, by parameter.

    Empty where a right gradient is not finite: there is no scale then.
    """
    if not all(r.isfinite().all() for r in right if r is not None):
        return {}
    scale = max((float(r.norm()) for r in right if r is not None), default=0.0) or 1.0
    errors = {}
    for name, g, r in zip(names, given, right, strict=True):
        gap = g if r is None else r if g is None else g - r  # a missing gradient is zero
        errors[name] = 0.0 if gap is None else float(gap.norm()) / scale
    return errors


def _check_alone(call: Callable[[Params, Tensor], Any], own: Params, x: Tensor) -> str:
    """Where a module or a loss is wrong on one of its inputs: "under vmap", "everywhere", or "" for nowhere."""
    draw = torch.Generator().manual_seed(0)

    def noise(shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64).to(x.device)

    floating = x.is_floating_point()
    layout = torch.empty_like(x).stride()  # kept: a kernel may be wrong in one layout only
    xs = x.new_empty_strided((3, *x.shape), (x.numel(), *layout))
    for x_i in xs:
        x_i.copy_(x + 0.1 * noise(x.shape) if floating else x)
    leaves = [*own.values(), *([xs.requires_grad_()] if floating else [])]
    weights: list[Tensor] = []

    def value(params: Params, x: Tensor) -> Tensor:
        out = next(leaf for leaf in tree_leaves(call(params, x)) if isinstance(leaf, Tensor))
        if not weights:
            weights.append(noise(out.shape))
        total: Tensor = (out.tanh() * weights[0]).sum()  # not a square: after a norm, the sum of squares is a constant
        return total

    def one(params: Params, x: Tensor) -> Tensor:
        """MAML in one line: the value after a gradient step on parameters and input."""
        if not floating:
            moved = {n: params[n] - 0.1 * g for n, g in grad(value)(params, x).items()}
            return value(moved, x)
        g_params, g_x = grad(value, argnums=(0, 1))(params, x)
        return value({n: params[n] - 0.1 * g for n, g in g_params.items()}, x - 0.1 * g_x)

    def on_the_tape(params: Params, x: Tensor) -> Tensor:
        """The same by the tape, which also takes functions that `torch.func` refuses."""
        inputs = [*params.values(), *([x] if floating else [])]
        found = torch.autograd.grad(value(params, x), inputs, create_graph=True, allow_unused=True)
        moved = [p if g is None else p - 0.1 * g for p, g in zip(inputs, found, strict=True)]
        return value(dict(zip(params, moved, strict=False)), moved[-1] if floating else x)

    def looped() -> Tensor:
        return torch.stack([on_the_tape(own, x_i) for x_i in xs]).sum()

    if not leaves:
        return ""
    try:
        total = looped()
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        return ""  # a module that cannot run alone is not wrong without an error
    if not total.requires_grad:
        return ""
    try:
        plain = _gradients(total, leaves)
    except (RuntimeError, NotImplementedError):
        return "everywhere"
    if _differs_from_slope(looped, leaves, plain, [noise(leaf.shape) for leaf in leaves]):
        return "everywhere"
    try:
        together = torch.vmap(one, in_dims=(None, 0))(own, xs).sum()
        given = torch.autograd.grad(together, leaves, allow_unused=True)
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        return ""  # what vmap refuses runs on the loop
    errors = relative_errors([str(i) for i in range(len(leaves))], given, plain)
    return "under vmap" if any(error >= TOLERANCE for error in errors.values()) else ""


def _gradients(value: Tensor, leaves: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradients of a value, where every part of it is differentiated.

    A gradient for these leaves alone would skip a part that leads to none of them, and a function that can be
    differentiated only once is such a part: its error must be raised. A backward pass would add to the `grad` of the
    user's tensors.
    """
    every = list({id(leaf): leaf for leaf in (*leaves, *tape_leaves(value))}.values())
    found = torch.autograd.grad(value, every, allow_unused=True)
    return list(found[: len(leaves)])


def _differs_from_slope(
    function: Callable[[], Tensor],
    leaves: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    way: Sequence[Tensor],
    eps: float = torch.finfo(torch.float64).eps,
) -> bool:
    """Whether the gradient along a direction differs from the central difference, here and also at a point nearby.

    As it is built, a model may stand on a kink: where all units of a layer are 0, a next layer whose bias is 0 gives 0,
    and a ReLU behind it has no derivative there.

    Args:
        function: The value.
        leaves: The tensors that it depends on; they are moved and moved back.
        grads: Its gradients for `leaves`.
        way: The direction, one tensor for each of `leaves`.
        eps: The relative rounding of what the function computes in, where that is coarser than float64.
    """
    if not _differs_here(function, leaves, grads, way, eps):
        return False
    _move(leaves, way, NEARBY)
    try:
        with torch.enable_grad():
            nearby = _gradients(function(), leaves)
        return _differs_here(function, leaves, nearby, way, eps)
    finally:
        _move(leaves, way, -NEARBY)


def _differs_here(
    function: Callable[[], Tensor], leaves: Sequence[Tensor], grads: Sequence[Tensor | None], way: Sequence[Tensor],
    eps: float,
) -> bool:  # fmt: skip
    """Whether gradient and central difference differ at every step size.

    There are several because a large step may cross a kink of a ReLU or a pooling, where the inner gradient jumps; the
    more units a module has, the smaller the step must be.
    """
    along = [torch.real(g.conj() * w) for g, w in zip(grads, way, strict=True) if g is not None]
    slope, scale = sum(float(part.sum()) for part in along), sum(float(part.abs().sum()) for part in along) + 1e-6
    tolerance = max(SLOPE_TOLERANCE, 100 * eps**0.5)
    for step in (1e-6, 1e-7, 1e-8, 1e-5, eps ** (1 / 3)):
        ends = []
        for sign in (1.0, -2.0):
            _move(leaves, way, sign * step)
            with torch.enable_grad():  # the inner gradient is part of the function
                ends.append(float(function().detach()))
        _move(leaves, way, step)
        if abs((ends[0] - ends[1]) / (2 * step) - slope) < tolerance * scale:
            return False
    return True


def _move(leaves: Sequence[Tensor], way: Sequence[Tensor], step: float) -> None:
    with torch.no_grad():
        for leaf, w in zip(leaves, way, strict=True):
            leaf.add_(w, alpha=step)
