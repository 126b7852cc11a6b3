"""Every item there is, by paper and name."""

from functools import cache

from quickstudy.errors import InputError, suggest_nearest
from quickstudy.papers.runner.items import Item
from quickstudy.papers.runner.load import load_items

PAPERS = {
    "mtnet": "T-net and MT-net (Lee, 2018)",
    "wormhole": "Wormhole MAML (Chang, Gao & Lou, 2022)",
    "hypermaml": "HyperMAML (Przewiezlikowski et al., 2022)",
    "beyond": "Beyond the papers",
}


@cache
def items(paper: str) -> dict[str, Item]:
    """A paper's items by name."""
    if paper not in PAPERS:
        raise InputError(f"There is no paper {paper!r}. {suggest_nearest(paper, PAPERS)}")
    return {item.name: item for item in load_items(paper)}


def item(paper: str, name: str) -> Item:
    """One item."""
    known = items(paper)
    if name not in known:
        raise InputError(f"There is no item {name!r} of {paper}. {suggest_nearest(name, [*known, 'all'])}")
    return known[name]
