"""Every method by the name that configurations, the command line and the law tests use.

To add a method, write one file and add one line here. `RECIPES` are the methods that apply an adaptation rule to a
model; `METHODS` are these and all others.
"""

from collections.abc import Callable

from quickstudy.methods.baseline_pp import baseline_pp
from quickstudy.methods.cavia import cavia
from quickstudy.methods.feature_transfer import feature_transfer
from quickstudy.methods.hypermaml import hypermaml
from quickstudy.methods.hypershot import hypershot
from quickstudy.methods.learner import Learner
from quickstudy.methods.maml import anil, fomaml, maml, meta_sgd
from quickstudy.methods.mamlpp import mamlpp
from quickstudy.methods.matchingnet import matchingnet
from quickstudy.methods.mtnet import mnet, mnet_full, mtnet, mtnet_full, tnet
from quickstudy.methods.nearest_neighbour import nearest_neighbour
from quickstudy.methods.protonet import protonet
from quickstudy.methods.relationnet import relationnet
from quickstudy.methods.reptile import reptile
from quickstudy.methods.sign_maml import sign_maml
from quickstudy.methods.unicorn_maml import unicorn_maml
from quickstudy.methods.wormhole import wormhole

MethodFactory = Callable[..., Learner]

RECIPES: dict[str, MethodFactory] = {
    "maml": maml,
    "fomaml": fomaml,
    "anil": anil,
    "meta_sgd": meta_sgd,
    "tnet": tnet,
    "mtnet": mtnet,
    "mtnet_full": mtnet_full,
    "mnet": mnet,
    "mnet_full": mnet_full,
    "wormhole": wormhole,
    "hypermaml": hypermaml,
    "cavia": cavia,
    "mamlpp": mamlpp,
    "reptile": reptile,
    "sign_maml": sign_maml,
    "unicorn_maml": unicorn_maml,
}

METHODS: dict[str, MethodFactory] = RECIPES | {
    "nearest_neighbour": nearest_neighbour,
    "protonet": protonet,
    "matchingnet": matchingnet,
    "relationnet": relationnet,
    "hypershot": hypershot,
    "feature_transfer": feature_transfer,
    "baseline_pp": baseline_pp,
}
