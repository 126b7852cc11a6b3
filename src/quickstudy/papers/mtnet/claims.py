"""What the thesis claims of its tables and figures, judged by what was found.

Rows are compared on identical tasks: a difference is paired, averaged over seeds, and has a 95% interval over tasks. It
holds where the whole interval and every seed are on the claim's side, does not where they are on the other, and is not
decided between.
"""

from collections.abc import Callable, Sequence
from math import isfinite

import numpy as np

from quickstudy.evaluation.metrics import spread
from quickstudy.papers.mtnet.reported import ALPHAS, LEVELS
from quickstudy.papers.runner.items import Found, Missing, Verdict, all_hold

Judge = Callable[[Found], Verdict]

MANY = 6
SEED_SPREAD = 5
"""Seeds below which a claim about what is learned, and not about tasks, stays undecided."""


def above(found: Found, larger: str, smaller: str, column: str) -> tuple[bool | None, str]:
    """Whether one row's numbers are above another's, and the difference in words."""
    sure, gap = found.surely(smaller, larger, column)
    # Of a run that was stopped, one row may have more seeds than the other.
    pairs = zip(found.each_seed(larger, column), found.each_seed(smaller, column), strict=False)
    signs = [one > two for one, two in pairs]
    label = {row.name: row.label for row in found.item.rows}
    said = f"{label[larger]} - {label[smaller]} = {gap.mean:.3f} ± {gap.interval:.3f} ({column}; "
    said += f"above in {sum(signs)} of {len(signs)} seeds)"
    if gap.finite < gap.tasks:
        return None, f"{said}, {gap.tasks - gap.finite} tasks diverged"
    return {1: True, -1: False, 0: None}[sure], said


def together(parts: Sequence[tuple[bool | None, str]]) -> Verdict:
    """All must hold; one that does not settles it. Of many, those that hold are only counted."""
    holds = [one for one, _ in parts]
    verdict = all_hold(holds)
    if len(parts) <= MANY:
        return Verdict(verdict, f"{'; '.join(said for _, said in parts)}.")
    words = {False: "the other way", None: "not decided"}
    others = [f"{words[one]}: {said}" for one, said in parts if one is not True]
    return Verdict(verdict, f"{'; '.join([f'{holds.count(True)} of {len(parts)} hold', *others])}.")


def all_above(larger: Sequence[str], smaller: str, columns: Sequence[str]) -> Judge:
    """Every one of some rows is above another, in every column."""
    return lambda found: together([above(found, one, smaller, column) for column in columns for one in larger])


def pairs_above(pairs: Sequence[tuple[str, str]], columns: Sequence[str]) -> Judge:
    """The first of each pair is above the second, in every column."""
    return lambda found: together([above(found, *pair, column) for column in columns for pair in pairs])


def both(*judges: Judge) -> Judge:
    """All of several judgements."""

    def judged(found: Found) -> Verdict:
        verdicts = [judge(found) for judge in judges]
        return together([(one.holds, one.evidence.rstrip(".")) for one in verdicts])

    return judged


def not_below(name: str, other: str, column: str) -> Judge:
    """One row is not below another by more than the interval; where tasks diverged nothing is decided."""

    def judged(found: Found) -> Verdict:
        below, said = above(found, other, name, column)
        gap = found.paired(name, other, column)
        return Verdict(below is not True if gap.finite == gap.tasks else None, f"{said}.")

    return judged


def falling(names: Sequence[str], column: str) -> Judge:
    """Each row is above the next by more than the interval: what is not decided does not hold."""

    def judged(found: Found) -> Verdict:
        steps = zip(names, names[1:], strict=False)
        verdict = together([above(found, one, two, column) for one, two in steps])
        return Verdict(bool(verdict.holds), verdict.evidence)

    return judged


def levels(found: Found) -> Verdict:
    """Each mean over seeds is at most .06 above the thesis's."""
    parts = []
    for name, level in LEVELS.items():
        ours, seeds = found.value(name, "10-shot"), len(found.each_seed(name, "10-shot"))
        few = found.value(name, "10-shot, 600 tasks")
        said = f"{name} {ours:.4f} over {seeds} seeds ({few:.3f} on 600 tasks), limit {level + 0.06:.2f}"
        parts.append((error(found, name, "10-shot") <= level + 0.06, said))
    return together(parts)


def below_zero_predictor(found: Found) -> Verdict:
    """Every method that was run is below always answering 0, in every column."""
    present = [(row, column) for row, column in found.readings if row != "zero" and ("zero", column) in found.readings]
    if not present:
        raise Missing(f"{found.item.name} has no method beside always answering 0.")
    share = {place: error(found, *place) / found.value("zero", place[1]) for place in present}
    row, column = worst = max(share, key=lambda place: share[place])
    return Verdict(
        share[worst] < 1,
        f"Always 0 costs {found.value('zero', column):.2f} here ({column}); nearest to that is {row}, "
        f"{error(found, row, column):.2f}.",
    )


def at(method: str, alpha: float) -> str:
    """The name of table 6.2's row."""
    return f"{method}-{alpha:g}"


def error(found: Found, row: str, column: str) -> float:
    """The mean over all tasks: infinite where one diverged, which a reading's mean over the others hides."""
    value = found.value(row, column)
    return value if isfinite(value) and not lost(found, row, column) else float("inf")


def lost(found: Found, row: str, column: str) -> int:
    """Tasks that diverged, over all seeds."""
    return sum(int(one.more.get("tasks", 0) - one.more.get("finite", 0)) for one in found.all(row, column))


def ratios(found: Found, method: str, alphas: Sequence[float]) -> float:
    """Largest over smallest error of a method; infinite where a training or a task diverged."""
    values = [error(found, at(method, alpha), "10-shot") for alpha in alphas]
    return max(values) / min(values) if isfinite(max(values)) else float("inf")


def more_robust(found: Found) -> Verdict:
    """Section 6.2: the error of T-net and MT-net changes less with alpha than MAML's."""
    every = {method: ratios(found, method, ALPHAS) for method in ("maml", "tnet", "mtnet")}
    said = ", ".join(f"{method} {ratio:.1f}" for method, ratio in every.items())
    held = every["tnet"] < every["maml"] and every["mtnet"] < every["maml"]
    return Verdict(held, f"Largest over smallest error for alpha from 1e-4 to 10: {said} (thesis: 242, 7.4, 8.5).")


def robustness(found: Found) -> Verdict:
    """MAML's ratio at least 3, T-net's at most 1.5, MT-net's at most 1.8, for alpha from 1e-4 to 1e-1."""
    small = [alpha for alpha in ALPHAS if alpha < 1]
    maml, tnet, mtnet = (ratios(found, method, small) for method in ("maml", "tnet", "mtnet"))
    said = f"Largest over smallest error: MAML {maml:.2f}, T-net {tnet:.2f}, MT-net {mtnet:.2f}"
    return Verdict(maml >= 3 and tnet <= 1.5 and mtnet <= 1.8, f"{said} (thesis: 3.58, 1.21, 1.47).")


def failures(found: Found) -> Verdict:
    """At alpha of 1 and more, MAML is above the zero predictor, T-net and MT-net at most a tenth above it."""
    zero = found.value("zero", "10-shot")
    parts = []
    for alpha in (1.0, 10.0):
        for method in ("maml", "tnet", "mtnet"):
            value = found.value(at(method, alpha), "10-shot")
            gone, whole = lost(found, at(method, alpha), "10-shot"), error(found, at(method, alpha), "10-shot")
            held = whole > zero if method == "maml" else whole <= 1.1 * zero
            stopped = found.stopped.get(at(method, alpha), {})
            said = f"{method} at {alpha:g} {value:.2f}" + (f" ({gone} tasks diverged)" if gone else "")
            parts.append(
                (held, said + (f" (training stopped, seeds {', '.join(map(str, stopped))})" if stopped else ""))
            )
    verdict = together(parts)
    return Verdict(verdict.holds, f"{verdict.evidence} Always 0 costs {zero:.2f}.")


def still_learns(found: Found) -> Verdict:
    """Table 6.2's row of alpha = 1: MT-net is at less than half of the zero predictor, MAML and T-net are not.

    Training there ends either way, so every seed counts: those that part leave it open.
    """
    zero = found.value("zero", "10-shot")
    maml, tnet = (error(found, at(method, 1.0), "10-shot") for method in ("maml", "tnet"))
    seeds = found.each_seed(at("mtnet", 1.0), "10-shot")
    learned = [one < zero / 2 for one in seeds]
    as_said = not lost(found, at("mtnet", 1.0), "10-shot") and zero / 2 <= min(maml, tnet)
    held = False if not as_said or not any(learned) else True if all(learned) else None
    each = ", ".join(f"{one:.2f}" for one in seeds)
    return Verdict(
        held,
        f"At alpha 1 MT-net learns in {sum(learned)} of {len(seeds)} seeds ({each}); MAML {maml:.2f}, T-net "
        f"{tnet:.2f}; always 0 costs {zero:.2f} (thesis: .61, 5.81, 4.15).",
    )


def fraction_grows(column: str) -> Judge:
    """The fraction of an order is above that of the order below it, by more than the interval over seeds."""

    def judged(found: Found) -> Verdict:
        parts = []
        for lower, higher in (("order-0", "order-1"), ("order-1", "order-2")):
            pairs = np.array(list(zip(*(found.each_seed(name, column) for name in (lower, higher)), strict=False)))
            gap = spread(pairs[:, 1] - pairs[:, 0])
            said = f"{higher} - {lower} = {gap.mean:+.3f} ± {gap.interval:.3f}"
            grows = True if gap.mean > gap.interval else False if gap.mean < -gap.interval else None
            parts.append((grows if len(pairs) >= SEED_SPREAD else None, said))
        means = ", ".join(f"{found.value(f'order-{n}', column):.3f}" for n in range(3))
        verdict = together(parts)
        seeds = min(len(found.each_seed(f"order-{n}", column)) for n in range(3))
        few = "" if seeds >= SEED_SPREAD else f" Fewer than {SEED_SPREAD} seeds decide nothing."
        return Verdict(verdict.holds, f"Orders 0, 1, 2: {means}, over {seeds} seeds; {verdict.evidence}{few}")

    return judged


def exact(names: Sequence[str], column: str, digits: int = 8) -> Judge:
    """Errors are those of rounding."""

    def judged(found: Found) -> Verdict:
        worst = {name: float(np.max(found.each_seed(name, column))) for name in names}  # a NaN stays one
        said = ", ".join(f"{name} 10^{value:.1f}" for name, value in worst.items())
        return Verdict(all(value < -digits for value in worst.values()), f"Largest relative error: {said}.")

    return judged


def spans(found: Found) -> Verdict:
    """Proposition 1: changes stay in U, and those of many losses have its dimension."""
    inside = exact(("proposition-1",), "error")(found)
    apart = max(one.more["rank minus d, largest"] for one in found.all("proposition-1", "error"))
    said = f"{inside.evidence} The rank of the changes is that of U" + (f" to within {apart}." if apart else ".")
    return Verdict(bool(inside.holds) and apart == 0, said)


def block(found: Found) -> Verdict:
    """The sentence after eq. 4.5, on T diag(m) T'."""
    share = found.first("proposition-2", "error").more["outside the block"]
    said = (
        f"On average {share:.0%} of its squared entries lie elsewhere: for a dense T it is dense, and of rank sum(m)."
    )
    return Verdict(share < 1e-12, said)


def steepest(found: Found) -> Verdict:
    """Proposition 2 by search instead of by formula."""
    best = max(one.more["steeper by"] for one in found.all("proposition-2", "error"))
    return Verdict(best < 1e-9, f"The best of 200 other directions in U for each cell: relative {best:.1e} steeper.")


def ranks(found: Found) -> Verdict:
    """Figure 3.3 (b), of trained cells."""
    every = [one.more for one in found.all("mtnet", "outside the plane")]
    over = sum(more["ranks above the rows that adapt"] for more in every)
    equal, changes = (sum(more[key] for more in every) for key in ("ranks equal to them", "changes"))
    share = max(found.each_seed("mtnet", "outside the plane"))
    said = f"{over} of {changes} changes of a cell have a rank above the number of rows that adapt, {equal} exactly it"
    return Verdict(over == 0 and share < -8, f"{said}; the share outside the span is at most 10^{share:.1f}.")
