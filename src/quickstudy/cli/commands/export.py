"""`quickstudy export`: a taught model, or a learner with its learning, as one file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from quickstudy.cli.command import Count, Folder, TrustingCommand
from quickstudy.cli.terminal import Console
from quickstudy.errors import InputError, printable, suggest_nearest

KINDS = {"onnx": ".onnx", "onnx-learner": "-learner.onnx", "torch": ".pt2"}
"""What a file is, and how its name ends by default."""
MOST_WAYS = 1000
"""The classes of a file that learns, at most: it holds room for all of them."""


@dataclass(frozen=True)
class Export(TrustingCommand):
    """Export a model that `adapt` has saved, or a learner of `pack` or `train`, as one file, compared with PyTorch."""

    model: Positional[Annotated[str | None, arg(metavar="MODEL", help_behavior_hint="")]] = None
    """Directory of the model, of a learner, or of a run."""
    to: Annotated[str, arg(metavar="KIND", help_behavior_hint="")] = "onnx"
    """`onnx`; `onnx-learner`, which learns from a support set; `torch`, for torch.export (default: onnx)."""
    inputs: Annotated[Positional[tuple[str, ...]], arg(metavar="PICTURES ...", help_behavior_hint="")] = ()
    """Your own pictures, on which the file is compared with PyTorch: files, folders or patterns."""
    out: Folder = None
    """The file (default: beside the model, by its name)."""
    ways: Count = None
    """Of a file that learns: the largest number of classes (default: those of the model)."""

    def run(self, console: Console, overrides: Sequence[str]) -> None:
        """Export, and say how far the file is from PyTorch."""
        from quickstudy.cli.taught import find_inputs
        from quickstudy.everyday.bases import LearnerBase
        from quickstudy.everyday.export import export_learning
        from quickstudy.everyday.opening import open as open_model
        from quickstudy.methods.learner import Learner

        if self.model is None:
            raise InputError("Give the directory of a model: quickstudy export MODEL --to onnx.")
        if self.to not in KINDS:
            raise InputError(f"There is no kind {self.to!r} of file. {suggest_nearest(self.to, KINDS)}")
        if self.ways is not None and self.to != "onnx-learner":
            raise InputError("`--ways` goes with --to onnx-learner: a taught model has its classes.")
        place = Path(self.model).resolve()
        if not place.name:
            raise InputError(f"{place} is no directory of a model.")
        path = Path(self.out) if self.out else Path(os.path.relpath(place.with_name(place.stem + KINDS[self.to])))
        ending = Path(f"model{KINDS[self.to]}").suffix
        if path.suffix != ending:
            raise InputError(
                f"`--to {self.to}` writes a file that ends in {ending}, and --out is {path}. Give another name, or "
                "another --to."
            )
        if self.ways is not None and not 2 <= self.ways <= MOST_WAYS:
            raise InputError(f"`--ways` was {self.ways}; give from 2 to {MOST_WAYS} classes.")
        opened = self.with_trust(console, partial(open_model, self.model))
        inputs = find_inputs(self.inputs, "pictures") if self.inputs else None
        learns = self.to == "onnx-learner"
        if not isinstance(opened, Learner):
            worst = opened.export(path, inputs, learns=learns, ways=self.ways)
        elif learns:
            worst = export_learning(LearnerBase(opened, "the learner"), path, inputs, ways=self.ways)
        else:
            raise InputError(
                "A learner has not been taught. Teach it first (quickstudy adapt FOLDER --from LEARNER) and export the "
                "model; or export it with its learning (--to onnx-learner), if it takes no gradient steps."
            )
        size = path.stat().st_size
        if console.json:
            console.print_json({"file": str(path), "bytes": size, "difference": worst})
            return
        console.note(f"{size} bytes; the outputs differ from PyTorch's by {worst:.1g} of the largest")
        print(printable(path))
