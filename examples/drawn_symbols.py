"""How well a learner tells drawn symbols apart that it was not trained on, with one or a few drawings of each.

    python examples/drawn_symbols.py letters/                            # the learner that comes with the package
    python examples/drawn_symbols.py letters/ --classes 36 --learner my.learner
    python examples/drawn_symbols.py --learner runs/lake                 # Lake's trials: 20 letters of one alphabet

The folder has one folder of pictures for each symbol, dark ink on white paper. Without a folder the symbols are those
of Omniglot's evaluation alphabets: they say something of a learner that was trained on the background alphabets alone.
"""

import argparse
from dataclasses import replace

import numpy as np

import quickstudy as qs
from quickstudy.evaluation.metrics import METRICS
from quickstudy.everyday.bases import open_base
from quickstudy.methods.learner import Learner
from quickstudy.tasks import drawings
from quickstudy.tasks.images.family import ImageEpisodes
from quickstudy.tasks.images.sets import image_folder

SIZES = ((5, 1), (5, 5), (20, 1))
"""Ways and shots."""


def main() -> None:
    """Read the drawings, and print a line for each number of classes and of drawings."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("folder", nargs="?")
    words.add_argument("--learner", default="drawings", help="`drawings`, a run, or what `quickstudy pack` wrote")
    words.add_argument("--classes", type=int, help="the first of the folder's symbols; by default all")
    words.add_argument("--tasks", type=int, help="600 by default, or 400 within alphabets")
    given = words.parse_args()

    learner = open_base(given.learner).learner
    print(f"{given.learner}: {learner.norms}")
    if given.folder is None:
        show(learner, drawings("lake", ways=20, shots=1, queries=1, within="alphabet"), given.tasks or 400)
        return
    how = {"size": 28, "channels": 1, "ink": "dark", "recipe": "finn", "fit": "stretch"}
    found = image_folder(given.folder, "image", ways=2, queries=1, **how)
    labels, classes = np.asarray(found.labels), min(given.classes or len(found.names), len(found.names))
    chosen = np.flatnonzero(labels < classes)
    fewest = int(np.bincount(labels[chosen]).min())
    for ways, shots in SIZES:
        if ways <= classes and shots < fewest:
            queries = min(15, fewest - shots)
            family = replace(found, splits={"test": chosen}, ways=ways, shots=shots, queries=queries)
            show(learner, family, given.tasks or 600)


def show(learner: Learner, family: ImageEpisodes, tasks: int) -> None:
    """Print the accuracy on tasks of these drawings, and the hash of their list."""
    done = qs.evaluate(learner, family, METRICS["accuracy"], n=tasks)
    right, half = done.spread.mean, done.spread.interval
    print(
        f"{family.ways}-way {family.shots}-shot: {100 * right:.1f} ± {100 * half:.1f} % right on {tasks} tasks, list "
        f"{done.hash}"
    )


if __name__ == "__main__":
    main()
