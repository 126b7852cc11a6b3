"""The methods that the papers compare with, or that grow beside them: one file each, under the same evaluation."""

from quickstudy.baselines.baseline_pp import baseline_pp
from quickstudy.baselines.cavia import cavia as cavia
from quickstudy.baselines.feature_transfer import Transfer, feature_transfer
from quickstudy.baselines.hypershot import HyperShot, hypershot
from quickstudy.baselines.mamlpp import mamlpp as mamlpp
from quickstudy.baselines.matchingnet import MatchingNet, matchingnet
from quickstudy.baselines.nearest import NearestNeighbour, nearest_neighbour
from quickstudy.baselines.protonet import ProtoNet, protonet
from quickstudy.baselines.relationnet import RelationNet, relationnet
from quickstudy.baselines.reptile import reptile as reptile
from quickstudy.baselines.sign_maml import sign_maml as sign_maml
from quickstudy.baselines.unicorn import unicorn_maml as unicorn_maml

LEARNERS = (
    nearest_neighbour,
    protonet,
    matchingnet,
    relationnet,
    hypershot,
    feature_transfer,
    baseline_pp,
)
BASELINES = {f.__name__: f for f in LEARNERS}
"""Those that are no adaptation rule, by name; rules enter `methods.RECIPES`."""

__all__ = [
    "BASELINES",
    "HyperShot",
    "MatchingNet",
    "NearestNeighbour",
    "ProtoNet",
    "RelationNet",
    "Transfer",
    "baseline_pp",
    "feature_transfer",
    "hypershot",
    "matchingnet",
    "nearest_neighbour",
    "protonet",
    "relationnet",
]
