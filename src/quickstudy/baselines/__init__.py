"""Learners without an adaptation rule, under the same evaluation: one file each."""

from quickstudy.baselines.nearest import NearestNeighbour, nearest_neighbour

BASELINES = {f.__name__: f for f in (nearest_neighbour,)}

__all__ = ["BASELINES", "NearestNeighbour", "nearest_neighbour"]
