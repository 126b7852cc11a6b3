"""Pages: what is stored is what they say, in one table first; in HTML nothing that was stored is read as markup."""

import json
import re
from pathlib import Path

import pytest

from quickstudy.errors import RunError
from quickstudy.papers.catalog import PAPERS, items
from quickstudy.papers.runner import page
from quickstudy.papers.runner.items import Claim
from quickstudy.papers.runner.results import result_name

PAGES = Path(__file__).parents[2] / "docs" / "reproductions"
STORED = {paper: page.read_results(PAGES, paper) for paper in PAPERS}
every_paper = pytest.mark.parametrize("paper", PAPERS)


@every_paper
def test_pages_say_what_is_stored(paper):
    assert (PAGES / f"{paper}.md").read_text() == page.render(paper, STORED[paper], PAGES, "md")
    for one in STORED[paper]:
        assert all((PAGES / paper / f"{result_name(one)}-{name}.svg").is_file() for name in one["figures"])
        assert one["scale"] != "smoke" and one["commits"] and not any("dirty" in commit for commit in one["commits"])
    assert not list(PAGES.glob("*/*.png")), "a figure is kept once"


@every_paper
def test_what_is_stored_is_of_items_claims_and_rows_that_there_are(paper):
    for one in STORED[paper]:
        item = items(paper)[one["item"]]
        assert sorted(claim.text for claim in item.claims) == sorted(claim["text"] for claim in one["claims"])
        assert {line["row"] for line in one["rows"]} <= {row.name for row in item.rows}
        assert set(one["figures"]) <= set(item.figures)


@every_paper
def test_a_page_opens_with_one_table_of_all_claims_and_folds_the_rest(paper):
    text = page.render(paper, STORED[paper], PAGES, "md")
    opening, *sections = text.split("\n## ")
    lines = [line for line in opening.splitlines() if line.startswith("| ")]
    claims = [claim for one in STORED[paper] for claim in page._shown(one, STORED[paper])]
    assert len(claims) == len({(one["item"], claim["text"]) for one in STORED[paper] for claim in one["claims"]})
    signs = [line.rstrip(" |")[-1] for line in lines[1:]]
    held = [claim["holds"] for claim in claims]
    assert signs == [page.SIGNS[one] for one in held]
    for one, section in zip(STORED[paper], sections, strict=True):
        shown, folded = section.split("<details>")
        assert shown.count("![") == len(one["figures"]) and one["command"] in folded


def test_rows_with_fewer_seeds_than_the_command_says_are_named_with_theirs():
    [one] = [dict(one) for one in STORED["wormhole"] if one["item"] == "table-1-threshold"]
    fewer = {line["row"]: len(line["ours"]["seeds"]) for line in one["rows"] if line["ours"]}
    assert one["seeds"] == max(fewer.values()) > min(fewer.values()), "or this test shows nothing"
    said = re.findall(r"--seeds (\d+) --rows ([^`]+)`", page._describe_origin(one))
    named = {row: int(count) for count, rows in said for row in rows.split(",")}
    assert named == {row: count for row, count in fewer.items() if count < one["seeds"]}
    one["rows"] = [line for line in one["rows"] if line["row"] not in named]
    assert "fewer" not in page._describe_origin(one)


@every_paper
def test_a_reader_sees_what_rows_are_called_and_not_their_names(paper):
    opening = page.render(paper, STORED[paper], PAGES, "md").partition("\n## ")[0]
    numbers = [cell for line in opening.splitlines() if line.startswith("| ") for cell in line.split(" | ")[3:5]]
    said = {part.rpartition(": ")[0] or part.split()[0] for cell in numbers for part in cell.split("; ")}
    rows = [line for one in STORED[paper] for line in one["rows"]]
    assert not said & ({line["row"] for line in rows} - {line["label"] for line in rows})
    assert said & {line["label"] for line in rows}


@every_paper
def test_no_verdict_rests_on_fewer_than_three_seeds(paper):
    for one in STORED[paper]:
        assert one["seeds"] >= 3 or all(claim["holds"] is None for claim in one["claims"]), one["item"]


@every_paper
def test_every_number_of_the_paper_is_on_its_page(paper):
    for one in STORED[paper]:
        there = {(line["row"], line["column"]) for line in one["rows"]}
        printed = {
            (row.name, column)
            for row in items(paper)[one["item"]].rows
            for column, cell in row.cells.items()
            if cell.reported
        }
        assert printed <= there, one["item"]


def test_an_item_at_two_scales_has_each_claim_once_at_the_scale_that_decides_it():
    (one,) = [one for one in STORED["hypermaml"] if one["item"] == "table-5" and one["scale"] != "cpu"]
    first, second, *rest = one["claims"]
    cpu = {**one, "scale": "cpu", "claims": [{**first, "holds": True}, second, *rest]}
    text = page.render("hypermaml", [one, cpu], PAGES, "md")
    opening, *sections = text.split("\n## ")
    lines = [line for line in opening.splitlines() if line.startswith("| table-5")]
    assert len(lines) == len(one["claims"]) and sum("at cpu scale ✓" in line for line in lines) == 1
    assert "cpu, 1 seed" in lines[0] and "1 reproduce" in opening
    assert [section.split("\n")[0].endswith("at `cpu` scale") for section in sections] == [False, True]
    assert sum("table-5-cpu-cells.svg" in section for section in sections) == 1


@pytest.mark.parametrize(
    ("verdicts", "counts"),
    [((True, None), (1, 0, 0)), ((False, None), (0, 1, 0)), ((None, None), (0, 0, 1)), ((True, False), (0, 0, 1)),
     ((False, False), (0, 1, 0))],
)  # fmt: skip
def test_a_claim_of_the_paper_that_two_items_test_counts_once(verdicts, counts):
    claim = {"text": "One is above the other.", "source": "table 1", "own": False}
    results = [
        {"item": f"table-{number}", "scale": "full", "claims": [{**claim, "holds": holds}]}
        for number, holds in enumerate(verdicts)
    ]
    yes, no, still_open = counts
    assert page._count_claims(results) == (
        f"Of the paper's claims {yes} reproduce, {no} do not, {still_open} are not decided. "
        "A claim that stands under several items counts once."
    )
    far = ", 1 of which take data or a machine that are not here." if still_open else "decided. "
    assert far in page._count_claims(results, {claim["text"]})
    asked = [{**one, "claims": [{**one["claims"][0], "own": True}]} for one in results]
    yes, no = verdicts.count(True), verdicts.count(False)
    assert page._count_claims(asked) == (
        f"Questions of this library: yes {yes}, no {no}, not decided {verdicts.count(None)}."
    )


def test_html_is_whole_and_escapes_what_was_stored():
    (one,) = [one for one in STORED["mtnet"] if one["item"] == "table-6.1"]
    evil = "<script>alert(1)</script> `a < b`"
    claims = [{**claim, "text": evil, "evidence": evil} for claim in one["claims"]]
    text = page.render("mtnet", [{**one, "title": evil, "claims": claims, "notes": [evil]}], PAGES, "html")
    assert "<script>" not in text and "<code>a &lt; b</code>" in text
    assert text.count("data:image/svg+xml;base64,") == 1 and text.count("<details>") == 1
    gone = page.render("mtnet", [one], PAGES / "nowhere", "html")
    assert "errors was not drawn" in gone and "<figure>" not in gone


@pytest.mark.parametrize(
    "change",
    [
        {"rows": [{"row": "a"}]},
        {"rows": 1},
        {"claims": [{"text": None}]},
        {"digits": 10**9},
        {"scale": "huge"},
        {"item": "../elsewhere"},
        {"figures": ["../../secret"]},
        {"stopped": {"row": []}},
        {"seconds": "long"},
        {"machine": None},
    ],
    ids=str,
)
def test_a_stored_result_of_another_shape_is_named(tmp_path, change):
    (tmp_path / "wormhole").mkdir()
    held = json.loads((PAGES / "wormhole" / "figure-4.json").read_text())
    (tmp_path / "wormhole" / "figure-4.json").write_text(json.dumps(held | change))
    with pytest.raises(RunError, match="figure-4.json is damaged.*Run its item again"):
        page.read_results(tmp_path, "wormhole")


def test_a_number_that_a_claim_is_about_may_be_missing():
    lines = {"column": "errors", "label": "row", "ours": {"more": {"slope": [1]}}}
    for name in ("slope", "none"):
        claim = Claim("", "", (("above", {"more": name}),))
        assert page._format_ours(claim, lines, 2) == "-"
