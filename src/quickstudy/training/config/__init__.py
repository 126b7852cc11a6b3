"""A run as data: `schema` says what can be set, `load_config` reads it, `build` makes tasks, model and method of it."""

from quickstudy.training.config.blueprint import Blueprint, EncoderName, Interface, read_blueprint, read_interface
from quickstudy.training.config.build import Setup, build, build_learner, build_part, build_tasks, plan_learner
from quickstudy.training.config.load import complete_run, load_config, parse_config, read_config, shipped_configs
from quickstudy.training.config.schema import ComputeSettings, Config, EvaluateSettings, Part, TrainSettings
from quickstudy.training.config.trust import UntrustedCodeError, check_trust

__all__ = [
    "Blueprint",
    "ComputeSettings",
    "Config",
    "EncoderName",
    "EvaluateSettings",
    "Interface",
    "Part",
    "Setup",
    "TrainSettings",
    "UntrustedCodeError",
    "build",
    "build_learner",
    "build_part",
    "build_tasks",
    "check_trust",
    "complete_run",
    "load_config",
    "parse_config",
    "plan_learner",
    "read_blueprint",
    "read_config",
    "read_interface",
    "shipped_configs",
]
