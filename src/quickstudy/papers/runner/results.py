"""An item's result as plain data: what the paper reports and what was found, side by side. Tables and pages read this.

A number's interval is 95% over tasks and seeds, each task's value being its mean over seeds; of one seed it is over
tasks, or the measure's own where it has no tasks. `low` and `high` are the extremes over seeds. The gap is ours minus
the paper's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from quickstudy.papers.runner.claims import decide, rows_of
from quickstudy.papers.runner.estimate import SEEDS, Estimate
from quickstudy.papers.runner.found import Found
from quickstudy.papers.runner.items import SCALES, Claim, Row
from quickstudy.papers.runner.measures import known_options
from quickstudy.papers.runner.work import Plan
from quickstudy.storage.files import FILE_FORMAT
from quickstudy.storage.records import Number

Result = dict[str, Any]


class _Stored(BaseModel, extra="allow", strict=True):
    """A part of a stored result: what pages and tables read of it."""


class _Reported(_Stored):
    value: float
    interval: Number
    source: str


class _Ours(_Stored):
    value: float
    interval: Number
    seeds: list[float]
    low: float
    high: float
    more: dict[str, Any]
    tasks: int = 0
    finite: int = 0


class _Line(_Stored):
    row: str
    label: str
    column: str
    reported: list[_Reported]
    stand_in: str
    departs: list[str]
    quoted: bool
    ours: _Ours | None
    gap: float = 0.0


class _Answer(_Stored):
    text: str
    source: str
    own: bool
    holds: bool | None
    evidence: str


class _Machine(_Stored):
    processor: str
    cores: int | None
    torch: str


FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class StoredResult(_Stored):
    """A result of an item, as pages read it."""

    item: FileName
    title: str
    unit: str
    digits: Annotated[int, Field(ge=0, le=20)]
    scale: Literal["smoke", "quick", "cpu", "full"]
    seeds: int
    command: str
    commits: list[str]
    machine: _Machine
    seconds: float
    rows: list[_Line]
    claims: list[_Answer]
    notes: list[str]
    figures: list[FileName]
    stopped: dict[str, dict[str, str]]


def result(plan: Plan, found: Found, about: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> Result:
    """Everything that tables and pages of an item show; `about` is how each reading came to be, by `work.collect`."""
    item = plan.item
    trainings = {str(one["trained"]): float(one["training"]) for one in about}  # several readings may share one
    return {
        "format": FILE_FORMAT,
        **{key: getattr(item, key) for key in ("paper", "title", "unit", "larger_is_better", "digits")},
        **{"item": item.name, "scale": plan.scale, "seeds": plan.seeds, "command": command(plan)},
        "commits": sorted({str(one["commit"])[:12] for one in about if one["commit"]}),
        "machine": dict(machine),
        "seconds": sum(one["seconds"] for one in about) + sum(trainings.values()),
        "rows": [line for row in item.rows for line in _result_lines(plan, found, row)],
        "claims": [_verdict(claim, found) for claim in item.claims],
        "notes": [
            *item.notes,
            *([] if plan.scale == "full" else [f"At `{plan.scale}` scale: {SCALES[plan.scale]}."]),
            *_enough(found),
        ],
        "figures": sorted(item.figures),
        "stopped": {row: {str(seed): why for seed, why in whys.items()} for row, whys in found.stopped.items()},
    }


def command(plan: Plan) -> str:
    """The command that makes the result again."""
    rows = [row.name for row in plan.rows if not row.quoted]
    every = [row.name for row in plan.item.rows if not row.quoted]
    part = "" if rows == every else f" --rows {','.join(rows)}"
    seeds = "" if plan.seeds == plan.item.scales[plan.scale].seeds else f" --seeds {plan.seeds}"
    return f"quickstudy reproduce {plan.item.paper} {plan.item.name} --scale {plan.scale}{seeds}{part}"


def result_name(made: Result) -> str:
    """How the files of a result begin: two scales of an item stand beside each other where one of them is `cpu`."""
    return f"{made['item']}-cpu" if made["scale"] == "cpu" else str(made["item"])


def _result_lines(plan: Plan, found: Found, row: Row) -> list[dict[str, Any]]:
    """The lines of a row; where it was left out, those that the paper has a number for, which were not run."""
    asked = row.quoted or row in plan.rows
    about = {
        "stand_in": found.stand_in(row) if asked else row.stand_in,
        "departs": [*row.departs, *_reductions(plan, row)] if asked else list(row.departs),
    }
    lines = []
    for column, cell in row.cells.items():
        if not asked and not cell.reported:
            continue
        ours = _our_numbers(found, row.name, column) if (row.name, column) in found.readings else None
        line = {"row": row.name, "label": row.label, "column": column, **about, "quoted": cell.measure is None}
        line |= {"reported": [asdict(one) for one in cell.reported], "ours": ours}
        # A smaller budget than the paper's decides orders: its numbers are not held against the paper's.
        if ours and cell.reported and not about["stand_in"] and plan.scale != "cpu":
            line["gap"] = ours["value"] - cell.reported[0].value
        lines.append(line)
    return lines


def _our_numbers(found: Found, row: str, column: str) -> dict[str, Any]:
    every, over, first = found.each_seed(row, column), found.spread(row, column), found.first(row, column)
    own = (first.interval or 0.0) if over is None else over.interval if over.finite > 1 else 0.0
    half = Estimate(tuple(every), own).half
    finite = [value for value in every if isfinite(value)]
    ours: dict[str, Any] = {
        "value": sum(every) / len(every),
        "interval": half if len(every) > 1 or over is None or over.finite > 1 else over.interval,
        "seeds": every,
        "low": min(finite, default=float("nan")),
        "high": max(finite, default=float("nan")),
        "more": dict(first.more),
    }
    if over is not None:
        ours |= {"tasks": over.tasks, "finite": over.finite}
        if over.finite < over.tasks:  # as an evaluation has it: the mean of those that are finite
            ours["value"] = over.mean
    return ours


def _reductions(plan: Plan, row: Row) -> list[str]:
    """What the scale takes away from a row's tests and from its configuration."""
    if plan.scale == "full":
        return []
    less = [
        (column, f"{key} {value} instead of {cell.options[key]}")
        for column, cell in row.cells.items()
        if cell.measure is not None
        for key, value in known_options(cell.measure, plan.item.scales[plan.scale].options).items()
        if cell.options.get(key, value) != value
    ]
    alike = len({what for _, what in less}) == 1
    said = [less[0][1]] if alike else [f"{column}: {what}" for column, what in less]
    chosen = plan.chosen_settings(row) or {}
    for key, value in ({**plan.settings(row), **chosen} if row.config is not None else {}).items():
        if key.partition(".")[0] == "compute":  # how the machine is used departs from nothing
            continue
        held: Any = row.config
        for part in key.split("."):
            held = held.get(part) if isinstance(held, Mapping) else None
        said += _differences(key, value, held)
    said = [f"Scale `{plan.scale}`: {', '.join(said)}."] if said else []
    values = row.tried[plan.scale].values if chosen else ()
    tried = [f"`{key}` {value} was chosen of {values}" for key, value in chosen.items() if len(values) > 1]
    return said + [f"By the first seed's validation {one}." for one in tried]


def _differences(name: str, now: Any, at_full: Any) -> list[str]:
    """What differs, in words.

    >>> _differences("ramp", {"kind": "line", "end": 9}, {"kind": "line", "end": 90, "every": 3})
    ['`ramp.end` 9 instead of 90', '`ramp.every` none instead of 3']
    """
    if isinstance(now, Mapping) and isinstance(at_full, Mapping):
        both = {**now, **at_full}
        return [said for key in both for said in _differences(f"{name}.{key}", now.get(key), at_full.get(key))]
    if now == at_full:
        return []
    value = "none" if now is None else now
    return [f"`{name}` {value}" + ("" if at_full is None else f" instead of {at_full}")]


def _verdict(claim: Claim, found: Found) -> dict[str, Any]:
    """A claim with its verdict; a scale below the one that decides leaves it open."""
    verdict, order, needed = decide(claim, found), list(SCALES), claim.decides or found.item.decides
    holds, evidence = verdict.holds, verdict.evidence
    if holds is not None and order.index(found.scale) < order.index(needed):
        holds, evidence = None, f"{evidence} The `{found.scale}` scale does not decide it; `{needed}` does."
    if holds is None:
        evidence += what_it_takes(claim, found)
    return {"text": claim.text, "source": claim.source, "own": claim.own, "holds": holds, "evidence": evidence}


def what_it_takes(claim: Claim, found: Found) -> str:
    """What would decide a claim that was not run, or with too few seeds, or at too small a scale; else nothing.

    Where the numbers are there and are not enough, the evidence says for each part what it lacks.
    """
    if claim.takes:
        return f" It takes {claim.takes}."
    order, rows = list(SCALES), rows_of(claim, found)
    least_scale = max(found.scale, claim.decides or found.item.decides, key=order.index)
    scale = next((name for name in order[order.index(least_scale) :] if name in found.item.scales), None)
    seeds = {row: len(every) for row, every in found.trained.items()}
    short = [row for row in rows if scale != found.scale or seeds.get(row, 0) < SEEDS]
    if scale is None or not short:
        return ""
    least = "" if found.item.scales[scale].seeds >= SEEDS else f" --seeds {SEEDS}"
    asked = f"{found.item.paper} {found.item.name} --scale {scale}{least} --rows {','.join(short)}"
    return f" It takes `quickstudy reproduce {asked}`."


def _enough(found: Found) -> list[str]:
    """Of every row that was validated: whether its training was long enough, and by what that is judged."""
    said = []
    for row in found.item.rows if found.scale == "cpu" else ():
        if (rise := found.rise(row.name)) is not None:
            word = "not enough: it still rose" if found.is_rising(row.name) else "enough"
            said.append(f"{row.label} ({row.name}): {rise[0]:+.4f} ± {rise[1]:.4f}, {word}")
    if not said:
        return []
    rule = "Was training long enough? The change of the mean validation from its fourth fifth to the last: "
    return [f"{rule}{'; '.join(said)}."]
