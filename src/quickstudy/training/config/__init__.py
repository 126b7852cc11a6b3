"""A run as data: `schema` says what can be set, `load` reads it, `build` makes tasks, model and method of it."""

from quickstudy.training.config.build import Setup, build, make, tasks_of
from quickstudy.training.config.load import load, parse, read, shipped
from quickstudy.training.config.schema import Compute, Config, Evaluate, Part, Train

__all__ = [
    "Compute",
    "Config",
    "Evaluate",
    "Part",
    "Setup",
    "Train",
    "build",
    "load",
    "make",
    "parse",
    "read",
    "shipped",
    "tasks_of",
]
