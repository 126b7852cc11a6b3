"""The methods that the papers compare with, or that grow beside them: one file each, under the same evaluation."""

from quickstudy.baselines.cavia import cavia as cavia
from quickstudy.baselines.nearest import NearestNeighbour, nearest_neighbour

BASELINES = {f.__name__: f for f in (nearest_neighbour,)}

__all__ = ["BASELINES", "NearestNeighbour", "nearest_neighbour"]
