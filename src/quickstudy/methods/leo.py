r"""LEO: the head is decoded from a code of few numbers, which is encoded from the task and adapts by gradient steps.

.. math:: z = E(S), \qquad z \leftarrow z - \alpha \nabla_z L_S(\theta + D z), \qquad
          \phi = \theta + D z, \qquad \phi \leftarrow \phi - \eta \nabla L_S(\phi)

z `[ways, latent]` has one code for each class, E is a relation network over all pairs of examples, and the decoder D
is a linear map from a code to the row of its class. :math:`\alpha` is `inner_lr`, and :math:`\eta` is `finetune_lr`. So
LEO is Wormhole's `Rescale` with a decoder as the chart, and an emission where the steps on z begin.

Reference: Rusu et al., 2019, section 2.3 and eq. 4 (https://arxiv.org/abs/1807.05960). This is the deterministic form
of the paper's ablation: z and the rows are not drawn, and so the loss has no term for their distributions. It leaves
out what the released LEO has besides: the penalty :math:`|\mathrm{stop}(z') - z|^2` between the adapted code z' and the
first one, that on the orthogonality of the decoder, the L2 penalty, and learned rates. The body is trained, where the
paper's features are fixed; the head theta, zero in the paper, is trained too.

A head that is not linear or not last, or a loss that does not compare classes, is an `InputError`.
"""

from typing import Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from quickstudy.errors import InputError
from quickstudy.methods.emission import find_linear_head, refuse_numbers
from quickstudy.methods.learner import Learner
from quickstudy.methods.options import HeadOptions, make_rule_learner
from quickstudy.models.split import split_head
from quickstudy.rules.combine import Chain
from quickstudy.rules.criteria import check_class_numbers, one_hot
from quickstudy.rules.descend import Constant, Descend
from quickstudy.rules.params import adaptable, trainable
from quickstudy.rules.rescale import Chart, Rescale
from quickstudy.rules.set_emit import SetEmit
from quickstudy.types import Params


class RelationEncoder(nn.Module):
    r"""One code for each class, from the relations of its examples to all examples.

    .. math:: z_c = \frac{1}{K n} \sum_{i: y_i = c} \sum_j g_r\big(g_e(x_i), g_e(x_j)\big)

    with K examples of class c among n.

    Args:
        features: The size of x.
        ways: The classes.
        latent: The size of a code.
    """

    any_layout = True

    def __init__(self, features: int, ways: int, latent: int) -> None:
        super().__init__()
        self.ways = ways
        self.embed = nn.Linear(features, latent)
        pair = 2 * latent
        self.relate = nn.Sequential(
            nn.Linear(pair, pair), nn.ReLU(), nn.Linear(pair, pair), nn.ReLU(), nn.Linear(pair, latent)
        )

    def forward(self, x: Float[Tensor, "n features"], guess: Float[Tensor, "n ways"], y: Int[Tensor, "n"]) -> Params:
        """The codes, as what `SetEmit` adds to the z at which a task starts."""
        del guess
        check_class_numbers(y)
        e = self.embed(x)
        n = len(e)
        pairs = torch.cat([e[:, None].expand(n, n, -1), e[None].expand(n, n, -1)], dim=-1)
        relations = self.relate(pairs).mean(1)  # [n, latent]
        member = one_hot(y, self.ways, x)
        return {"z": member.T @ relations / member.sum(0).clamp(min=1)[:, None]}


class Decoder(Chart):
    """Rows of a linear head from their codes: theta + D z, with D the same for all rows.

    Args:
        head: The head, `weight [ways, features]` and `bias [ways]`, or one of them.
        latent: The size of a code.
    """

    def __init__(self, head: Params, latent: int) -> None:
        super().__init__()
        self.columns = {name: p.shape[1] if p.ndim == 2 else 1 for name, p in head.items()}
        self.ways, self.latent = len(next(iter(head.values()))), latent
        self.decode = nn.Linear(latent, sum(self.columns.values()), bias=False)

    def start(self, params: Params) -> Params:
        return {"z": next(iter(params.values())).new_zeros(self.ways, self.latent)}

    def forward(self, t: Params, params: Params) -> Params:
        rows = self.decode(t["z"]).split(list(self.columns.values()), dim=-1)
        return {
            name: params[name] + row.reshape(params[name].shape) for name, row in zip(self.columns, rows, strict=True)
        }


def leo(
    model: nn.Module,
    *,
    latent: int = 64,
    inner_lr: float = 1.0,
    inner_steps: int = 5,
    finetune_lr: float = 0.01,
    finetune_steps: int = 5,
    head: str | None = None,
    **options: Unpack[HeadOptions],
) -> Learner:
    """LEO (Rusu et al., 2019), deterministic: gradient steps on a code of the task, from which the head is decoded.

    `latent` is the size of a class's code. `inner_steps` at `inner_lr` move the codes, then `finetune_steps` at
    `finetune_lr` the head itself.
    """
    refuse_numbers(options.get("loss", "cross_entropy"), "LEO")
    if latent < 1:
        raise InputError(f"`latent` was {latent}; it is the size of the code of a class, so 1 or more.")
    sizes = find_linear_head(model, head)
    body, last = split_head(model, head)
    rows = adaptable(last, trainable)
    like = next(iter(rows.values()))
    encode = SetEmit(RelationEncoder(sizes.features, sizes.outputs, latent).to(like), ["z"])
    find = Chain([encode, Descend(Constant(inner_lr), inner_steps)])
    decoded = Rescale(find, Decoder(rows, latent).to(like), list(rows))
    rule = Chain([decoded, Descend(Constant(finetune_lr), finetune_steps)])
    return make_rule_learner(last, rule, body=body, **options)
