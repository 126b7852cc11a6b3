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
    """Compiled against the loop: the relative error, whether the compiler refused, and whether the model branches."""
    found = []
    for engine in (Engine("loop"), Engine("vmap", compile=True)):
        model.engine = engine
        outcome, gradients = model.meta_gradient(batch)
        zeros = [torch.zeros_like(p) for p in model.meta_params().values()]
        filled = [z if g is None else g for g, z in zip(gradients, zeros, strict=True)]
        found.append(torch.cat([part.flatten() for part in (outcome.loss, outcome.output, *filled)]))
    loop, compiled = found
    refused = not model.engine.compile or model.engine._compiler.refused
    chosen = any(isinstance(part, Mix | MultiStep) for part in model.modules())  # branches of weight 0 do not run
    error = float((compiled - loop).norm() / loop.norm())
    return {"error": error, "refused": refused, "chosen": chosen, "backend": model.engine.backend}


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
