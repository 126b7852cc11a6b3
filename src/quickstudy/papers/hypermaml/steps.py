"""HyperMAML's tables 3, 4 and 8: how far the classifier moves, and what time and accuracy steps and emissions bring."""

from collections.abc import Sequence

from quickstudy.papers.hypermaml import claims, figures
from quickstudy.papers.hypermaml import quoted as paper
from quickstudy.papers.hypermaml import setup as setups
from quickstudy.papers.hypermaml.rows import (
    ALL,
    FINETUNING_DEPARTS,
    IMAGES,
    LETTERS,
    counted,
    judged,
    row,
    scales,
    training,
)
from quickstudy.papers.hypermaml.setup import CHARACTERS, CUB, MINI, Domain
from quickstudy.papers.runner.items import ASKED, Claim, Item
from quickstudy.papers.runner.rows import Cell, Row


def _norms(of: str) -> dict[str, Cell]:
    return {
        part: Cell("update_norm", {"of": part}, (paper.TABLE_3[of][part],) if of in paper.TABLE_3 else ())
        for part in ("weight", "bias")
    }


TABLE_3 = Item(
    "hypermaml",
    "table-3",
    "HyperMAML, table 3: how far the classifier moves, Omniglot to EMNIST, 1-shot",
    (
        row("maml", "MAML, one update", training("maml", CHARACTERS, 1), _norms("MAML"), CHARACTERS.stand_in),
        row(
            "anil", "MAML, one update of the classifier alone", setups.maml(CHARACTERS, 1, name="anil"), _norms(""),
            CHARACTERS.stand_in, ("Not a row of the paper: the released code can adapt the classifier alone.",),
        ),
        row("hypermaml", "HyperMAML", training("hypermaml", CHARACTERS, 1), _norms("HyperMAML"), CHARACTERS.stand_in),
    ),
    scales(200, "about 6 minutes", "about 8 hours a seed; meant for a GPU"),
    "norm of the classifier's update, mean over test tasks",
    digits=3,
    claims=(
        Claim(
            "HyperMAML produces larger updates than MAML.", "section 4.3", claims.norm_ratio(1.0, (44.8, 18.9))
        ),
        Claim(
            "They are larger by an order of magnitude.", ASKED,
            claims.norm_ratio(10.0, (44.8, 18.9)),
        ),
    ),
    figures={"norms": figures.norms},
    needs=LETTERS,
    notes=("The norm is not named in the paper: Frobenius and Euclidean are presumed, averaged over test tasks.", ALL),
)  # fmt: skip

STEPS = (0, 1, 2, 3, 4, 5, 10, 25, 50, 100)
FINETUNING = (1, 5, 10, 25, 50, 100)


def _costs(domain: Domain, before: str, reported: paper.Table, steps: Sequence[int], more: Sequence[int]) -> list[Row]:
    """MAML by its steps, HyperMAML, and HyperMAML finetuned: seconds and accuracy."""
    column, prefix = (f"{before} " if before else ""), (f"{domain.name}-" if before else "")
    seconds, accuracy = f"{column}seconds", f"{column}accuracy"
    rows = []
    for k in steps:
        said = reported[str(k)]
        settings = {"settings": {"method.eval_inner_steps": k}}
        cells = {
            seconds: Cell("seconds", settings, (said[seconds],)),
            accuracy: judged((said[accuracy],), **settings),
            f"{column}passes": Cell("forward_passes", settings),
        }
        label = f"MAML, {counted(k)}"
        rows.append(row(f"{prefix}maml-{k}", label, training("maml", domain, 1), cells, domain.stand_in))
    said = reported["HyperMAML"]
    cells = {
        seconds: Cell("seconds", {}, (said[seconds],)),
        accuracy: judged((said[accuracy],)),
        f"{column}passes": Cell("forward_passes"),
    }
    own = training("hypermaml", domain, 1)
    rows.append(row(f"{prefix}hypermaml", "HyperMAML", own, cells, domain.stand_in))
    for k in more:
        cells = {
            seconds: Cell("seconds", {"finetuning": k}),
            accuracy: Cell("finetuned", {"steps": k, "times": 100.0}),
        }
        label = f"HyperMAML, {counted(k)} of finetuning"
        rows.append(row(f"{prefix}finetuned-{k}", label, own, cells, domain.stand_in, FINETUNING_DEPARTS))
    return rows


def _cost_claims(domain: Domain, before: str, reported: paper.Table, steps: Sequence[int]) -> tuple[Claim, ...]:
    column, prefix = (f"{before} " if before else ""), (f"{domain.name}-" if before else "")
    seconds = f"{column}seconds"
    printed = (reported["0"][seconds].value, reported["2"][seconds].value, reported["HyperMAML"][seconds].value)
    where, of, table = (f"{before}: ", "appendix D", "table 8") if before else ("", "section 4.4", "table 4")
    maml, own = f"{prefix}maml", f"{prefix}hypermaml"
    return (
        Claim(f"{where}MAML's time is linear in its steps.", table, claims.linear_time(maml, steps, seconds)),
        Claim(
            f"{where}HyperMAML takes about the time of MAML with two updates, or less.", of,
            claims.two_steps(maml, steps, seconds, own, printed),
        ),
        Claim(
            f"{where}Emitting an update costs about one forward pass over the support set.", ASKED,
            claims.one_pass(own, f"{column}passes"),
        ),
        Claim(
            f"{where}MAML never matches HyperMAML's accuracy, up to {steps[-1]} steps.", of,
            claims.never_matched(maml, steps, f"{column}accuracy", own), decides="full",
        ),
    )  # fmt: skip


COST_UNIT = "seconds for 600 test tasks; accuracy in %; adaptation in forward passes over the support set"
COST_NOTES = (
    "Seconds are those of 600 tasks one after the other, adaptation and queries, from the median of some; the paper's "
    "are a GPU's and presumably include the reading of pictures. The seconds of finetuning include a copy of the net a "
    "task.",
    "By the paper's table HyperMAML takes 3.8 times MAML's time without a step (CUB 2.0, mini-ImageNet 2.6).",
    ALL,
)

TABLE_4 = Item(
    "hypermaml",
    "table-4",
    "HyperMAML, table 4: time and accuracy against steps, Omniglot to EMNIST, 1-shot",
    tuple(_costs(CHARACTERS, "", paper.TABLE_4, STEPS, FINETUNING)),
    scales(200, "about 20 minutes", "about 6 hours a seed; meant for a GPU"),
    COST_UNIT,
    claims=_cost_claims(CHARACTERS, "", paper.TABLE_4, STEPS),
    figures={"steps": figures.costs({"": ("", "Omniglot to EMNIST")}, paper.TABLE_4)},
    needs=LETTERS,
    notes=COST_NOTES,
)

TABLE_8 = Item(
    "hypermaml",
    "table-8",
    "HyperMAML, table 8: time and accuracy against steps, CUB and mini-ImageNet, 1-shot",
    (*_costs(CUB, "CUB", paper.TABLE_8, range(8), (1, 5, 10)),
     *_costs(MINI, "mini-ImageNet", paper.TABLE_8, range(8), (1, 5, 10))),
    scales(200, "about 4 minutes", "weeks; meant for a GPU"),
    COST_UNIT,
    claims=(*_cost_claims(CUB, "CUB", paper.TABLE_8, range(8)),
            *_cost_claims(MINI, "mini-ImageNet", paper.TABLE_8, range(8))),
    figures={"steps": figures.costs({"cub-": ("CUB ", "CUB"), "mini-": ("mini-ImageNet ", "mini-ImageNet")},
                                    paper.TABLE_8)},
    needs=IMAGES,
    notes=(*COST_NOTES, "Appendix D calls this table 4 and its companion section 4.3; they are table 8 and 4.4."),
)  # fmt: skip
