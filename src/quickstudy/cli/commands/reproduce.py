"""`quickstudy reproduce`: list items, run one, write what was found and the page of its paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from quickstudy.cli.command import Count, Flag, Folder, ImageCommand, Names
from quickstudy.cli.side_by_side import run_side_by_side
from quickstudy.cli.terminal import Console, TerminalWatcher
from quickstudy.errors import InputError, RunError, UserErrors, suggest_nearest

if TYPE_CHECKING:
    from quickstudy.papers.runner.found import Found
    from quickstudy.papers.runner.items import Item
    from quickstudy.papers.runner.store import Unit
    from quickstudy.papers.runner.work import Plan
    from quickstudy.training.watcher import Watcher


@dataclass(frozen=True)
class Reproduce(ImageCommand):
    """Run a table or a figure of a paper, and show it beside what the paper reports.

    Trainings are cached by their configuration and resume; two commands, or two items, share them. `reproduce PAPER`
    writes the page of all that was run, `reproduce PAPER all` runs everything.
    """

    paper: Positional[Annotated[str | None, arg(metavar="PAPER", help_behavior_hint="")]] = None
    """mtnet, wormhole, hypermaml, or beyond: questions that the papers leave open."""
    item: Positional[Annotated[str | None, arg(metavar="ITEM", help_behavior_hint="")]] = None
    """A table or figure, such as table-6.1 (see --list), or all."""
    list: Flag = False
    """Show every item: its rows, what it costs at each scale, the image sets it needs."""
    rows: Names = None
    """Only these rows, with commas (see `reproduce PAPER ITEM --list`)."""
    scale: str = "quick"
    """smoke (seconds: only that it works), quick (minutes: what is large) or full (the paper's budget)."""
    seeds: Count = None
    """Trainings of each row (default: the scale's)."""
    workers: int = 1
    """Processes that train rows side by side."""
    out: Folder = None
    """Directory of trainings, results and pages (default: reproductions)."""

    def run(self, console: Console, overrides: Sequence[str]) -> None:
        """Show the items, or run what was named and write the paper's page."""
        from quickstudy.papers.catalog import PAPERS, item, items

        if self.list:
            _list_items(self.paper, self.item, console)
            return
        if self.paper is None:
            raise InputError(f"Say which paper: {', '.join(PAPERS)}. `quickstudy reproduce --list` shows every item.")
        folder = Path(self.out or "reproductions")
        known = items(self.paper)
        if self.item is not None:
            chosen = _with_data(known, console) if self.item == "all" else [item(self.paper, self.item)]
            for plan in [self._plan(one, folder) for one in chosen]:
                _run_plan(plan, self.workers, console)
        _write_pages(self.paper, folder, console)

    def _plan(self, one: Item, folder: Path) -> Plan:
        from quickstudy.papers.runner.items import SCALES
        from quickstudy.papers.runner.work import Plan, choose_rows

        if self.scale not in SCALES:
            raise InputError(f"There is no scale {self.scale!r}. {suggest_nearest(self.scale, SCALES)}")
        for option, count in (("seeds", self.seeds), ("workers", self.workers)):
            if count is not None and count < 1:
                raise InputError(f"`--{option}` was {count}; give 1 or more.")
        if self.rows is not None and self.item == "all":
            raise InputError(
                "--rows names rows of one item, and all items were asked for. Leave it out, or name the item."
            )
        rows = None if self.rows is None else [word.strip() for word in self.rows.split(",") if word.strip()]
        for name in _missing_data(one):
            raise InputError(
                f"{one.paper} {one.name} needs the image set {name!r}, which is not here. `quickstudy data list` says "
                "how to get it, --data-root where it is."
            )
        return Plan(one, self.scale, self.seeds or one.scales[self.scale].seeds, choose_rows(one, rows), folder)


def _missing_data(one: Item) -> Sequence[str]:
    from quickstudy.tasks.images.sets import IMAGE_SETS

    return [name for name in one.needs if not IMAGE_SETS[name].find_folder()]


def _with_data(known: Mapping[str, Item], console: Console) -> Sequence[Item]:
    """The items whose image sets are here."""
    missing = {name: _missing_data(one) for name, one in known.items()}
    for name, sets in missing.items():
        if sets:
            console.note(f"{name} is left out: {', '.join(sets)} is not here (`quickstudy data list`)")
    return [one for name, one in known.items() if not missing[name]]


def _list_items(paper: str | None, name: str | None, console: Console) -> None:
    from quickstudy.papers.catalog import PAPERS, item, items
    from quickstudy.papers.runner.items import SCALES

    papers = [paper] if paper else list(PAPERS)
    every = [one for paper in papers for one in items(paper).values() if name in (None, one.name)]
    if name is not None and not every:
        item(papers[0], name)  # says which items there are
    if console.json:
        for one in every:
            console.print_json(
                {
                    "paper": one.paper,
                    "item": one.name,
                    "title": one.title,
                    "rows": [row.name for row in one.rows if not row.quoted],
                    "needs": list(one.needs),
                    "seeds": {scale: s.seeds for scale, s in one.scales.items()},
                    "cost": {scale: {"two cores": s.cost, "gpu": s.gpu} for scale, s in one.scales.items()},
                }
            )
        return
    if name is not None:
        for row in every[0].rows:
            cells = "quoted from the paper" if row.quoted else ", ".join(row.cells)
            print(f"{row.name}: {row.label}; {cells}{f'; stand-in: {row.stand_in}' if row.stand_in else ''}")
        return
    rows = [
        (
            f"{one.paper} {one.name}",
            one.title,
            str(sum(not row.quoted for row in one.rows)),
            *(one.scales[scale].cost or "-" for scale in SCALES),
            one.scales["full"].gpu,
            ", ".join(one.needs) or "-",
        )
        for one in every
    ]
    columns = ("item", "what", "rows", *SCALES, "full on a GPU", "image sets")
    console.table("", columns, rows, caption="Costs are on two cores, with the scale's seeds.")


def _run_plan(plan: Plan, workers: int, console: Console) -> None:
    """Train what is missing, and show and write the item."""
    from quickstudy.papers.runner.results import result
    from quickstudy.papers.runner.store import Store
    from quickstudy.papers.runner.work import collect, work
    from quickstudy.storage.versions import describe_machine
    from quickstudy.training.train import StoppedError

    store, units = Store(plan.folder), plan.units()
    waiting = [one for one in units if not store.is_done(one)]
    console.note(
        f"{plan.item.paper} {plan.item.name}, {plan.scale}: {len(waiting)} of {len(units)} to do "
        f"({len(units) - len(waiting)} are here already), in {plan.folder}"
    )
    try:
        if workers > 1 and len(waiting) > 1:
            args = (waiting, plan.folder, plan.item.name)
            run_side_by_side(_work_on_trainings, args, min(workers, len(waiting)), console)
        else:
            with TerminalWatcher(console, 0, "") as watcher:  # shows nothing; Ctrl-C saves and stops, as in training
                work(watcher, waiting, plan.folder, _note_trainings(plan.item.name, console))
    except (StoppedError, KeyboardInterrupt):
        left = sum(not store.is_done(one) for one in units)
        raise RunError(
            f"Stopped: {left} of {len(units)} trainings are not done, and nothing is lost. The same command goes on."
        ) from None
    if any(not store.is_done(one) for one in units):
        console.note(
            "some trainings are under way in another process; the same command shows them when they are done",
            always=True,
        )
    folder = plan.folder / "readings"
    misfit = f"The readings in {folder} do not fit {plan.item.paper} {plan.item.name}: {{}}. Delete them to read again."
    with UserErrors(misfit.format):  # each figure and claim expects arrays of its own
        here, about = collect(plan)
        made = result(plan, here, about, describe_machine())
        _write_item(plan, made, here, console)
    _show_item(made, console)


def _work_on_trainings(watcher: Watcher, console: Console, units: Sequence[Unit], folder: Path, title: str) -> None:
    """One of several processes."""
    from quickstudy.papers.runner.work import work

    work(watcher, units, folder, _note_trainings(title, console))


def _note_trainings(title: str, console: Console) -> Callable[[Unit, float], None]:
    """A function that notes every training that ends."""

    def note(one: Unit, seconds: float) -> None:
        console.note(f"{title}: {one.row}, seed {one.seed}: {seconds:.0f} s")

    return note


def _write_item(plan: Plan, made: dict[str, Any], here: Found, console: Console) -> None:
    """The figures of an item, its table and its result."""
    from quickstudy.papers.runner import tables
    from quickstudy.papers.runner.figures import draw
    from quickstudy.papers.runner.found import MissingError
    from quickstudy.reports.canvas import to_svg
    from quickstudy.storage.files import dump_pretty, explain_disk_errors, write_atomic

    place = plan.folder / plan.item.paper
    with explain_disk_errors(place, "Free some space and run the same command again; the trainings are intact."):
        place.mkdir(parents=True, exist_ok=True)
        drawn = []
        for name in plan.item.figures:
            try:
                picture = draw(here, name)
            except (MissingError, InputError) as missing:
                console.note(f"figure {name} is left out: {missing}")
                continue
            drawn.append(name)
            write_atomic(place / f"{plan.item.name}-{name}.svg", to_svg(picture))
        made["figures"] = sorted(drawn)
        write_atomic(place / f"{plan.item.name}.csv", tables.as_csv(made).encode())
        write_atomic(place / f"{plan.item.name}.json", dump_pretty(made))


def _show_item(made: dict[str, Any], console: Console) -> None:
    from quickstudy.papers.runner import tables

    if console.json:
        console.print_json(made)
        return
    columns, lines, footnotes = tables.lines(made)
    caption = f"{made['unit']}; ± 95% interval over tasks; scale {made['scale']}, seeds: {made['seeds']}."
    console.table(made["title"], columns, lines, caption)
    if console.quiet:
        return
    for sentence in footnotes:
        print(sentence)
    for one in made["claims"]:
        verdict = (tables.ANSWERS if one["own"] else tables.VERDICTS)[one["holds"]]
        print(f"{verdict}: {one['text']} ({one['source']}) {one['evidence']}")
    for sentence in made["notes"]:
        print(sentence)


def _write_pages(paper: str, folder: Path, console: Console) -> None:
    """The paper's pages, from everything in the folder that belongs to it."""
    from quickstudy.papers.catalog import items
    from quickstudy.papers.runner import page
    from quickstudy.storage.files import explain_disk_errors, write_atomic

    results = page.read_results(folder, paper)
    if not results:
        raise InputError(
            f"Nothing of {paper} has been run in {folder}. Run an item: quickstudy reproduce {paper} "
            f"{next(iter(items(paper)))} --scale quick"
        )
    paths = [folder / f"{paper}.{kind}" for kind in ("md", "html")]
    with explain_disk_errors(folder, "Free some space and run the same command again."):
        for path in paths:
            write_atomic(path, page.render(paper, results, folder, path.suffix[1:]).encode())
    if console.json:
        console.print_json({"written": [str(path) for path in paths]})
    for path in paths:
        console.note(f"written: {path}")
