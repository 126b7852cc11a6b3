"""The optimizer of a training and the generators that it draws from, as a checkpoint holds them.

What is saved beside the learner is named `optimizer.<parameter>.<slot>`, `rng` and `rng.cuda`. Every tensor
is held against what it replaces before any of them is used.
"""

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from quickstudy.errors import InputError, RunError, describe_error
from quickstudy.storage.checkpoints import check_matches
from quickstudy.training.config import TrainSettings
from quickstudy.types import Params


def make_optimizer(config: TrainSettings, params: Params) -> Optimizer:
    """The optimizer that a configuration names."""
    trained = list(params.values()) or [torch.zeros(0)]  # it refuses an empty list; some methods have no parameters
    if config.optimizer == "sgd":
        return SGD(trained, lr=config.meta_lr, momentum=config.momentum)
    return Adam(trained, lr=config.meta_lr, fused=True)


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """The state of an optimizer by name."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{slot}": value
        for index, slots in state.items()
        for slot, value in slots.items()
        if isinstance(value, Tensor)
    }


def generator_tensors(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's generators, from which a user's dropout draws."""
    own = {"rng.cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"rng": torch.get_rng_state()} | own


def check_optimizer(
    config: TrainSettings, params: Params, saved: Params, step: int, what: str
) -> dict[int, dict[str, Tensor]]:
    """The state of an optimizer by parameter, out of a checkpoint. Without it, or with another one's, it is refused.

    A fused optimizer would write past the end of a tensor that is shorter than what it replaces.

    Args:
        config: The training's.
        params: What it trains.
        saved: The tensors of the checkpoint.
        step: The step of the checkpoint.
        what: The checkpoint, in words.
    """
    if "rng" not in saved:
        raise InputError(
            f"{what} has no optimizer state, so training cannot go on from it; a copy of `best` has none. Start a new "
            "run, or evaluate this one."
        )
    wanted = {
        "adam": {"step", "exp_avg", "exp_avg_sq"},
        "sgd": {"momentum_buffer"} if config.momentum else set(),
    }[config.optimizer]
    own = {name: value for name, value in saved.items() if name.startswith("optimizer.")}
    if step and params and {name.split(".", 2)[-1] for name in own} != wanted:
        raise InputError(
            f"{what} has the state of another optimizer than config.yaml names ({config.optimizer}, momentum "
            f"{config.momentum}). Put config.yaml back, or start a new run."
        )
    slots = {
        index: {slot: f"optimizer.{index}.{slot}" for slot in wanted}
        for index in range(len(params))
        if any(name.startswith(f"optimizer.{index}.") for name in own)  # one without a gradient has none
    }
    trained, count = list(params.values()), torch.zeros((), dtype=torch.float32)
    replaced = {
        name: count if slot == "step" else trained[index]
        for index, names in slots.items()
        for slot, name in names.items()
    }
    check_matches(own, replaced, what)
    return {index: {slot: own[name] for slot, name in names.items()} for index, names in slots.items()}


def check_generators(saved: Params, device: torch.device, what: str) -> None:
    """Hold the states of generators in a checkpoint against those of this machine."""
    own = {name: now for name, now in generator_tensors(device).items() if name in saved}
    check_matches({name: saved[name] for name in own}, own, what)


def restore_generators(saved: Params, device: torch.device, what: str) -> None:
    """Let torch's generators go on where they were. That of a GPU is missing if the run began on a CPU."""
    try:
        torch.set_rng_state(saved["rng"])
        if device.type == "cuda" and "rng.cuda" in saved:
            torch.cuda.set_rng_state(saved["rng.cuda"], device)
    except RuntimeError as error:
        raise RunError(f"{what} is damaged: {describe_error(error)}.") from error
