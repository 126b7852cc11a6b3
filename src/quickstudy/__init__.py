"""quickstudy: learning new tasks from a handful of examples.

An adaptation rule is a map from parameters to parameters, given one task; rules compose. Start from a recipe
(`quickstudy.mtnet(model, inner_lr=0.4)`), or put rules together yourself and hand them to a `RuleLearner`.
"""

from quickstudy.engine.engine import Engine
from quickstudy.errors import InputError, RunError
from quickstudy.evaluation.evaluate import compare, evaluate
from quickstudy.methods.hypermaml import hypermaml
from quickstudy.methods.learner import Learner
from quickstudy.methods.maml import anil, fomaml, maml, meta_sgd
from quickstudy.methods.mtnet import mnet, mnet_full, mtnet, mtnet_full, tnet
from quickstudy.methods.registry import RECIPES
from quickstudy.methods.rule_learner import RuleLearner
from quickstudy.methods.wormhole import wormhole
from quickstudy.models.cells import MetricConv2d, MetricLinear, with_metric
from quickstudy.models.hypernet import ClassHypernet
from quickstudy.rules.base import Rate, Rule
from quickstudy.rules.combine import Chain, Mix, MixLosses
from quickstudy.rules.descend import ByName, Constant, Descend, Learned
from quickstudy.rules.emit import Emit
from quickstudy.rules.mask import Masked
from quickstudy.rules.objective import Objective
from quickstudy.rules.per_step import PerStep
from quickstudy.rules.rescale import Chart, Coadapt, Diagonal, LowRank, PerLayer, Rescale, Scalar, Tanh
from quickstudy.storage.run import Run
from quickstudy.tasks import Episodes, TaskFamily
from quickstudy.training.restore import load
from quickstudy.training.train import train
from quickstudy.types import Examples, Outcome, Params, Task

__all__ = [
    "RECIPES",
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
    "InputError",
    "Learned",
    "Learner",
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
    "anil",
    "compare",
    "evaluate",
    "fomaml",
    "hypermaml",
    "load",
    "maml",
    "meta_sgd",
    "mnet",
    "mnet_full",
    "mtnet",
    "mtnet_full",
    "tnet",
    "train",
    "with_metric",
    "wormhole",
]
