"""What can be set about how tasks are run."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from quickstudy.engine.precision import AUTOCAST_KINDS
from quickstudy.errors import InputError, is_count

BACKENDS = ("auto", "vmap", "loop")


@dataclass(frozen=True)
class EngineSettings:
    """How the tasks of a batch are run; one object, which a configuration holds and an engine reads.

    Args:
        backend: "vmap" (all tasks of a chunk in one batched pass), "loop" (one task after the other, a backward each)
            or "auto", which stands for one of the two: an engine chooses when it first sees a model and its inputs.
        chunk: The largest number of tasks that run at once under `vmap`; memory grows with it. None: as many as fit
            the memory.
        compile: Whether torch.compile compiles the meta-gradient, which takes seconds to minutes before the first step.
            "auto": a long training compiles in a second process and goes over to what is faster; else it is False.
            Under `vmap` only, and all of it as one function: compiled step by step, torch 2.13 gets the second
            derivative of convolutions with pooling wrong (by up to a third).
        recompute: Whether the backward pass computes the inner steps a second time, so that memory does not grow
            with their number. On the loop only.
        autocast: "bf16" or "fp16": products in half precision (see `precision`). None: no half precision.
    """

    backend: str = "auto"
    chunk: int | None = None
    compile: bool | Literal["auto"] = False
    recompute: bool = False
    autocast: str | None = None

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Refuse unknown values and settings that exclude each other."""
        if self.backend not in BACKENDS:
            raise InputError(f"There is no backend {self.backend!r}. Backends are: {', '.join(BACKENDS)}.")
        if self.chunk is not None and not is_count(self.chunk):
            raise InputError(f"`chunk` was {self.chunk!r}; it counts tasks, so 1 or more, or None for all at once.")
        if self.compile not in (False, True, "auto") or self.recompute not in (False, True):
            both = f"`compile` was {self.compile!r} and `recompute` {self.recompute!r}"
            raise InputError(f"{both}: give True or False; `compile` also takes 'auto'.")
        if self.autocast not in (None, *AUTOCAST_KINDS):
            raise InputError(
                f"There is no autocast {self.autocast!r}. Give one of {', '.join(AUTOCAST_KINDS)}, or None."
            )
        if self.recompute and self.backend == "vmap":
            raise InputError('`recompute` works on one task at a time: use it with backend "loop" or "auto".')
        together = {"recompute": self.recompute, "autocast": self.autocast, "loop": self.backend == "loop"}
        for other, given in together.items():
            if self.compile is True and given:
                raise InputError(f"`compile` and `{other}` do not work together. Choose one of them.")
        if self.recompute and self.autocast:  # a step that is computed again would not be rounded
            raise InputError("`recompute` and `autocast` do not work together. Choose one of them.")

    def replace(self, **changes: Any) -> "EngineSettings":
        """The same settings but for these changes."""
        return EngineSettings(**{field.name: getattr(self, field.name) for field in fields(EngineSettings)} | changes)
