"""Compares compiled meta-gradients with those of the loop and prints the relative errors: run as a program.

It has a process of its own, because the tests check the shapes of every call at run time, which cannot be compiled.
"""

import json
import sys
import warnings

import torch
from torch import nn

from cases import METHODS, NETS, learner, tasks
from quickstudy import Engine, Mix, maml
from quickstudy.methods.mamlpp import MultiStep


class Printing(nn.Module):
    """A forward that the compiler does not take."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        torch._dynamo.graph_break()
        return self.layer(x)


def errors(model, batch):
    """Compiled against the loop: the relative error, and whether the compiler refused. Branches come and go."""
    loop, compiled = Engine("loop"), Engine("vmap", compile=True)
    error = 0.0
    for phase in phases(model):
        found = []
        for model.engine in (loop, compiled):
            with torch.no_grad():
                for part, weights in phase:
                    part.weights.copy_(torch.tensor(weights))
            outcome, gradients = model.meta_gradient(batch)
            zeros = [torch.zeros_like(p) for p in model.meta_params().values()]
            filled = [z if g is None else g for g, z in zip(gradients, zeros, strict=True)]
            found.append(torch.cat([part.flatten() for part in (outcome.loss, outcome.output, *filled)]))
        error = max(error, float((found[1] - found[0]).norm() / found[0].norm()))
    return {"error": error, "refused": not compiled.compiles, "backend": compiled.backend}


def phases(model):
    """The weights as they are and, where a branch of weight 0 does not run, with the first or the last branch alone."""
    branching = [part for part in model.modules() if isinstance(part, Mix | MultiStep)]
    sizes = [(part, len(part.weights)) for part in branching]
    first = [(part, [1.0, *[0.0] * (size - 1)]) for part, size in sizes]
    last = [(part, [*[0.0] * (size - 1), 1.0]) for part, size in sizes]
    return [[], first, last] if branching else [[]]


def main() -> None:
    """The methods and nets that are named, all when none is."""
    torch.set_default_dtype(torch.float64)
    methods, nets = (words.split(",") if words else [] for words in sys.argv[1:3])
    rows = {}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for net in NETS:
            for method in METHODS:
                if method.name in (methods or [method.name]) and net.name in (nets or [net.name]):
                    rows[f"{method.name} {net.name}"] = errors(learner(method, net), tasks(net))
        if "refused" in sys.argv[3:]:
            rows["refused"] = errors(maml(Printing()), tasks(NETS[0]))
    print(json.dumps({"rows": rows, "said": [str(w.message) for w in said]}))


if __name__ == "__main__":
    main()
