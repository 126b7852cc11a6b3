r"""CAVIA: a small context vector per task, and everything else shared.

.. math:: \phi_b = b + U_b\,z, \qquad z \leftarrow z - \alpha \nabla_z L_S(b + U z), \qquad z_0 = 0

z `[context]` is the context of a task, :math:`U_b` `[size of b, context]` is meta-trained and :math:`\alpha` is
`inner_lr`. A context that is concatenated to a layer's input adds :math:`U z` to the layer's bias. So a context is a
chart on the biases, and finding it is gradient descent in other coordinates, as it is for Wormhole's gain.

Reference: Zintgraf et al., 2019, section 3.1 (https://arxiv.org/abs/1810.03642). In the paper the context is an input
of one layer (or of FiLM, which also scales); here it shifts every bias that trains, of any module.

A model without a bias that trains, or a `context` below 1, is an `InputError`.
"""

from typing import Unpack

from torch import Tensor, nn

from quickstudy.errors import check_count
from quickstudy.methods.learner import Learner
from quickstudy.methods.options import HeadOptions, make_rule_learner
from quickstudy.rules.descend import Constant, Descend
from quickstudy.rules.params import adaptable, dotted_params, parameter_dict
from quickstudy.rules.rescale import Chart, Rescale
from quickstudy.types import Params


class ContextChart(Chart):
    """Shifts biases by a linear map U of the context z; U is meta-trained.

    Args:
        params: The biases; names and sizes are used.
        size: The number of entries of the context.
    """

    def __init__(self, params: Params, size: int) -> None:
        super().__init__()
        self.size = size = check_count("context", size)
        self.maps = parameter_dict(
            {n: p.detach().new_empty(p.numel(), size).normal_() / size**0.5 for n, p in params.items()}
        )

    def start(self, params: Params) -> Params:
        return {"z": next(iter(params.values())).new_zeros(self.size)}

    def forward(self, t: Params, params: Params) -> Params:
        maps, z = dotted_params(self.maps), t["z"]
        return {name: p + (maps[name] @ z.to(p.dtype)).reshape(p.shape) for name, p in params.items()}


def is_bias(name: str) -> bool:
    """Whether a parameter is a bias, by its name."""
    last = name.rpartition(".")[2]
    return last == "bias" or last.startswith("bias_") or last.endswith("_bias")  # as in torch's LSTM and attention


def cavia(
    model: nn.Module,
    *,
    context: int = 5,
    inner_lr: float = 0.5,
    inner_steps: int = 2,
    eval_inner_steps: int | None = None,
    **options: Unpack[HeadOptions],
) -> Learner:
    """CAVIA (Zintgraf et al., 2019): a task adapts a few context values, which shift the model's biases."""
    biases: dict[str, Tensor] = adaptable(model, is_bias)
    find = Descend(Constant(inner_lr), inner_steps, eval_steps=eval_inner_steps)
    rule = Rescale(find, ContextChart(biases, context), list(biases))
    return make_rule_learner(model, rule, adapts=is_bias, **options)
