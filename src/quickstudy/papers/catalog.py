"""Every item there is, by paper and name."""

from importlib import import_module

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.papers.runner.items import Item
from quickstudy.papers.runner.page import PAPERS


def items(paper: str) -> dict[str, Item]:
    """A paper's items by name."""
    if paper not in PAPERS:
        raise InputError(f"There is no paper {paper!r}. {suggest_nearest(paper, PAPERS)}")
    # Not above: a list of one paper need not read the tables of the others.
    every: tuple[Item, ...] = import_module(f"quickstudy.papers.{paper}").ITEMS
    return {item.name: item for item in every}


def item(paper: str, name: str) -> Item:
    """One item."""
    known = items(paper)
    if name not in known:
        raise InputError(f"There is no item {name!r} of {paper}. {suggest_nearest(name, [*known, 'all'])}")
    return known[name]
