"""A run as data: `schema` says what can be set, `load_config` reads it, `build` makes tasks, model and method of it."""

from quickstudy.training.config.build import Setup, build, build_part, build_tasks
from quickstudy.training.config.load import load_config, parse_config, read_config, shipped_configs
from quickstudy.training.config.schema import ComputeSettings, Config, EvaluateSettings, Part, TrainSettings

__all__ = [
    "ComputeSettings",
    "Config",
    "EvaluateSettings",
    "Part",
    "Setup",
    "TrainSettings",
    "build",
    "build_part",
    "build_tasks",
    "load_config",
    "parse_config",
    "read_config",
    "shipped_configs",
]
