"""`quickstudy predict`: names for new pictures."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from quickstudy.cli.command import Flag, Folder, TrustingCommand
from quickstudy.cli.taught import find_inputs, open_classifier, write_page
from quickstudy.cli.terminal import Console
from quickstudy.errors import InputError, RunError, printable

if TYPE_CHECKING:
    from torch import Tensor

    from quickstudy.everyday.classifier import FewShotClassifier

AT_ONCE = 64
"""Pictures that are decoded together; progress is shown after each of these."""
THROUGHPUT_FROM = 100
"""Number of inputs from which on the throughput is said."""


@dataclass(frozen=True)
class Predict(TrustingCommand):
    """Predict the classes of pictures, by a model that `adapt` has saved."""

    model: Positional[Annotated[str | None, arg(metavar="MODEL", help_behavior_hint="")]] = None
    """Directory of the model."""
    inputs: Annotated[Positional[tuple[str, ...]], arg(metavar="PICTURES ...", help_behavior_hint="")] = ()
    """Files, folders or patterns such as 'new/*.jpg'; `-` reads a list of them from standard input."""
    csv: Flag = False
    """Print CSV with a header."""
    sets: Annotated[float | None, arg(metavar="COVERAGE", help_behavior_hint="")] = None
    """Also print the classes among which the true one is with this probability, such as .9."""
    unsure: Flag = False
    """Answer ? where no class has a probability of one half."""
    report: Folder = None
    """Directory for a page with the pictures and what was predicted."""

    def run(self, console: Console, overrides: Sequence[str]) -> None:
        """Predict, and print a row for each input. What cannot be read is named at the end."""
        if self.model is None or not self.inputs:
            raise InputError("Give a model and what to predict: quickstudy predict MODEL 'new/*.jpg'.")
        if self.csv and console.json:
            raise InputError("Give --csv or --json, not both.")
        classifier = self.with_trust(console, partial(open_classifier, self.model))
        if self.sets is not None:
            classifier.set_threshold(self.sets)
        if self.unsure:
            classifier.known_calibration("unsure")
        items = find_inputs(self.inputs, classifier._base.takes)
        if not items:
            raise InputError("There is nothing to predict: the list is empty.")
        begun = perf_counter()
        with console.progress("predicting") as progress:
            read, outputs, faults = _collect(classifier, items, progress)
        took = perf_counter() - begun
        if read:
            rows = self._answer(classifier, read, outputs)
            self._print(console, rows)
            if self.report is not None:
                shown = [(row["input"], row["label"], row["probability"]) for row in rows]
                write_page(console, Path(self.report), classifier, [], shown)
        if len(read) >= THROUGHPUT_FROM:
            console.note(f"{len(read)} in {took:.1f} s, {len(read) / took:.0f} a second")
        if faults:
            if console.json:
                raise RunError(f"{len(faults)} of {len(items)} could not be read: {'; '.join(faults)}")
            for fault in faults[1:]:
                console.note(fault, always=True)
            more = f" (and {len(faults) - 1} more, above)" if len(faults) > 1 else ""
            raise RunError(f"{len(faults)} of {len(items)} could not be read: {faults[0]}{more}")

    def _answer(self, classifier: FewShotClassifier, read: list[Any], outputs: Tensor) -> list[dict[str, Any]]:
        names = classifier.names_of(outputs, unsure="?" if self.unsure else None).tolist()
        most = classifier.probabilities_of(outputs).amax(-1).tolist()
        sets = classifier.sets_of(outputs, self.sets) if self.sets is not None else [None] * len(read)
        return [
            {"input": str(item), "label": name, "probability": p} | ({} if own is None else {"set": own})
            for item, name, p, own in zip(read, names, most, sets, strict=True)
        ]

    def _print(self, console: Console, rows: list[dict[str, Any]]) -> None:
        if console.json:
            for row in rows:
                console.print_json(row)
            return
        table = csv.writer(sys.stdout, lineterminator="\n")
        if self.csv:
            table.writerow(rows[0])
        for row in rows:
            cells = [row["input"], row["label"], f"{row['probability']:.3f}"]
            if "set" in row:
                cells.append("|".join(map(str, row["set"])))
            if self.csv:
                table.writerow(cells)
            else:
                print("\t".join(map(printable, cells)))


def _collect(classifier: FewShotClassifier, items: list[Any], progress: Any) -> tuple[list[Any], Tensor, list[str]]:
    """The inputs that can be read, the outputs for them, and what is wrong with the others."""
    import torch

    from quickstudy.models.encoders import ItemError

    read: list[Any] = []
    outputs: list[Tensor] = []
    faults: list[str] = []
    for start in range(0, len(items), AT_ONCE):
        some = items[start : start + AT_ONCE]
        try:
            outputs.append(classifier.outputs(some))
            read += some
        except InputError:
            for item in some:
                try:
                    outputs.append(classifier.outputs([item]))
                    read.append(item)
                except ItemError as error:
                    faults.append(error.reason)
                except InputError as error:
                    faults.append(str(error))
        progress(min(start + AT_ONCE, len(items)), len(items))
    return read, torch.cat(outputs) if outputs else torch.zeros(0), faults
