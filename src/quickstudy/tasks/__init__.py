"""Tasks: the problems that a learner is trained and tested on.

A family describes one kind of task. `family.source(split, seed=..., size=...)` gives meta-batches as a pure function of
the step. Write your own family as a subclass of `TaskFamily`, or give images and labels to `Episodes`.
"""

from collections.abc import Callable

from quickstudy.tasks.base import TaskFamily, TaskSource
from quickstudy.tasks.batches import Batches
from quickstudy.tasks.check import check_task
from quickstudy.tasks.cross import Cross
from quickstudy.tasks.episodes import Episodes
from quickstudy.tasks.images.drawings import drawings
from quickstudy.tasks.images.sets import IMAGE_SETS, image_folder
from quickstudy.tasks.sklearn_digits import digits
from quickstudy.tasks.synthetic.gaussians import Gaussians
from quickstudy.tasks.synthetic.polynomial import Polynomial
from quickstudy.tasks.synthetic.sine import Sine
from quickstudy.tasks.synthetic.threshold import AverageThreshold
from quickstudy.tasks.synthetic.wavelet import Wavelet

FAMILIES: dict[str, Callable[..., TaskFamily]] = {
    "sine": Sine,
    "polynomial": Polynomial,
    "threshold": AverageThreshold,
    "wavelet": Wavelet,
    "gaussians": Gaussians,
    "digits": digits,
    "drawings": drawings,
    "folder": image_folder,
    **IMAGE_SETS,
    "batches": Batches,
    "cross": Cross,
}
"""The families by name, as configuration files and the command line use them."""

__all__ = [
    "FAMILIES",
    "AverageThreshold",
    "Batches",
    "Cross",
    "Episodes",
    "Gaussians",
    "Polynomial",
    "Sine",
    "TaskFamily",
    "TaskSource",
    "Wavelet",
    "check_task",
    "digits",
    "drawings",
]
