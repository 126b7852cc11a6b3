"""Emission for any targets and any parameters, also in coordinates of a chart."""

from collections.abc import Sequence

from torch import nn

from quickstudy.rules.base import Rule, check_adapts
from quickstudy.rules.objective import Objective
from quickstudy.rules.params import detach_params
from quickstudy.types import Params, Shape


class SetEmit(Rule):
    r"""An update of some of the parameters, which a network emits from the support set.

    .. math:: \phi = \theta + H(\{(x_i, p_i, y_i)\}), \qquad p_i = f_\theta(x_i)

    As `Emit`, with two differences: the parameters that H does not write stay as they are, and targets may be numbers.
    The guesses p are then the outputs themselves; of classes they are probabilities. They pass no gradient on. Inside
    `Rescale` the parameters are the coordinates t of a chart: :math:`t = t_0 + H(S)` is a gain that is emitted.

    Args:
        network: H, such as a `SetHypernet` or a `ClassHypernet`: from x `[n, inputs]`, guesses `[n, outputs]` and
            targets to an update by name.
        names: The parameters that H writes.
    """

    reads_labels = True

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.names = tuple(names)

    def forward(self, params: Params, objective: Objective) -> Params:
        x, y = objective.support
        output = objective.predict(detach_params(params)).detach()
        guess = output.reshape(len(x), -1) if y.is_floating_point() else output.softmax(-1)
        delta = self.network(x.flatten(1), guess, y)
        return params | {name: params[name] + delta[name].to(params[name].dtype) for name in self.names}

    def noise(self, params: Params) -> dict[str, Shape]:
        advice = "Widen `adapts`, or build the network for parameters that adapt."
        check_adapts(self.names, params, "The emission writes", advice)
        return {}
