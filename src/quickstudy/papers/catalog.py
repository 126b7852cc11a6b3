"""Every item there is, by paper and name."""

from functools import cache
from importlib.resources import files

import yaml

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.papers.runner.items import Item
from quickstudy.papers.runner.load import LOADER, read_item, read_reports

PAPERS = {
    "mtnet": "T-net and MT-net (Lee, 2018)",
    "wormhole": "Wormhole MAML (Chang, Gao & Lou, 2022)",
    "hypermaml": "HyperMAML (Przewiezlikowski et al., 2022)",
    "beyond": "Beyond the papers",
}


@cache
def items(paper: str) -> dict[str, Item]:
    """A paper's items by name, from the data in its folder."""
    if paper not in PAPERS:
        raise InputError(f"There is no paper {paper!r}. {suggest_nearest(paper, PAPERS)}")
    folder = files("quickstudy.papers") / paper
    held = yaml.load((folder / "items.yaml").read_text(encoding="utf-8"), LOADER)
    tables = {name: folder / f"{one.get('reports', name)}.csv" for name, one in held["items"].items()}
    reports = {name: read_reports(path.read_text()) if path.is_file() else {} for name, path in tables.items()}
    return {name: read_item(paper, name, one, held["shared"], reports[name]) for name, one in held["items"].items()}


def item(paper: str, name: str) -> Item:
    """One item."""
    known = items(paper)
    if name not in known:
        raise InputError(f"There is no item {name!r} of {paper}. {suggest_nearest(name, [*known, 'all'])}")
    return known[name]
