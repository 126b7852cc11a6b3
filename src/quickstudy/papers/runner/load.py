"""Items from data: a paper's `items.yaml` says what is run and claimed, a CSV an item what the paper reports.

Everything in `items.yaml` may name what its scope holds, `{name}` or `{name.part}`: the variables of the loops around
it, and the entries of `shared`. A text that is one name only stands for the value itself.

    for: {method: [maml, anil], shots: [1, 5]}       a row, or a claim, for each combination
    for: {method in methods: [maml, anil]}           the same; `{method.rate}` is a field of the entry in `methods`
    config: [base, method.config, {tasks: ...}]      layers, a later one over the earlier: entries by name, or settings
    config: [base, "method.config?"]                 an entry that may be absent
"""

import csv
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from itertools import product
from typing import Any

import yaml

from quickstudy.errors import InputError
from quickstudy.papers.runner.items import SCALES, Cell, Claim, Item, Reported, Row, Scale, Tried

Scope = Mapping[str, Any]
Reports = Mapping[tuple[str, str], tuple[Reported, ...]]

NAME = re.compile(r"\{([^{}:]+)(?::([^{}]*))?\}")
ABOUT_A_CLAIM = {"says", "source", "needs", "decides", "takes", "for"}
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_reports(text: str) -> Reports:
    r"""What a paper reports, by row and column: the lines of a CSV.

    >>> read_reports("table,row,column,value,interval,source\ntable-1,maml,5-shot,0.7,0.1,table 1\n")
    {('maml', '5-shot'): (Reported(value=0.7, interval=0.1, source='table 1'),)}
    """
    reports: dict[tuple[str, str], tuple[Reported, ...]] = {}
    for line in csv.DictReader(text.splitlines()):
        interval = float(line["interval"]) if line["interval"] else None
        place = line["row"], line["column"]
        reports[place] = (*reports.get(place, ()), Reported(float(line["value"]), interval, line["source"]))
    return reports


def read_item(paper: str, name: str, spec: Mapping[str, Any], shared: Scope, reports: Reports) -> Item:
    """An item from its entry in `items.yaml`; what its own `for` names is known to all of its rows and claims."""
    (shared,) = scopes(spec.get("for", {}), shared)
    rows = tuple(row for one in spec["rows"] for row in _read_rows(one, shared, reports))
    for row, column in reports:
        if not any(one.name == row and column in one.cells for one in rows):
            raise InputError(f"{paper} {name}: a number is reported for {row}, {column}, which is no cell.")
    plain = {key: spec[key] for key in ("title", "unit", "larger_is_better", "digits", "decides") if key in spec}
    return Item(
        paper, name, rows=rows, **plain,
        scales={scale: _read_scale(spec["scales"][scale]) for scale in SCALES if scale in spec["scales"]},
        claims=tuple(claim for short, one in spec.get("claims", {}).items() for claim in _claims(short, one, shared)),
        figures=fill(spec.get("figures", {}), shared),
        needs=tuple(spec.get("needs", ())),
        notes=_sentences(spec.get("notes", ()), shared),
    )  # fmt: skip


def _read_scale(spec: Mapping[str, Any]) -> Scale:
    return Scale(**{**spec, "rows": tuple(spec.get("rows", ("*",)))})


def _read_rows(spec: Mapping[str, Any], shared: Scope, reports: Reports) -> Iterator[Row]:
    """The rows of one entry: quoted ones by name and label, or one for each combination of its loops."""
    for name, label in spec.get("quoted", {}).items():
        yield Row(name, label, {column: Cell(reported=said) for (row, column), said in reports.items() if row == name})
    for scope in scopes(spec.get("for", {}), shared) if "quoted" not in spec else ():
        name = fill(spec["name"], scope)
        cells = {
            column: Cell(measure, options or {}, reports.get((name, column), ()))
            for column, cell in overlay(spec["cells"], scope).items()
            for measure, options in cell.items()
        }
        config = overlay(spec["config"], scope) if "config" in spec else None
        changed = {scale: overlay(one, scope, deep=False) for scale, one in spec.get("scales", {}).items()}
        departs, stand_in = _sentences(spec.get("departs", ()), scope), fill(spec.get("stand_in", ""), scope)
        tried = {
            scale: Tried(setting, tuple(values))
            for scale, one in spec.get("tried", {}).items()
            for setting, values in overlay(one, scope).items()
        }
        yield Row(name, fill(spec["label"], scope), cells, config, departs, stand_in, changed, tried)


def _claims(short: str, spec: Mapping[str, Any], shared: Scope) -> Iterator[Claim]:
    """The claims of one entry; whatever is not about the claim is a word with what it says."""
    for scope in scopes(spec.get("for", {}), shared):
        said = {word: one if isinstance(one, list) else [one or {}] for word, one in spec.items()}
        words = [(word, one) for word in said if word not in ABOUT_A_CLAIM for one in said[word]]
        parts = tuple((word, options) for word, one in words for options in _claim_parts(one, scope))
        about = {key: fill(spec[key], scope) for key in ("source", "needs", "decides", "takes") if key in spec}
        yield Claim(fill(spec["says"], scope), parts=parts, short=fill(short, scope), **about)


def _claim_parts(spec: Mapping[str, Any], scope: Scope) -> Iterator[dict[str, Any]]:
    """One part for each combination of its loops, and of the rows and columns where it lists several."""
    for inner in scopes(spec.get("for", {}), scope):
        options = fill({key: value for key, value in spec.items() if key != "for"}, inner)
        several = [key for key in ("column", "row", "than", "over") if isinstance(options.get(key), list)]
        for values in product(*(options[key] for key in several)):
            yield {**options, **dict(zip(several, values, strict=True))}


def scopes(loops: Mapping[str, Any], scope: Scope) -> list[Scope]:
    """A scope for each combination of the values that the loops go through."""
    every = [scope]
    for loop, values in loops.items():
        name, _, table = loop.partition(" in ")
        bound = [(one, value) for one in every for value in fill(values, one)]
        if table:
            bound = [(one, {**look_up(one, f"{table}.{value}"), "key": value}) for one, value in bound]
        every = [{**one, name: value} for one, value in bound]
    return every


def look_up(scope: Scope, path: str) -> Any:
    """What a dotted name stands for; nothing where it ends with a question mark and is absent."""
    held: Any = scope
    for part in path.removesuffix("?").split("."):
        pairs = held.items() if isinstance(held, Mapping) else enumerate(held) if isinstance(held, list) else ()
        known = {str(key): value for key, value in pairs}
        if part not in known:
            if path.endswith("?"):
                return None
            raise InputError(f"There is no {part!r} for {path!r}. Names are: {', '.join(known)}.")
        held = known[part]
    return held


def fill(value: Any, scope: Scope) -> Any:
    """A value in which every name is replaced by what it stands for; an entry of a table stands for its key."""
    if isinstance(value, Mapping):
        return {fill(key, scope): fill(held, scope) for key, held in value.items()}
    if isinstance(value, list):
        return [fill(held, scope) for held in value]
    while isinstance(value, str) and (name := NAME.search(value)):
        held = look_up(scope, name[1])
        held = held["key"] if isinstance(held, Mapping) and "key" in held else held
        if name.span() == (0, len(value)) and not name[2]:
            return fill(deepcopy(held), scope)
        value = value[: name.start()] + format(held, name[2] or "") + value[name.end() :]
    return value


def overlay(layers: Any, scope: Scope, *, deep: bool = True) -> dict[str, Any]:
    """Settings in layers, a later one over the earlier; not `deep`: a setting of a later one replaces the whole."""
    merged: dict[str, Any] = {}
    for layer in layers if isinstance(layers, list | tuple) else [layers]:
        held = look_up(scope, fill(layer, scope)) if isinstance(layer, str) else layer
        if isinstance(held, list):
            held = overlay(held, scope, deep=deep)
        own = fill(held or {}, scope)
        merged = merge(merged, own) if deep else {**merged, **own}
    return merged


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, the second's over the first's.

    >>> merge({"a": {"x": 1, "y": 2}}, {"a": {"x": 3}})
    {'a': {'x': 3, 'y': 2}}
    """
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _sentences(spec: Any, scope: Scope) -> tuple[str, ...]:
    """Sentences one after the other, of lists in lists too."""
    held = fill(spec, scope)
    if isinstance(held, list | tuple):
        return tuple(sentence for one in held for sentence in _sentences(one, scope))
    return (held,) if held else ()
