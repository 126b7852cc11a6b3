"""What `quickstudy reproduce` does: list items, run one, write what was found and the page of its paper."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quickstudy.cli import command as verbs
from quickstudy.cli import terminal
from quickstudy.cli.side_by_side import side_by_side
from quickstudy.errors import InputError, RunError, suggest_nearest
from quickstudy.papers.catalog import item, items
from quickstudy.papers.runner import page, tables
from quickstudy.papers.runner.items import Found, Item, Missing
from quickstudy.papers.runner.results import result
from quickstudy.papers.runner.rows import SCALES
from quickstudy.papers.runner.store import Store, Unit
from quickstudy.papers.runner.work import Plan, Tell, chosen, found, work
from quickstudy.reports.canvas import to_png, to_svg
from quickstudy.storage.files import dump_pretty, explain_disk_errors, write_atomic
from quickstudy.storage.versions import describe_machine
from quickstudy.tasks.images.sets import IMAGE_SETS
from quickstudy.training.train import Stopped
from quickstudy.training.watcher import Watcher


def reproduce(verb: verbs.Reproduce) -> None:
    """Do what was asked."""
    if verb.list:
        _list(verb)
        return
    if verb.paper is None:
        raise InputError(f"Say which paper: {', '.join(page.PAPERS)}. `quickstudy reproduce --list` shows every item.")
    folder = Path(verb.out or "reproductions")
    if verb.item is None:
        items(verb.paper)
        _written(verb, folder)
        return
    if verb.item == "all":
        chosen_items = _with_data(items(verb.paper), loud=not (verb.quiet or verb.json))
    else:
        chosen_items = [item(verb.paper, verb.item)]
    plans = [_plan(verb, one, folder) for one in chosen_items]
    for plan in plans:
        _run(verb, plan)
    _written(verb, folder)


def _missing(one: Item) -> list[str]:
    return [name for name in one.needs if not IMAGE_SETS[name].held()]


def _with_data(known: Mapping[str, Item], *, loud: bool) -> list[Item]:
    """The items whose image sets are here."""
    for one in known.values():
        if loud and _missing(one):
            terminal.note(f"{one.name} is left out: {', '.join(_missing(one))} is not here (`quickstudy data list`)")
    return [one for one in known.values() if not _missing(one)]


def _plan(verb: verbs.Reproduce, one: Item, folder: Path) -> Plan:
    if verb.scale not in SCALES:
        raise InputError(f"There is no scale {verb.scale!r}. {suggest_nearest(verb.scale, SCALES)}")
    for option, count in (("seeds", verb.seeds), ("workers", verb.workers)):
        if count is not None and count < 1:
            raise InputError(f"`--{option}` was {count}; give 1 or more.")
    if verb.rows is not None and verb.item == "all":
        raise InputError("--rows names rows of one item, and all items were asked for. Leave it out, or name the item.")
    rows = None if verb.rows is None else [word.strip() for word in verb.rows.split(",") if word.strip()]
    for name in _missing(one):
        raise InputError(
            f"{one.paper} {one.name} needs the image set {name!r}, which is not here. `quickstudy data list` says how "
            "to get it, --data-root where it is."
        )
    return Plan(one, verb.scale, verb.seeds or one.scales[verb.scale].seeds, chosen(one, rows), folder)


def _list(verb: verbs.Reproduce) -> None:
    papers = [verb.paper] if verb.paper else list(page.PAPERS)
    every = [one for paper in papers for one in items(paper).values() if verb.item in (None, one.name)]
    if verb.item is not None and not every:
        item(papers[0], verb.item)
    if verb.json:
        for one in every:
            costs = {name: {"two cores": scale.cost, "gpu": scale.gpu} for name, scale in one.scales.items()}
            names = [row.name for row in one.rows if not row.quoted]
            plain = {"paper": one.paper, "item": one.name, "title": one.title, "rows": names, "needs": list(one.needs)}
            terminal.print_json({**plain, "seeds": {n: s.seeds for n, s in one.scales.items()}, "cost": costs})
        return
    if verb.item is not None:
        for row in every[0].rows:
            said = "quoted from the paper" if row.quoted else ", ".join(row.cells)
            print(f"{row.name}: {row.label}; {said}{f'; stand-in: {row.stand_in}' if row.stand_in else ''}")
        return
    rows = [
        (
            f"{one.paper} {one.name}",
            one.title,
            str(sum(not row.quoted for row in one.rows)),
            *(one.scales[name].cost or "-" for name in SCALES),
            one.scales["full"].gpu,
            ", ".join(one.needs) or "-",
        )
        for one in every
    ]
    columns = ("item", "what", "rows", *SCALES, "full on a GPU", "image sets")
    terminal.table("", columns, rows, "" if verb.quiet else "Costs are on two cores, with the scale's seeds.")


def _run(verb: verbs.Reproduce, plan: Plan) -> None:
    loud = not (verb.quiet or verb.json)
    store, units = Store(plan.folder), plan.units()
    waiting = [one for one in units if not store.done(one)]
    if loud:
        terminal.note(
            f"{plan.item.paper} {plan.item.name}, {plan.scale}: {len(waiting)} of {len(units)} to do "
            f"({len(units) - len(waiting)} are here already), in {plan.folder}"
        )
    stopped = False
    try:
        if verb.workers > 1 and len(waiting) > 1:
            args = (plan.item.paper, waiting, plan.folder, plan.item.name, loud)
            side_by_side(_worker, args, min(verb.workers, len(waiting)), loud=loud)
        else:
            with _interruptible() as watch:
                work(watch, waiting, plan.folder, _teller(plan.item.name, loud))
    except (Stopped, KeyboardInterrupt):
        stopped = True
    if stopped:
        left = sum(not store.done(one) for one in units)
        raise RunError(
            f"Stopped: {left} of {len(units)} trainings are not done, and nothing is lost. The same command goes on."
        )
    if any(not store.done(one) for one in units):
        terminal.note("some trainings are under way in another process; the same command shows them when they are done")
    here, about = found(plan)
    made = result(plan, here, about, describe_machine())
    _keep(plan, made, here, loud)
    _show(verb, made)


def _worker(watch: Watcher, paper: str, units: Sequence[Unit], folder: Path, title: str, loud: bool) -> None:
    items(paper)  # whose measures are known from then on
    work(watch, units, folder, _teller(title, loud))


def _teller(title: str, loud: bool) -> Tell:
    def tell(one: Unit, seconds: float) -> None:
        if loud:
            terminal.note(f"{title}: {one.row}, seed {one.seed}: {seconds:.0f} s")

    return tell


@contextmanager
def _interruptible() -> Iterator[Watcher]:
    """Ctrl-C saves and stops, as it does in training."""
    with terminal.TerminalWatcher(0, "", bar=False, rows=False) as watch:
        yield watch


def _keep(plan: Plan, made: dict[str, Any], here: Found, loud: bool) -> None:
    place = plan.folder / plan.item.paper
    with explain_disk_errors(place, "Free some space and run the same command again; the trainings are intact."):
        place.mkdir(parents=True, exist_ok=True)
        drawn = []
        for name, draw in plan.item.figures.items():
            try:
                picture = draw(here)
            except (Missing, InputError) as missing:
                if loud:
                    terminal.note(f"figure {name} is left out: {missing}")
                continue
            drawn.append(name)
            write_atomic(place / f"{plan.item.name}-{name}.png", to_png(picture))
            write_atomic(place / f"{plan.item.name}-{name}.svg", to_svg(picture))
        made["figures"] = sorted(drawn)
        write_atomic(place / f"{plan.item.name}.csv", tables.as_csv(made).encode())
        write_atomic(place / f"{plan.item.name}.json", dump_pretty(made))


def _show(verb: verbs.Reproduce, made: dict[str, Any]) -> None:
    if verb.json:
        terminal.print_json(made)
        return
    lines, notes = tables.lines(made)
    used = [i for i in range(len(tables.COLUMNS)) if i == 0 or any(line[i] for line in lines)]
    caption = f"{made['unit']}; ± 95% interval over tasks; scale {made['scale']}, seeds: {made['seeds']}."
    rows = [[line[i] for i in used] for line in lines]
    terminal.table(made["title"], [tables.COLUMNS[i] for i in used], rows, "" if verb.quiet else caption)
    if verb.quiet:
        return
    for i, sentence in enumerate(notes, start=1):
        print(f"[{i}] {sentence}")
    for text, source, verdict, evidence in tables.claims(made):
        print(f"{verdict}: {text} ({source}) {evidence}")
    for sentence in made["notes"]:
        print(sentence)


def _written(verb: verbs.Reproduce, folder: Path) -> None:
    """The paper's pages, from all that is stored of it."""
    assert verb.paper is not None
    results = page.stored(folder, verb.paper)
    if not results:
        raise InputError(
            f"Nothing of {verb.paper} has been run in {folder}. Run an item: quickstudy reproduce {verb.paper} "
            f"{next(iter(items(verb.paper)))} --scale quick"
        )
    made = page.blocks(verb.paper, results)
    paths = [folder / f"{verb.paper}.md", folder / f"{verb.paper}.html"]
    with explain_disk_errors(folder, "Free some space and run the same command again."):
        write_atomic(paths[0], page.markdown(verb.paper, made).encode())
        write_atomic(paths[1], page.html(verb.paper, made, folder).encode())
    if verb.json:
        terminal.print_json({"written": [str(path) for path in paths]})
    elif not verb.quiet:
        for path in paths:
            terminal.note(f"written: {path}")
