"""`quickstudy update`: teach a model more examples, or new classes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from quickstudy.cli.command import Folder, TrustingCommand
from quickstudy.cli.taught import (
    count_distinct_examples,
    describe_model,
    name_by_known_classes,
    name_classes,
    open_classifier,
    tell_taught,
)
from quickstudy.cli.terminal import Console
from quickstudy.errors import InputError, printable


@dataclass(frozen=True)
class Update(TrustingCommand):
    """Teach a model more pictures; folders with new names are new classes. The same as `adapt` on all of them."""

    model: Positional[Annotated[str | None, arg(metavar="MODEL", help_behavior_hint="")]] = None
    """Directory of the model. It is replaced when everything else is done, and not before."""
    folder: Positional[Annotated[str | None, arg(metavar="FOLDER", help_behavior_hint="")]] = None
    """A folder with one folder of pictures for each class."""
    out: Folder = None
    """Directory for the new model, if the old one is to stay."""
    report: Folder = None
    """Directory for a page with the pictures that were taught."""

    def run(self, console: Console, overrides: Sequence[str]) -> None:
        """Read the model, teach it, and put it back."""
        from quickstudy.everyday.items import read_folder
        from quickstudy.storage.model_files import is_model, model_lock

        if self.model is None or self.folder is None:
            raise InputError("Give a model and a folder with more examples: quickstudy update MODEL FOLDER.")
        path, out = Path(self.model), Path(self.out or self.model)
        if is_model(out) and out.resolve() != path.resolve():
            raise InputError(
                f"{out} holds another model, which would be lost. Give another directory: --out DIRECTORY."
            )
        taught = read_folder(self.folder)
        if not is_model(path):
            open_classifier(self.model, self.trust_code)  # says what is wrong
        # In place, two updates at once would lose one of them; elsewhere the old model need not be writable.
        with model_lock(path) if out.resolve() == path.resolve() else nullcontext():
            classifier = self.with_trust(console, partial(open_classifier, self.model))
            before, distinct, notes = classifier.shots_, count_distinct_examples(classifier), [*classifier.notes_]
            labels = name_by_known_classes(taught.labels, classifier.classes_)
            with console.progress("reading") as progress:
                classifier.update(taught.items, labels, progress=progress)
            classifier.save(out)
        again = len(taught.items) - (count_distinct_examples(classifier) - distinct)
        if again:
            console.note(f"{again} of the {len(taught.items)} new pictures are there already, and are counted again")
        tell_taught(console, classifier, taught, self.report, notes)
        if console.json:
            console.print_json({"model": str(out), **describe_model(classifier)})
            return
        names = name_classes(classifier.shots_)
        more = [
            f"{names[name]} {before.get(name, 0)} + {count - before.get(name, 0)}"
            for name, count in classifier.shots_.items()
            if count > before.get(name, 0)
        ]
        print(printable(f"{out}: {len(classifier.classes_)} classes ({', '.join(more)})"))
