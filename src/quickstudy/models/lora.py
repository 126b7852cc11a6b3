r"""LoRA: small changes of the large layers of a frozen model, which adapt in their place.

.. math:: y = W x + b + \frac{\alpha}{r}\, B A x

W and b stay as they are, A is `[r, in]` and B is `[out, r]`. B starts at 0, so the model starts as it was.

Reference: Hu et al., 2021 (https://arxiv.org/abs/2106.09685).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.engine.twin import copy_module
from quickstudy.errors import InputError, is_count, suggest_nearest
from quickstudy.models.split import last_linear
from quickstudy.models.surgery import change_class, leave_fast_paths
from quickstudy.rules.params import Selection, is_name, matches, select


class LowRankLinear(nn.Linear):
    """A frozen linear layer with a change of low rank: parameters `down` (A) and `up` (B) beside its own."""

    any_layout = True
    down: Tensor
    up: Tensor
    scale: float  # alpha / r

    def forward(self, input: Tensor) -> Tensor:
        change = F.linear(F.linear(input, self.down), self.up)
        return super().forward(input) + self.scale * change


TARGETS = ("query", "value")
"""What attention calls its layers in many models; some have only one of them."""


class LoRA(nn.Module):
    """A copy of a model in which changes of low rank, and the head, are all that trains and adapts.

    Any method takes it: `maml(LoRA(model, targets=["query", "value"]), inner_lr=0.1)`.

    >>> net = LoRA(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), r=2, targets=["0"])
    >>> [name for name, p in net.named_parameters() if p.requires_grad]
    ['model.0.down', 'model.0.up', 'model.2.weight', 'model.2.bias']

    Args:
        model: Any module. Its `nn.Linear` layers can be changed.
        r: The rank of a change.
        targets: Names of layers, or the ends of their names, such as "query", or patterns such as "*.layer.1.*.query".
        alpha: The factor on a change is alpha / r; by default it is 1.
        trains: What else trains and adapts: a pattern or names of parameters. By default the last Linear, the head.
            An empty list: nothing.
    """

    any_layout = True

    def __init__(
        self,
        model: nn.Module,
        r: int = 4,
        targets: Sequence[str] = TARGETS,
        *,
        alpha: float | None = None,
        trains: Selection | None = None,
    ) -> None:
        super().__init__()
        if not is_count(r):
            raise InputError(f"`r` was {r!r}; a rank is a whole number of at least 1.")
        if alpha is not None and not math.isfinite(alpha):
            raise InputError(f"`alpha` was {alpha}; it is a finite number, such as {r}.")
        self.model = copy_module(model).requires_grad_(False)
        # This one's weight is read by attention itself, past its forward.
        passed_by = nn.modules.linear.NonDynamicallyQuantizableLinear
        linears = {
            name: layer
            for name, layer in self.model.named_modules(remove_duplicate=False)
            if isinstance(layer, nn.Linear) and not isinstance(layer, passed_by)
        }
        patterns = [targets] if isinstance(targets, str) else list(targets)
        chosen = {layer for name, layer in linears.items() if any(_is_target(name, pattern) for pattern in patterns)}
        if not chosen:
            raise InputError(
                f"`targets` was {', '.join(map(repr, patterns)) or 'empty'} and matched no Linear layer that is called "
                f"by itself. Layers are: {', '.join(linears) or 'none'}."
            )
        strange = [p for p in patterns if is_name(p) and not any(_is_target(name, p) for name in linears)]
        if strange and tuple(patterns) != TARGETS:
            raise InputError(
                f"`targets` has {strange[0]!r}, which is no Linear layer. {suggest_nearest(strange[0], linears)}"
            )
        own = [name for name, _ in self.model.named_parameters()]
        free = (
            [] if isinstance(trains, Sequence) and not trains else select(own, trains or last_linear(model), "trains")
        )
        params = dict(self.model.named_parameters())
        for layer in self.model.modules():
            if layer in chosen:
                _add_change(layer, int(r), 1.0 if alpha is None else alpha / r)
        leave_fast_paths(self.model)  # which read W without B A
        for name in free:
            if trains is not None or linears.get(name.rpartition(".")[0]) not in chosen:  # the head may be a target
                params[name].requires_grad_(True)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The output of the model."""
        return self.model(*args, **kwargs)


def _add_change(layer: nn.Linear, r: int, scale: float) -> None:
    """Give a layer a change of low rank, wherever it is used; it is none as it begins."""
    taken = [name for name in ("down", "up", "scale") if hasattr(layer, name)]
    if taken:
        raise InputError(
            f"A {type(layer).__name__} has an attribute `{taken[0]}` of its own, which LoRA would replace. Give it "
            "another name, or leave the layer out of `targets`."
        )
    change_class(layer, LowRankLinear)
    down = nn.init.normal_(layer.weight.new_empty(r, layer.in_features), std=layer.in_features**-0.5)
    layer.register_parameter("down", nn.Parameter(down))
    layer.register_parameter("up", nn.Parameter(layer.weight.new_zeros(layer.out_features, r)))
    assert isinstance(layer, LowRankLinear)  # by now
    layer.scale = scale


def _is_target(name: str, pattern: str) -> bool:
    return matches(name, pattern) or name.endswith(f".{pattern}")
