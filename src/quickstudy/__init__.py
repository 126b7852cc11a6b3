"""quickstudy: learning new tasks from a handful of examples.

An adaptation rule is a map from parameters to parameters, given one task; rules compose. Start from a recipe
(`quickstudy.mtnet(model, inner_lr=0.4)`), or put rules together yourself and hand them to a `RuleLearner`.

Names are imported when they are first used (PEP 562): `import quickstudy` alone does not import torch.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quickstudy.engine.engine import Engine
    from quickstudy.errors import InputError, RunError
    from quickstudy.evaluation.evaluate import compare, evaluate
    from quickstudy.everyday.choose import choose
    from quickstudy.everyday.classifier import FewShotClassifier
    from quickstudy.everyday.opening import open  # noqa: A004, F401  # for type checkers
    from quickstudy.everyday.regressor import FewShotRegressor
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
    from quickstudy.methods.registry import METHODS, RECIPES
    from quickstudy.methods.relationnet import relationnet
    from quickstudy.methods.reptile import reptile
    from quickstudy.methods.rule_learner import RuleLearner
    from quickstudy.methods.sampled_sign import sampled_sign
    from quickstudy.methods.set_emit import emit_maml, emit_mtnet, emit_tnet, set_emit
    from quickstudy.methods.sign_maml import sign_maml
    from quickstudy.methods.unicorn_maml import unicorn_maml
    from quickstudy.methods.warpgrad import warpgrad
    from quickstudy.methods.wormhole import wormhole
    from quickstudy.models.cells import MetricConv2d, MetricLinear, with_metric
    from quickstudy.models.encoders import open_encoder
    from quickstudy.models.hypernet import ClassHypernet
    from quickstudy.models.lora import LoRA
    from quickstudy.rules.base import Rate, Rule
    from quickstudy.rules.combine import Chain, Mix, MixLosses
    from quickstudy.rules.descend import ByName, Constant, Descend, Learned
    from quickstudy.rules.emit import Emit
    from quickstudy.rules.mask import Masked
    from quickstudy.rules.objective import Objective
    from quickstudy.rules.per_step import PerStep
    from quickstudy.rules.rescale import (
        Anneal,
        Chart,
        Coadapt,
        Diagonal,
        GainAndShift,
        LowRank,
        PerLayer,
        Rescale,
        Scalar,
        Tanh,
    )
    from quickstudy.storage.run import Run
    from quickstudy.tasks import Episodes, TaskFamily
    from quickstudy.training.restore import load
    from quickstudy.training.train import train
    from quickstudy.types import Examples, Outcome, Params, Task

__all__ = [
    "METHODS",
    "RECIPES",
    "Anneal",
    "ByName",
    "Chain",
    "Chart",
    "ClassHypernet",
    "Coadapt",
    "Constant",
    "Descend",
    "Diagonal",
    "Emit",
    "Engine",
    "Episodes",
    "Examples",
    "FewShotClassifier",
    "FewShotRegressor",
    "GainAndShift",
    "InputError",
    "Learned",
    "Learner",
    "LoRA",
    "LowRank",
    "Masked",
    "MetricConv2d",
    "MetricLinear",
    "Mix",
    "MixLosses",
    "Objective",
    "Outcome",
    "Params",
    "PerLayer",
    "PerStep",
    "Rate",
    "Rescale",
    "Rule",
    "RuleLearner",
    "Run",
    "RunError",
    "Scalar",
    "Tanh",
    "Task",
    "TaskFamily",
    "amortised_gain",
    "anil",
    "baseline_pp",
    "bayes_hypermaml",
    "cavia",
    "choose",
    "compare",
    "emit_maml",
    "emit_mtnet",
    "emit_ridge",
    "emit_tnet",
    "evaluate",
    "feature_transfer",
    "fomaml",
    "gated_emission",
    "hypermaml",
    "hypershot",
    "leo",
    "load",
    "maml",
    "mamlpp",
    "matchingnet",
    "meta_curvature",
    "meta_sgd",
    "mnet",
    "mnet_full",
    "mtnet",
    "mtnet_full",
    "nca",
    "nearest_neighbour",
    "open_encoder",
    "protonet",
    "r2d2",
    "relationnet",
    "reptile",
    "sampled_sign",
    "set_emit",
    "sign_maml",
    "tnet",
    "train",
    "unicorn_maml",
    "warpgrad",
    "with_metric",
    "wormhole",
]

_NAMES = {
    "engine.engine": "Engine",
    "errors": "InputError RunError",
    "evaluation.evaluate": "compare evaluate",
    "everyday.choose": "choose",
    "everyday.classifier": "FewShotClassifier",
    "everyday.opening": "open",
    "everyday.regressor": "FewShotRegressor",
    "methods.amortised_gain": "amortised_gain",
    "methods.baseline_pp": "baseline_pp",
    "methods.bayes_hypermaml": "bayes_hypermaml",
    "methods.cavia": "cavia",
    "methods.emit_ridge": "emit_ridge",
    "methods.feature_transfer": "feature_transfer",
    "methods.gated_emission": "gated_emission",
    "methods.hypermaml": "hypermaml",
    "methods.hypershot": "hypershot",
    "methods.learner": "Learner",
    "methods.leo": "leo",
    "methods.maml": "anil fomaml maml meta_sgd",
    "methods.mamlpp": "mamlpp",
    "methods.matchingnet": "matchingnet",
    "methods.meta_curvature": "meta_curvature",
    "methods.mtnet": "mnet mnet_full mtnet mtnet_full tnet",
    "methods.nca": "nca",
    "methods.nearest_neighbour": "nearest_neighbour",
    "methods.protonet": "protonet",
    "methods.r2d2": "r2d2",
    "methods.registry": "METHODS RECIPES",
    "methods.relationnet": "relationnet",
    "methods.reptile": "reptile",
    "methods.rule_learner": "RuleLearner",
    "methods.sampled_sign": "sampled_sign",
    "methods.set_emit": "emit_maml emit_mtnet emit_tnet set_emit",
    "methods.sign_maml": "sign_maml",
    "methods.unicorn_maml": "unicorn_maml",
    "methods.warpgrad": "warpgrad",
    "methods.wormhole": "wormhole",
    "models.cells": "MetricConv2d MetricLinear with_metric",
    "models.encoders": "open_encoder",
    "models.hypernet": "ClassHypernet",
    "models.lora": "LoRA",
    "rules.base": "Rate Rule",
    "rules.combine": "Chain Mix MixLosses",
    "rules.descend": "ByName Constant Descend Learned",
    "rules.emit": "Emit",
    "rules.mask": "Masked",
    "rules.objective": "Objective",
    "rules.per_step": "PerStep",
    "rules.rescale": "Anneal Chart Coadapt Diagonal GainAndShift LowRank PerLayer Rescale Scalar Tanh",
    "storage.run": "Run",
    "tasks": "Episodes TaskFamily",
    "training.restore": "load",
    "training.train": "train",
    "types": "Examples Outcome Params Task",
}
"""The public names by the module that defines them. Type checkers and editors read the imports above instead.

`open` is not in `__all__`: a star import must not hide Python's own.
"""

_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}

__version__: str  # read at its first use, from what was installed


def _import_name(name: str) -> Any:
    """A public name, or a room of the package (`quickstudy.tasks`), imported at its first use."""
    if name == "__version__":
        return _installed_version()
    try:
        if name in _MODULES:
            value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
            globals()[name] = value  # found without this function from now on
            return value
        if not name.startswith("_"):
            return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":  # the room is there, and a library that it needs is missing
            raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _installed_version() -> str:
    """The version of the package; without one where it runs from a folder that was never installed."""
    try:
        return metadata.version("quickstudy")
    except metadata.PackageNotFoundError:
        return "not installed"


if not TYPE_CHECKING:  # type checkers read the imports above, and so find a misspelled name
    __getattr__ = _import_name


def __dir__() -> list[str]:
    """What the module holds by now, and every public name."""
    return sorted({*globals(), *_MODULES})
