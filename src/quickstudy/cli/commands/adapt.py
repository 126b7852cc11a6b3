"""`quickstudy adapt`: teach a base by the pictures of a folder, and save what was learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated

from tyro.conf import Positional, arg

from quickstudy.cli.command import Folder, TrustingCommand
from quickstudy.cli.taught import describe_model, tell_taught
from quickstudy.cli.terminal import Console, describe_pairs
from quickstudy.errors import InputError, printable
from quickstudy.storage.files import as_path


@dataclass(frozen=True)
class Adapt(TrustingCommand):
    """Learn the classes of a folder that has a folder of pictures for each: the model then predicts their names."""

    folder: Positional[Annotated[str | None, arg(metavar="FOLDER", help_behavior_hint="")]] = None
    """A folder with one folder of pictures for each class."""
    base: Annotated[str | None, arg(name="from", metavar="BASE", help_behavior_hint="")] = None
    """What is taught: `photos`, `drawings`, `timm:NAME`, `hf:NAME`, `open_clip:NAME/WEIGHTS`, a run, or a learner that
    `pack` saved."""
    out: Folder = None
    """Directory of the model (default: the name of FOLDER with .model, in this directory)."""
    norms: str = "support"
    """`support`: batch norms take the statistics of the examples, so no answer depends on its neighbours; `trained`."""
    episodes: int = 200
    """Validation tasks that are used for calibration, if the data of a run are on this machine; 0: no calibration."""
    report: Folder = None
    """Directory for a page with the pictures that were taught."""

    def run(self, console: Console, overrides: Sequence[str]) -> None:
        """Learn and save."""
        from quickstudy.everyday.classifier import FewShotClassifier
        from quickstudy.everyday.items import read_folder
        from quickstudy.storage.model_files import claim_place

        if self.folder is None or self.base is None:
            raise InputError("Give a folder and what is taught by it: quickstudy adapt FOLDER --from BASE.")
        out = Path(self.out or f"{as_path(self.folder).resolve().name}.model")
        self._refuse_model(out)
        taught = read_folder(self.folder)

        def learn(trust: bool) -> FewShotClassifier:
            classifier = FewShotClassifier(self.base, norms=self.norms, episodes=self.episodes, trust=trust)
            with console.progress("reading") as progress:
                return classifier.fit(taught.items, taught.labels, progress=progress)

        classifier = self.with_trust(console, learn)
        classifier.notes_ += taught.notes
        with claim_place(out):  # another command may have saved a model there meanwhile
            self._refuse_model(out)
            classifier.save(out)
        tell_taught(console, classifier, taught, self.report)
        if console.json:
            console.print_json({"model": str(out), **describe_model(classifier)})
        else:
            counts = describe_pairs(classifier.shots_)
            print(printable(f"{out}: {len(classifier.classes_)} classes ({counts})"))

    def _refuse_model(self, out: Path) -> None:
        from quickstudy.storage.model_files import is_model

        if is_model(out):
            raise InputError(
                f"{out} already holds a model. Give another directory: --out DIRECTORY. Or teach that model more: "
                f"quickstudy update {quote(str(out))} {quote(str(self.folder))}"
            )
