"""Every method by the name that configurations, the command line and the law tests use.

To add a method, write one file and add one line here. `RECIPES` are the methods that apply an adaptation rule to a
model; `METHODS` are these and all others.
"""

from collections.abc import Callable

from quickstudy.methods.amortised_gain import amortised_gain
from quickstudy.methods.baseline_pp import baseline_pp
from quickstudy.methods.bayes_hypermaml import bayes_hypermaml
from quickstudy.methods.cavia import cavia
from quickstudy.methods.emit_ridge import emit_ridge
from quickstudy.methods.feature_transfer import feature_transfer
from quickstudy.methods.gated_emission import gated_emission
from quickstudy.methods.hypermaml import hypermaml
from quickstudy.methods.hypershot import hypershot
from quickstudy.methods.learner import Learner
from quickstudy.methods.leo import leo
from quickstudy.methods.maml import anil, fomaml, maml, meta_sgd
from quickstudy.methods.mamlpp import mamlpp
from quickstudy.methods.matchingnet import matchingnet
from quickstudy.methods.meta_curvature import meta_curvature
from quickstudy.methods.mtnet import mnet, mnet_full, mtnet, mtnet_full, tnet
from quickstudy.methods.nca import nca
from quickstudy.methods.nearest_neighbour import nearest_neighbour
from quickstudy.methods.protonet import protonet
from quickstudy.methods.r2d2 import r2d2
from quickstudy.methods.relationnet import relationnet
from quickstudy.methods.reptile import reptile
from quickstudy.methods.sampled_sign import sampled_sign
from quickstudy.methods.set_emit import emit_maml, emit_mtnet, emit_tnet, set_emit
from quickstudy.methods.sign_maml import sign_maml
from quickstudy.methods.unicorn_maml import unicorn_maml
from quickstudy.methods.warpgrad import warpgrad
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
    "set_emit": set_emit,
    "emit_maml": emit_maml,
    "emit_tnet": emit_tnet,
    "emit_mtnet": emit_mtnet,
    "emit_ridge": emit_ridge,
    "amortised_gain": amortised_gain,
    "gated_emission": gated_emission,
    "sampled_sign": sampled_sign,
    "r2d2": r2d2,
    "meta_curvature": meta_curvature,
    "warpgrad": warpgrad,
    "bayes_hypermaml": bayes_hypermaml,
    "leo": leo,
}

METHODS: dict[str, MethodFactory] = RECIPES | {
    "nearest_neighbour": nearest_neighbour,
    "protonet": protonet,
    "nca": nca,
    "matchingnet": matchingnet,
    "relationnet": relationnet,
    "hypershot": hypershot,
    "feature_transfer": feature_transfer,
    "baseline_pp": baseline_pp,
}
