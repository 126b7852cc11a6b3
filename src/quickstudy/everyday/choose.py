r"""`choose`: which base is best for a user's own examples, and whether that can be told at all.

The examples are split again and again into those that teach and those that test, the same way for every base. So two
bases are compared by paired differences. Splits of the same examples are not independent; the variance of a mean
difference over J splits is corrected for that (Nadeau & Bengio, 2003, https://doi.org/10.1023/A:1024068626366):

.. math:: \Big(\frac{1}{J} + \frac{n_{\mathrm{test}}}{n_{\mathrm{taught}}}\Big)\, s^2

and the level of each of the k (k - 1) / 2 comparisons is a share of the whole one (Bonferroni). A difference also needs
enough examples on which two bases differ: fewer could all fall to one side by chance.
"""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quickstudy.errors import InputError
from quickstudy.evaluation.student import student
from quickstudy.everyday.bases import Base, count_distinct, open_base, run_outputs, typical_shots
from quickstudy.everyday.items import read_folder, read_items
from quickstudy.everyday.labels import check_classes, number_labels, read_labels
from quickstudy.models.encoders.pictures import picture_key
from quickstudy.tasks.draws import as_integer

SPLITS = 30
TESTED = 4
"""One of so many examples of a class tests, but at least one."""
LEVEL = 0.05
CLOCK = 1.5
"""Times that differ by less than this factor may be the same: a busy machine reads one base's time so much apart."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Candidate:
    """What was found of one base.

    Args:
        name: What the user called it.
        accuracy: The mean over splits; with one example of each class, over training episodes; NaN if there are none.
        behind: How far it is behind the best, paired; 0 for the best itself.
        interval: Half the width of the corrected interval of that difference; NaN for the best.
        seconds: What one example took: made ready and predicted.
        parameters: The numbers that it has learnt before.
    """

    name: str
    accuracy: float
    behind: float
    interval: float
    seconds: float
    parameters: int


@dataclass(frozen=True)
class Choice:
    """The outcome of `choose`.

    Args:
        candidates: The bases, best first.
        judged: Whether the examples could judge them. With one example of each class they cannot.
        splits: How often the examples were split.
        winner: The base that is better than every other one beyond doubt; None if there is none.
        best: The cheapest of those that cannot be told from the best, by time, then size; None if nothing was judged.
        note: What to make of it, in words.
        notes: Remarks on what was not used, and on the bases.
    """

    candidates: tuple[Candidate, ...]
    judged: bool
    splits: int
    winner: str | None
    best: str | None
    note: str
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{row.name}: {_percent(row.accuracy)}"
            + ("" if not row.behind and math.isnan(row.interval) else f", {100 * row.behind:.1f} ± "
               f"{100 * row.interval:.1f} points behind the best")
            + f", {1000 * row.seconds:.3g} ms an example"
            for row in self.candidates
        ]  # fmt: skip
        return "\n".join([*lines, self.note, *self.notes])


def choose(
    data: Any,
    among: Sequence[Any],
    *,
    splits: int = SPLITS,
    seed: int = 0,
    norms: str = "support",
    trust: bool = False,
    progress: Progress | None = None,
) -> Choice:
    """Compare bases on a user's own examples.

    Args:
        data: A folder with a folder of pictures for each class, or (X, y).
        among: Two or more bases, as `FewShotClassifier` takes them; (name, base) gives one a name.
        splits: How often the examples are split.
        seed: The seed of the splits.
        norms: See `FewShotClassifier`.
        trust: See `FewShotClassifier`.
        progress: Called with how many of all splits of all bases are done.
    """
    if isinstance(among, str | Path | Mapping) or not isinstance(among, Iterable):
        raise InputError(
            f"`among` is {among!r}, which is no list: give two or more bases, such as ['photos', None]. A pair (name, "
            "base) gives one a name."
        )
    seed = as_integer("seed", seed, least=0)
    items, labels, notes = _read_data(data)
    classes = check_classes(labels)
    y = torch.from_numpy(number_labels(labels, classes))
    named = [_name(one) for one in among]
    names = [name for name, _ in named]
    if len(set(names)) < len(names) or len(names) < 2:
        tell = " To tell two of one name apart, give pairs (name, base)." if len(names) > 1 else ""
        raise InputError(f"Give two or more different bases to choose among; given were {names}.{tell}")
    if as_integer("splits", splits) < 2:
        raise InputError(f"`splits` was {splits}; an interval needs 2 or more.")
    members = _group_copies(items, y)
    judged = any(len(own) > 1 for own in members)
    every = _draw_splits(members, len(y), splits, seed) if judged else []
    found: list[_Tried] = []
    for number, (name, given) in enumerate(named):
        base = open_base(given, norms=norms, trust=trust)
        notes += [f"{name}: {note}" for note in base.notes]
        step = None if progress is None else _shifted(progress, number * splits, len(named) * splits)
        found.append(_try(name, base, items, y, len(classes), every, step))
    choice = _judge(found, every) if judged else _unjudged(found, len(classes))
    return replace(choice, notes=tuple(notes))


def _read_data(data: Any) -> tuple[Any, list[Any], list[str]]:
    if isinstance(data, str | Path):
        taught = read_folder(data)
        return taught.items, taught.labels, [*taught.notes]
    if not isinstance(data, tuple) or len(data) != 2:
        raise InputError("Give a folder with a folder of pictures for each class, or a pair (X, y).")
    items, labels = read_items(data[0]), read_labels(data[1])
    if len(items) != len(labels):
        raise InputError(f"X has {len(items)} examples, and y has {len(labels)} labels: give one for each.")
    return items, labels, []


def _name(one: Any) -> tuple[str, Any]:
    if isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str):
        return one
    return (one if isinstance(one, str) else "None" if one is None else str(getattr(one, "name", None) or one)), one


def _shifted(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _: progress(before + done, total)


Members = list[list[list[int]]]
"""Of each class, the numbers of its examples; those that are copies of each other are together."""


def _group_copies(items: Any, y: Tensor) -> Members:
    """The examples of each class. Copies are together, as a split that divided them would test what it has taught.

    Their order is that of what they are, so the splits do not depend on the order in which they were given.
    """
    groups: list[dict[bytes, list[int]]] = [{} for _ in range(int(y.max()) + 1)]
    for number, label in enumerate(y.tolist()):
        groups[label].setdefault(_content(items[number]), []).append(number)
    return [[own[content] for content in sorted(own)] for own in groups]


def _content(item: Any) -> bytes:
    """What an example is: a row of numbers, a text, or a picture. One that cannot be read is like no other."""
    if isinstance(item, Tensor):
        return item.contiguous().numpy().tobytes()
    if isinstance(item, str) and not os.path.isfile(item):
        return item.encode("utf-8", "surrogatepass")
    try:
        return picture_key(item)
    except Exception:  # a damaged picture may raise anything; its base will name it
        return str(id(item)).encode()


def _draw_splits(members: Members, count: int, splits: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """The examples that teach and those that test, for each split. Each class keeps at least one that teaches."""
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(splits):
        tests = [
            number
            for own in members
            if len(own) > 1
            for group in rng.permutation(len(own))[: max(1, len(own) // TESTED)]
            for number in own[group]
        ]
        test = np.sort(np.array(tests))
        taught = np.setdiff1d(np.arange(count), test)
        drawn.append((torch.from_numpy(taught), torch.from_numpy(test)))
    return drawn


@dataclass(frozen=True)
class _Tried:
    """A base with its right answers: `[splits, examples]`, NaN for an example that did not test in a split."""

    name: str
    right: NDArray[np.float64]
    episodes: float
    seconds: float
    parameters: int


def _try(
    name: str,
    base: Base,
    items: Any,
    y: Tensor,
    ways: int,
    splits: Sequence[tuple[Tensor, Tensor]],
    progress: Progress | None,
) -> _Tried:
    x = base.prepare(items)
    ready = base.time_one(items)
    right = np.full((len(splits), len(y)), np.nan)
    asking = 0.0
    for number, (taught, test) in enumerate(splits):
        module = base.adapt(x[taught], y[taught], ways).eval()
        begun = perf_counter()
        outputs = run_outputs(module, x[test])
        asking += (perf_counter() - begun) / len(test)
        right[number, test] = (outputs.argmax(-1) == y[test]).double()
        if progress is not None:
            progress(number + 1, len(splits))
    module = base.adapt(x, y, ways).eval()
    known = base.calibrate(module, x, y, ways, typical_shots(count_distinct(x, y))) if not splits else None
    return _Tried(
        name,
        right,
        float("nan") if known is None else known.accuracy,
        ready + asking / max(len(splits), 1),
        base.parameters,
    )


def _unjudged(found: Sequence[_Tried], ways: int) -> Choice:
    """With one example of each class none can be left out: what is known is how the bases do on their own tasks."""
    rows = [Candidate(one.name, one.episodes, 0.0, math.nan, one.seconds, one.parameters) for one in found]
    note = (
        "There is one example of each class, so none can be left out to test, and the bases cannot be judged on them. "
        f"Shown is how each does on training episodes of {ways} classes with one example, where it has such tasks: "
        "those are other tasks for each base. Two examples of a class are the least that can judge."
    )
    return Choice(tuple(rows), False, 0, None, None, note)


def _judge(found: Sequence[_Tried], splits: Sequence[tuple[Tensor, Tensor]]) -> Choice:
    means = [float(np.nanmean(one.right, axis=1).mean()) for one in found]
    top = max(range(len(found)), key=lambda number: (means[number], -found[number].seconds))
    pairs = len(found) * (len(found) - 1) // 2
    rows, tied = [], [found[top]]
    for number, one in enumerate(found):
        if number == top:
            rows.append(Candidate(one.name, means[top], 0.0, math.nan, one.seconds, one.parameters))
            continue
        behind, interval, is_told = _difference(found[top].right - one.right, splits, LEVEL / pairs)
        rows.append(Candidate(one.name, means[number], behind, interval, one.seconds, one.parameters))
        if not is_told:
            tied.append(one)
    best = tied[cheapest([(one.seconds, one.parameters) for one in tied])]
    winner = best.name if len(tied) == 1 else None
    rows.sort(key=lambda row: -row.accuracy)
    if winner is not None:
        note = f"{winner} is better than every other one."
    else:
        others = ", ".join(one.name for one in tied)
        note = f"These cannot be told apart by the examples: {others}. The cheapest of them is {best.name}."
    return Choice(tuple(rows), True, len(splits), winner, best.name, note)


def cheapest(costs: Sequence[tuple[float, int]]) -> int:
    """Which of these (seconds, parameters) is the smallest of those that are as fast as the fastest, by a clock."""
    fastest = min(seconds for seconds, _ in costs)
    return min(
        (number for number, (seconds, _) in enumerate(costs) if seconds <= CLOCK * fastest),
        key=lambda number: costs[number][1],
    )


def _difference(
    gaps: NDArray[np.float64], splits: Sequence[tuple[Tensor, Tensor]], level: float
) -> tuple[float, float, bool]:
    """The mean difference of two bases, half of its corrected interval, and whether it is beyond doubt.

    Args:
        gaps: 1, 0 or -1 for each split and example, NaN for an example that did not test.
        splits: The splits.
        level: Of this one comparison.
    """
    each = np.nanmean(gaps, axis=1)
    taught, test = splits[0]
    variance = (1 / len(each) + len(test) / len(taught)) * float(each.var(ddof=1))
    mean, interval = float(each.mean()), student(1 - level, len(each) - 1) * math.sqrt(variance)
    by_example = np.nan_to_num(np.nanmean(np.where(np.isnan(gaps).all(0), 0.0, gaps), axis=0))
    differing = int((by_example != 0).sum())
    # If chance decided each of these examples, all would fall to one side with this probability.
    could_be_told = 2.0 ** (1 - differing) <= level
    return mean, interval, could_be_told and abs(mean) > interval


def _percent(share: float) -> str:
    return "not known" if math.isnan(share) else f"{100 * share:.1f} %"
