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
from quickstudy.errors import InputError, RunError, UserErrors, describe_error

if TYPE_CHECKING:
    from quickstudy.papers.runner.found import Found
    from quickstudy.papers.runner.items import Item
    from quickstudy.papers.runner.queue import Queued, Standing
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
    """mtnet, wormhole, hypermaml, or beyond: questions that the papers leave open. Or a YAML file: a queue, whose
    items are run in their order; it goes on where it was stopped (with --list: what is done and left, in hours)."""
    item: Positional[Annotated[str | None, arg(metavar="ITEM", help_behavior_hint="")]] = None
    """A table or figure, such as table-6.1 (see --list), or all."""
    list: Flag = False
    """Show every item: its rows, what it costs at each scale, the image sets it needs."""
    rows: Names = None
    """Only these rows, names or patterns with commas: `maml,"tanh-*"` (see `reproduce PAPER ITEM --list`)."""
    scale: str = "quick"
    """smoke (seconds: only that it works), quick (minutes: what is large), cpu (hours: which method is better) or full
    (the paper's budget)."""
    seeds: Count = None
    """Trainings of each row (default: the scale's)."""
    workers: int = 1
    """Processes that train rows side by side."""
    hours: Annotated[float | None, arg(metavar="HOURS", help_behavior_hint="")] = None
    """Stop a queue after so much time."""
    out: Folder = None
    """Directory of trainings, results and pages (default: reproductions)."""

    def run(self, console: Console, overrides: Sequence[str]) -> None:
        """Show the items, or run what was named and write the paper's page."""
        from quickstudy.papers.catalog import PAPERS, item, items

        if self.paper is not None and Path(self.paper).suffix in (".yaml", ".yml"):
            self._run_queue(Path(self.paper), console)
            return
        if self.hours is not None:
            raise InputError("--hours is the time of a queue: give a YAML file in the place of the paper.")
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
        from quickstudy.papers.runner.work import Plan, choose_rows, scale_of

        scale = scale_of(one, self.scale)
        for option, count in (("seeds", self.seeds), ("workers", self.workers)):
            if count is not None and count < 1:
                raise InputError(f"`--{option}` was {count}; give 1 or more.")
        if self.rows is not None and self.item == "all":
            raise InputError(
                "--rows names rows of one item, and all items were asked for. Leave it out, or name the item."
            )
        rows = None if self.rows is None else [word.strip() for word in self.rows.split(",") if word.strip()]
        if rows == []:
            raise InputError(f"`--rows` was {self.rows!r}, which names none. Leave it out to run all rows.")
        for name in _missing_data(one):
            raise InputError(
                f"{one.paper} {one.name} needs the image set {name!r}, which is not here. `quickstudy data list` says "
                "how to get it, --data-root where it is."
            )
        return Plan(one, self.scale, self.seeds or scale.seeds, choose_rows(one, rows, self.scale), folder)

    def _run_queue(self, path: Path, console: Console) -> None:
        """Work off a queue, or show how far it has come."""
        from time import time

        from quickstudy.papers.runner.queue import check_failures, read_queue, stand, stand_all

        for option, given in (("rows", self.rows), ("seeds", self.seeds), ("item", self.item)):
            if given is not None:
                raise InputError(f"{option} {given!r} was given beside a queue: its entries name their own.")
        for option, limit in (("workers", self.workers), ("hours", self.hours)):
            if limit is not None and not limit > 0:
                raise InputError(f"`--{option}` was {limit:g}; give more than 0.")
        every = read_queue(path, Path(self.out or "reproductions"))
        missing = [(one, _missing_data(one.plan.item)) for one in every]
        queue = [one for one, sets in missing if not sets]
        for one, sets in missing:
            if sets:
                console.note(f"{one.name} is left out: {', '.join(sets)} is not here")
        if not queue:
            lacking = sorted({name for _, sets in missing for name in sets})
            raise InputError(
                f"Nothing of {path} can run: each of its entries needs an image set that is not here "
                f"({', '.join(lacking)}). `quickstudy data list` says how to get it, --data-root where it is."
            )
        if self.list:
            _list_queue(queue, self.workers, console)
            return
        until = None if self.hours is None else time() + 3600 * self.hours
        console.note(f"{path}: {_count_left(stand_all(queue), self.workers)}")
        for one in queue:
            if stand(one).complete:  # a process may have been killed before it wrote what it had done
                try:
                    _write_queued(one, console)
                except (InputError, RunError) as error:
                    console.note(f"the result of {one.name} could not be written: {error}", always=True)
        try:
            run_side_by_side(_work_on_queue, (queue, until), self.workers, console)
        except KeyboardInterrupt:
            raise RunError(
                f"Stopped: {_count_left(stand_all(queue), self.workers)}. Nothing is lost; the same command goes on."
            ) from None
        if until is not None and time() >= until:
            left = _count_left(stand_all(queue), self.workers)
            console.note(f"The time is over: {left}. The same command goes on.", always=True)
        else:
            check_failures(queue)


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
            *(one.scales[scale].cost if scale in one.scales else "-" for scale in SCALES),
            one.scales["full"].gpu,
            ", ".join(one.needs) or "-",
        )
        for one in every
    ]
    columns = ("item", "what", "rows", *SCALES, "full on a GPU", "image sets")
    console.table("", columns, rows, caption="Costs are on two cores, with the scale's seeds.")


def _run_plan(plan: Plan, workers: int, console: Console) -> None:
    """Train what is missing, and show and write the item."""
    from quickstudy.papers.runner.store import Store
    from quickstudy.papers.runner.work import work
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
            with TerminalWatcher(
                console, 0, "", notes=False
            ) as watcher:  # shows nothing; Ctrl-C saves and stops, as in training
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
    _show_item(_write_result(plan, console), console)


def _write_result(plan: Plan, console: Console) -> dict[str, Any]:
    """The result of what is there of a plan, as it is written with its table and figures."""
    from quickstudy.papers.runner.results import result
    from quickstudy.papers.runner.work import collect, with_done
    from quickstudy.storage.versions import describe_machine

    folder = plan.folder / "readings"
    misfit = f"The readings in {folder} do not fit {plan.item.paper} {plan.item.name}: {{}}. Delete them to read again."
    with UserErrors(misfit.format):  # each figure and claim expects arrays of its own
        whole = with_done(plan)
        here, about = collect(whole)
        made = result(whole, here, about, describe_machine())
        _write_item(whole, made, here, console)
    return made


def _list_queue(queue: Sequence[Queued], workers: int, console: Console) -> None:
    """What is done of a queue and what is left."""
    from quickstudy.papers.runner.queue import stand_all

    standings = list(zip(queue, stand_all(queue), strict=True))
    if console.json:
        for one, state in standings:
            about = {"paper": one.entry.paper, "item": one.entry.item, "scale": one.plan.scale, "seeds": one.plan.seeds}
            left = {
                "done": state.done,
                "cases": state.cases,
                "trainings_left": len(state.trainings),
                "hours_left": state.hours,
            }
            console.print_json({**about, **left, "decides": one.entry.decides})
        return
    lines = [
        (
            one.name,
            one.entry.decides,
            str(one.plan.seeds),
            f"{state.done} of {state.cases}",
            str(len(state.trainings)),
            f"{state.hours:.1f}" + ("" if state.measured or state.complete else " (guessed)"),
        )
        for one, state in standings
    ]
    columns = ("item", "decides", "seeds", "cases done", "trainings left", "hours left, one core")
    console.table("", columns, lines, caption=f"{_count_left([state for _, state in standings], workers)}.")


def _count_left(standings: Sequence[Standing], workers: int) -> str:
    """How much of a queue is left, and for how long."""
    left, cases = sum(one.cases - one.done for one in standings), sum(one.cases for one in standings)
    trainings, hours = sum(len(one.trainings) for one in standings), sum(one.hours for one in standings) / workers
    return (
        f"{left} of {cases} cases are left, with {trainings} training{'s'[: trainings != 1]}: about {hours:.1f} hours "
        f"of {workers} worker{'s'[: workers > 1]}"
    )


def _work_on_queue(watcher: Watcher, console: Console, queue: Sequence[Queued], until: float | None) -> None:
    """One of several processes, on one core."""
    import torch

    from quickstudy.papers.runner.queue import Until, stand_all, work_off

    torch.set_num_threads(1)

    def tell(unit: Unit, seconds: float) -> None:
        console.note(f"{unit.row}, seed {unit.seed}: {seconds:.0f} s; {_count_left(stand_all(queue), 1)}")

    def finish(one: Queued) -> None:
        console.note(f"{one.name} is done")
        _write_queued(one, console)

    def fail(unit: Unit, error: Exception) -> None:
        console.note(f"{unit.row}, seed {unit.seed} failed: {describe_error(error)}", always=True)

    work_off(queue, Until(watcher, until), tell, finish, fail)


def _write_queued(one: Queued, console: Console) -> None:
    """The result of all that is done of an entry's item, and its paper's page."""
    _write_result(one.plan, console)
    _write_pages(one.plan.item.paper, one.plan.folder, Console(quiet=True))


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
    from quickstudy.papers.runner.results import result_name
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
            write_atomic(place / f"{result_name(made)}-{name}.svg", to_svg(picture))
        made["figures"] = sorted(drawn)
        write_atomic(place / f"{result_name(made)}.csv", tables.as_csv(made).encode())
        write_atomic(place / f"{result_name(made)}.json", dump_pretty(made))


def _show_item(made: dict[str, Any], console: Console) -> None:
    from quickstudy.papers.runner import tables

    if console.json:
        console.print_json(made)
        return
    columns, lines, footnotes = tables.lines(made)
    caption = f"{made['unit']}; ± 95% interval over tasks and seeds; scale {made['scale']}, seeds: {made['seeds']}."
    console.table(made["title"], columns, lines, caption)
    if console.quiet:
        return
    for sentence in footnotes:
        print(sentence)
    for one in made["claims"]:
        print(f"{tables.verdict(one, made['scale'])}: {one['text']} ({one['source']}) {one['evidence']}")
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
