r"""Methods made of parts: which of them help each other.

Every part is put onto the same gradient steps, so that a method is a set of parts:

.. math:: \phi = (\mathrm{descend}_{r} \circ H \circ C)(\theta), \qquad r = m \odot \alpha

metric     each adapted layer is T W, and T is shared (T-net)
mask       rates switched on or off by row (M-net; with the metric MT-net)
rate       a learned step size for each number (Meta-SGD)
gain       a multiplier C of the last layer, found first (Wormhole MAML)
emission   an update emitted by a hypernetwork before the steps (HyperMAML)
"""

from collections.abc import Sequence

from torch import nn

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.methods.learner import Learner
from quickstudy.methods.rule_learner import RuleLearner
from quickstudy.models.cells import cell_param_names, with_metric
from quickstudy.models.hypernet import ClassHypernet
from quickstudy.models.split import last_linear, split_head
from quickstudy.rules.base import Rate, Rule
from quickstudy.rules.combine import Chain
from quickstudy.rules.criteria import get_criterion
from quickstudy.rules.descend import Constant, Descend, Learned
from quickstudy.rules.emit import Emit
from quickstudy.rules.mask import Masked
from quickstudy.rules.params import adaptable
from quickstudy.rules.rescale import Rescale, Tanh

PARTS = ("metric", "mask", "rate", "gain", "emission")


def combined(
    model: nn.Module, *, parts: Sequence[str] = (), adapted: str = "all", inner_lr: float = 0.1, inner_steps: int = 1,
    rate_between: tuple[float, float] = (0.005, 0.1), gain_lr: float = 1.0, gain_steps: int = 5, width: int = 64,
    loss: str = "cross_entropy",
) -> Learner:  # fmt: skip
    """Gradient steps with any of the parts, of `PARTS`; none is MAML.

    `adapted` are "all" layers, or the "head" alone, behind a body that tasks share; emission needs the latter.
    """
    for part in set(parts) - set(PARTS):
        raise InputError(f"There is no part {part!r}. {suggest_nearest(part, PARTS)}")
    if adapted not in ("all", "head"):
        raise InputError(f"`adapted` is 'all' or 'head', not {adapted!r}.")
    if "emission" in parts and adapted == "all":
        raise InputError("An emission is the update of a head: set `adapted` to 'head'.")
    body, head = split_head(model) if adapted == "head" else (None, model)
    head = with_metric(head) if "metric" in parts else head
    names = list(cell_param_names(head))
    params = adaptable(head, names)
    rate: Rate = Learned(params, rate_between) if "rate" in parts else Constant(inner_lr)
    rate = Masked(rate, params) if "mask" in parts else rate
    rules: list[Rule] = []
    if "gain" in parts:
        scope = [name for name in adaptable(head, last_linear(head), "scope") if name in params]
        rules.append(Rescale(Descend(Constant(gain_lr), gain_steps), Tanh(1.0), scope))
    if "emission" in parts:
        rules.append(Emit(ClassHypernet(params, width=width)))
    return RuleLearner(head, Chain([*rules, Descend(rate, inner_steps)]), get_criterion(loss), body=body, adapts=names)
