"""What the first task of a learner shows, before anything is learnt: forwards and losses that would be silently wrong.

A learner works on copies: of the parameters that adapt, and of the modules that it calls. A forward that writes to its
parameters, and a loss that reads the module of which there is a copy, or what a forward leaves on it, would seem to
work. They are refused by name.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.engine.autodiff import CompileRefusedWarning, tape_leaves
from quickstudy.engine.engine import Engine
from quickstudy.engine.gradient_check import have_same_numbers
from quickstudy.engine.outside import what_is_read
from quickstudy.engine.second_derivatives import is_strange
from quickstudy.engine.twin import sources_of, watch_twins
from quickstudy.errors import InputError
from quickstudy.rules.torch_private import count_changes, tree_leaves
from quickstudy.types import Criterion, Outcome, Params


@contextmanager
def refuse_writes(module: nn.Module) -> Iterator[None]:
    """Refuse what changes a parameter; its numbers are put back."""
    before = {name: (p.detach().clone(), count_changes(p)) for name, p in module.named_parameters()}
    yield
    changed = [
        name
        for name, p in module.named_parameters()
        if count_changes(p) != before[name][1] or not have_same_numbers(p.detach(), before[name][0])
    ]
    if changed:
        with torch.no_grad():
            for name, p in module.named_parameters():
                if name in changed:
                    p.data = before[name][0]
        raise InputError(explain_writes(changed))


def look_at_what_is_read(module: nn.Module, criteria: Sequence[Criterion], solve: Callable[[], Outcome]) -> None:
    """Refuse a loss of the user's that reads the module of which the learner has a copy. `solve` does a first task."""
    if not any(map(is_strange, criteria)):
        return
    with torch.random.fork_rng(devices=[]):
        try:
            outcome = solve()
        except Exception:  # a query loss may take nothing but query sets; its own error comes with the first
            return
    refuse_other_reads(module, outcome.loss, outcome.output)


def refuse_other_reads(module: nn.Module, loss: Tensor, output: Any, given: Params | None = None) -> None:
    """Refuse a loss that depends, not by the output, on a tensor of which one of the learner's is a copy.

    Where it is not known of what a parameter is a copy, equal numbers tell; but not where all of them are equal: a
    loss may have zeros of its own.
    """
    own = {name: p for name, p in module.named_parameters() if not name.startswith("criterion.")}
    outputs = [part for part in tree_leaves(output) if isinstance(part, Tensor)]
    known = {id(leaf) for part in outputs for leaf in tape_leaves(part)}
    known |= {id(p) for p in (*own.values(), *(given or {}).values())}
    others = [leaf for leaf in tape_leaves(loss) if id(leaf) not in known]
    read = [
        name
        for name, p in own.items()
        if any(
            any(leaf is source for source in sources_of(p))
            or (
                (p.shape, p.device) == (leaf.shape, leaf.device)
                and torch.equal(p, leaf)
                and bool((p != p.flatten()[:1]).any())
            )
            for leaf in others
        )
    ]
    if read:
        raise InputError(
            f"The loss reads {', '.join(read)} of the module that this learner was made from, and the learner has "
            "a copy of it, whose numbers adapt and train. Let the forward compute what the loss needs of them, and "
            "return it with the output, as one more column for example."
        )


def look_at_what_is_left(
    module: nn.Module, engine: Engine, criteria: Sequence[Criterion], update: Callable[[], Params]
) -> None:
    """Refuse a loss that reads what a forward leaves on its module, and do not compile a forward that leaves any.

    `update` adapts to the first task. The calls of a learner run on copies of its modules, which are dropped; compiled
    ones on the modules themselves.
    """
    reads = [what_is_read(loss) for loss in criteria if is_strange(loss)]
    kinds = tuple(kind for own, _ in reads for kind in own)
    names = {name for _, own in reads for name in own}
    looks = any(isinstance(part, kinds) for part in module.modules())
    if not looks and not (engine.compile and engine.has_strangers):
        return
    with watch_twins() as left, torch.random.fork_rng(devices=[]), torch.no_grad():
        update()
        found = sorted(left(), key=lambda pair: pair[1])
    if found and engine.compile:
        engine.compile = False
        warnings.warn(
            f"`compile` has no effect here: the forward keeps `{found[0][1]}` on its module, and what is compiled "
            "cannot drop it after a call.",
            CompileRefusedWarning,
            stacklevel=5,
        )
    if read := [name for kind, name in found if name in names and issubclass(kind, kinds)]:
        raise InputError(
            f"The loss reads `{read[0]}`, which a forward leaves on its module. A learner calls copies of it, "
            "so the loss would not see that. Return it with the output, as (logits, term), and add it in a loss "
            "that takes both."
        )


def explain_writes(names: Sequence[str]) -> str:
    """The message where a forward changes parameters."""
    return (
        f"The forward writes to {', '.join(names)} in place, so every call would begin from other numbers. (An "
        "embedding with max_norm does.) Compute a new tensor from the parameter in the forward instead."
    )
