"""Every method by name, as configurations, the command line and the law tests know it.

A new method is one file, and one line here.

`RECIPES` holds the methods that are an adaptation rule on a model; `METHODS` holds these and all others.
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

Build = Callable[..., Learner]

RECIPES: dict[str, Build] = {
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

METHODS: dict[str, Build] = RECIPES | {
    "nearest_neighbour": nearest_neighbour,
    "protonet": protonet,
    "matchingnet": matchingnet,
    "relationnet": relationnet,
    "hypershot": hypershot,
    "feature_transfer": feature_transfer,
    "baseline_pp": baseline_pp,
}
