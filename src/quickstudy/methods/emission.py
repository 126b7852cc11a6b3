"""What the methods with a hypernetwork share: what it can read of a support set, given a model, and what it emits."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import fx, nn

from quickstudy.engine.twin import logits_of
from quickstudy.errors import InputError
from quickstudy.methods.options import Loss
from quickstudy.models.cells import is_plain
from quickstudy.models.hypernet import ClassHypernet
from quickstudy.models.set_hypernet import SetHypernet
from quickstudy.models.split import last_linear, split_head
from quickstudy.models.trace import trace_calls
from quickstudy.rules.base import Rule
from quickstudy.rules.combine import Chain
from quickstudy.rules.criteria import compares_classes, describe_loss
from quickstudy.rules.on_features import OnFeatures
from quickstudy.rules.set_emit import SetEmit
from quickstudy.types import Params


def refuse_numbers(loss: Loss, name: str) -> None:
    """Refuse the loss of a regression, for a method that reads classes."""
    if compares_classes(loss) is False:
        raise InputError(
            f"{name} writes one row of the head for each class, and the loss {describe_loss(loss)} compares no "
            "classes. Use tasks with classes, or a method that takes numbers, such as set_emit or emit_mtnet."
        )


@dataclass(frozen=True)
class LinearHead:
    """The linear head of a model, and the inputs of the model where they can be read as they are.

    Args:
        names: The names of the head's parameters in the model.
        features: The size of the head's input.
        outputs: The size of its output.
        flat_inputs: The size of the model's input, if it is one vector that a linear layer reads; else None.
    """

    names: tuple[str, ...]
    features: int
    outputs: int
    flat_inputs: int | None

    @property
    def inputs(self) -> int:
        """The size of what a summary of the whole support set reads: the inputs, or else the features."""
        return self.features if self.flat_inputs is None else self.flat_inputs

    def open_to(self, rule: Rule) -> Rule:
        """The rule with the features in the place of the model's inputs."""
        return OnFeatures(rule, self.names, self.features)

    def open_to_inputs(self, rule: Rule) -> Rule:
        """The rule with what `inputs` counts in the place of the model's inputs."""
        return self.open_to(rule) if self.flat_inputs is None else rule


def find_linear_head(model: nn.Module, head: str | None = None) -> LinearHead:
    """The linear head of a model; an error if it is not linear, or not last."""
    split_head(model, head)
    name = last_linear(model).removesuffix("*").removesuffix(".") if head is None else head
    linear = model.get_submodule(name)
    if not isinstance(linear, nn.Linear) or not is_plain(linear):
        raise InputError(
            f"This method reads and writes a linear head, W x + b, and {name!r} is a {type(linear).__name__}. "
            "Name the model's last layer as `head`, and make it a torch.nn.Linear with a weight of its own."
        )
    names = tuple(f"{name}.{leaf}".lstrip(".") for leaf, _ in linear.named_parameters(recurse=False))
    return LinearHead(names, linear.in_features, linear.out_features, _flat_inputs(model, linear.out_features))


def _flat_inputs(model: nn.Module, outputs: int) -> int | None:
    """The size of an input, if it is one tensor and one vector an example, which a linear layer reads; else None.

    The layer may come after a `Flatten`. A linear layer takes sequences too, and the model alone does not say what it
    is for. So it is called with two vectors: what pools or flattens a sequence fails, or has outputs of another shape.
    """
    if isinstance(model, nn.Linear):
        return model.in_features
    graph = trace_calls(model)
    modules = dict(model.named_modules())
    if graph is None or [node.op for node in graph.nodes].count("placeholder") != 1:
        return None
    for node in graph.nodes:
        if node.op == "call_module" and not isinstance(modules[str(node.target)], nn.Flatten | nn.Identity):
            first, source = modules[str(node.target)], node.args[0]
            while isinstance(source, fx.Node) and source.op == "call_module":
                source = source.args[0]
            read = isinstance(first, nn.Linear) and isinstance(source, fx.Node) and source.op == "placeholder"
            return first.in_features if read and _takes_vectors(model, first, outputs) else None
    return None


def _takes_vectors(model: nn.Module, first: nn.Linear, outputs: int) -> bool:
    """Whether two vectors of the size that the first layer reads have two rows of outputs."""
    two = first.weight.detach().new_ones(2, first.in_features)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # and on a copy: the user's model stays as it is
            return tuple(logits_of(deepcopy(model).eval()(two)).shape) == (2, outputs)
    except Exception:  # the user's forward may fail in any way on what is no input of it
        return False


def choose_summary(summary: str | None, loss: Loss) -> str:
    """What an emission reads and writes, "set" or "class": by the loss, where it is not given."""
    if summary not in (None, "set", "class"):
        raise InputError(f"`summary` is 'set' or 'class', not {summary!r}.")
    if summary == "class" and compares_classes(loss) is False:
        raise InputError(
            f"`summary` is 'class', and the loss {describe_loss(loss)} compares no classes. Use summary='set'."
        )
    return summary or ("class" if compares_classes(loss) else "set")


def emit_then(
    rules: Sequence[Rule],
    model: nn.Module,
    params: Params,
    *,
    summary: str,
    width: int = 64,
    enhance: bool = True,
    head: str | None = None,
) -> Rule:
    """An emission, and then other rules.

    Args:
        rules: What follows; none is the emission alone.
        model: The whole model, whose head is read.
        params: The parameters that adapt.
        summary: "set": one summary of the support set gives the update of all `params`. "class": that of a class gives
            its row of the head.
        width: The hidden size of the hypernetwork.
        enhance: Whether it reads the guesses.
        head: The name of the linear head.
    """
    read = find_linear_head(model, head)
    if summary == "class":
        rows = {name: p for name, p in params.items() if name in read.names}
        if not rows:
            raise InputError(
                f"The emission writes the rows of the head, {', '.join(read.names)}, and none of these adapts. Widen "
                "`adapts`, or use summary='set'."
            )
        emit = SetEmit(ClassHypernet(rows, width=width, enhance=enhance), list(rows))
        return read.open_to(Chain([emit, *rules]))
    emit = SetEmit(SetHypernet(params, read.inputs, read.outputs, width=width, enhance=enhance), list(params))
    return read.open_to_inputs(Chain([emit, *rules]))
