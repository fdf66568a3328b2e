"""The results page: what it makes of hand-made records, and where the claims of the real ones lead."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import chapters
import pytest
import results

from eenotes_book import records


def claim(
    statement="early is cheap",
    *,
    thesis="not stated",
    ours=0.5,
    spread=None,
    holds=True,
    where="curve",
) -> dict:
    return {
        "statement": statement,
        "thesis": thesis,
        "ours": ours,
        "spread": spread,
        "holds": holds,
        "where": where,
    }


def record(*claims, current=True, seeds=(0,), **more) -> dict:
    return {
        "data": {"digits": {"train": 1100, "val": 3, "test": 2}},
        "seeds": list(seeds),
        "claims": list(claims) or [claim()],
        "device": "CPU (two threads)",
        "seconds": 61.4,
        "recorded": "2026-01-02",
        "current": current,
    } | more


def chapter(**what) -> results.Chapter:
    return results.Chapter("02-e2cm", "Means", places={"curve": "02-e2cm.html#claim-curve"}, **what)


class Tables(HTMLParser):
    """What a reader sees of HTML tables: class of the table → rows of cell texts; links; whether a
    row is out of date.
    """

    def __init__(self, markdown: str):
        super().__init__()
        self.tables, self.links, self.outdated, self.cell, self.rows = {}, [], [], None, []
        self.feed(markdown)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "table":
            self.rows = self.tables.setdefault(attributes["class"].split()[-1], [])
        elif tag == "tr":
            self.rows.append([])
            self.outdated.append("results-outdated" in attributes.get("class", ""))
        elif tag in ("td", "th"):
            self.cell = ""
        elif tag == "a":
            self.links.append(attributes["href"])
        elif tag == "br" and self.cell is not None:
            self.cell += " / "

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append(self.cell)
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data


def read(*found: results.Chapter, scale="tiny") -> Tables:
    return Tables(results.page(scale, found))


# --- the tables


def test_a_claim_stands_beside_the_thesis_once_and_beside_every_run():
    statement = "E²CM keeps up; ours: difference, at budget 0.{}"
    fresh = record(claim(statement.format(2), thesis="≈.88", ours=0.91234, holds=False))
    study = record(
        claim(statement.format(4), thesis="≈.88", ours=-0.1, spread=0.0123, holds=True),
        seeds=(0, 1),
    )
    found = read(chapter(fresh=fresh, committed={"study": study}))
    assert found.tables["results-claims"] == [
        ["claim", "thesis", "run", "ours", "here"],
        [
            "E²CM keeps up",
            "≈.88",
            "tiny, this build",
            "0.9123 / difference, at budget 0.2",
            "✗ does not hold",
        ],
        ["study", "-0.1 ± 0.012 / difference, at budget 0.4", "✓ holds"],
    ]
    assert found.links.count("02-e2cm.html#claim-curve") == 2


def test_a_number_smaller_than_its_spread_is_said_to_be():
    ours = [(-0.03, 0.041), (0.03, 0.02), (0.03, None), ("two stages", None)]
    made = record(
        *(
            claim(name, ours=number, spread=spread)
            for name, (number, spread) in zip("abcd", ours, strict=True)
        )
    )
    rows = read(chapter(fresh=made)).tables["results-claims"][1:]
    assert ["smaller than its spread" in row[3] for row in rows] == [True, False, False, False]


def test_claims_that_differ_in_numbers_are_one_and_the_other_run_says_its_own():
    fresh, old = (
        record(claim("fast: time at cost 0.54, batch 64")),
        record(claim("fast: time at cost 0.6, batch 256")),
    )
    rows = read(chapter(fresh=fresh, committed={"reduced": old})).tables["results-claims"][1:]
    assert [row[-2] for row in rows] == ["0.5", "0.5 / fast: time at cost 0.6, batch 256"]
    assert rows[0][0] == "fast: time at cost 0.54, batch 64"


def test_claims_with_other_words_or_another_number_of_the_thesis_stay_apart():
    fresh = record(claim("MNIST: early is cheap"), claim("late is dear", thesis=".3"))
    study = record(claim("CIFAR: early is cheap"), claim("late is dear", thesis=".4"))
    rows = read(chapter(fresh=fresh, committed={"study": study})).tables["results-claims"][1:]
    assert [row[:2] for row in rows] == [
        ["MNIST: early is cheap", "not stated"],
        ["late is dear", ".3"],
        ["CIFAR: early is cheap", "not stated"],
        ["late is dear", ".4"],
    ]


@pytest.mark.parametrize(
    "ours, spread, shown",
    [
        (0.5, None, "0.5"),
        (0.123456, 0.00789, "0.1235 ± 0.0079"),
        (-4e-05, 5.47e-06, "-4e-05 ± 5.5e-06"),
        (1.0, float("nan"), "1"),
        ("two stages", None, "two stages"),
    ],
)
def test_spread(ours, spread, shown):
    rows = read(chapter(fresh=record(claim(ours=ours, spread=spread)))).tables["results-claims"]
    assert rows[1][3] == shown


def test_where_the_numbers_come_from():
    rows = read(chapter(fresh=record(seeds=(0, 1, 2)))).tables["results-runs"]
    assert rows[1] == [
        "tiny, this build", "digits: 1,100 train, 3 val, 2 test", "3 (0, 1, 2)", "CPU (two threads)", "2026-01-02", "the present code",
    ]  # fmt: skip


def test_a_verdict_for_each_answer():
    fresh = record(
        *(
            claim(f"{word} one", holds=holds)
            for word, holds in (("yes", True), ("no", False), ("open", None))
        )
    )
    found = read(chapter(fresh=fresh))
    assert [row[-1] for row in found.tables["results-claims"][1:]] == [
        "✓ holds",
        "✗ does not hold",
        "– not testable here",
    ]
    assert found.tables["results-glance"][1] == ["2. Means", "1 holds, 1 does not, 1 not testable"]


# --- out of date, and not there


def test_a_record_of_other_code_is_marked_wherever_it_is_shown():
    found = read(chapter(fresh=record(), committed={"reduced": record(current=False)}, seconds=30))
    assert found.tables["results-runs"][2][-1] == "an earlier state of the code: out of date"
    assert found.tables["results-claims"][2][0] == "reduced / out of date"
    told = "1 holds, 0 do not, 0 not testable"
    assert found.tables["results-glance"][1] == ["2. Means", told, f"{told} out of date"]
    assert found.tables["results-times"][1][2] == "61 s out of date / CPU (two threads)"
    assert sum(found.outdated) == 2  # its row among the runs, and its claim
    assert "out of date" not in "".join(map(str, read(chapter(fresh=record())).tables.values()))


def test_a_chapter_without_a_record_says_so():
    page = results.page(
        "tiny",
        [chapter(fresh=record()), results.Chapter("03-none", "Nothing", places={}, seconds=5)],
    )
    one, other = (part.split("## Chapter")[0] for part in page.split("## Chapter")[1:])
    assert (
        "No record" in one
        and all(f"<b>{name}</b>" in one for name in ("reduced", "full", "study"))
        and "this build</b> (" not in one
    )
    assert "<b>tiny, this build</b> (small data" in other and "<table" not in other
    assert Tables(page).tables["results-glance"][2] == ["3. Nothing", "no record"]


def test_the_published_run_is_shown_once_although_its_record_is_committed_too():
    found = read(
        chapter(fresh=record(claim(ours=1.0)), committed={"reduced": record(claim(ours=2.0))}),
        scale="reduced",
    )
    assert [row[-2] for row in found.tables["results-claims"][1:]] == ["1"]


def test_seconds_are_of_the_published_execution_or_of_the_record():
    found = read(
        chapter(
            fresh=record(),
            committed={"reduced": record(seconds=1234.5), "study": record()},
            seconds=29.6,
        ),
        results.Chapter(
            "03-none",
            "Nothing",
            places={"curve": "#"},
            committed={"reduced": record(seconds=0.0)},
            seconds=5,
        ),
    )
    assert found.tables["results-times"] == [
        ["chapter", "tiny, this build", "reduced"],
        ["2. Means", "30 s / CPU (two threads)", "1,234 s / CPU (two threads)"],
        ["3. Nothing", "5 s", "not measured / CPU (two threads)"],
    ]


def test_a_label_that_no_cell_has_is_an_error_and_in_an_old_record_the_chapter():
    lost = record(claim(where="nowhere"))
    with pytest.raises(
        ValueError, match=r"02-e2cm: no cell makes 'nowhere'.*\"claims\": \[\"nowhere\"\]"
    ):
        read(chapter(fresh=lost))
    assert "02-e2cm.html" in read(chapter(committed={"reduced": lost | {"current": False}})).links


# --- as Markdown


NASTY = "a|b $x_1$ and $y$ <b>no</b> & *so* on `code` [link](to) {role} \\frac ~~gone~~"


def test_no_text_of_a_record_means_anything_to_markdown_or_mathjax():
    pytest.importorskip("myst_parser", reason="the book's tools are not installed")
    from markdown_it.renderer import RendererHTML
    from myst_parser.config.main import MdParserConfig
    from myst_parser.parsers.mdit import create_md_parser

    enabled = chapters.yaml.safe_load(chapters.CONFIG.read_text(encoding="utf-8"))["parse"][
        "myst_enable_extensions"
    ]
    parser = create_md_parser(MdParserConfig(enable_extensions=enabled), RendererHTML)
    fresh = record(claim(NASTY, thesis=NASTY, ours=NASTY), device=NASTY, data={NASTY: {"train": 1}})
    page = results.page(
        "tiny", [chapter(fresh=fresh, committed={"reduced": record(claim(NASTY, thesis=NASTY))})]
    )
    kinds = {token.type for token in parser.parse(page)}
    assert kinds == {"heading_open", "inline", "heading_close", "html_block"}
    rows = Tables(page).tables
    assert rows["results-claims"][1][:2] == [NASTY, NASTY] and rows["results-claims"][1][3] == NASTY
    assert rows["results-runs"][1][1] == f"{NASTY}: 1 train" and rows["results-runs"][1][3] == NASTY


def test_each_value_says_its_column_for_a_narrow_screen():
    page = results.page("tiny", [chapter(fresh=record())])
    for line in page.splitlines():
        if "<td" in line:
            assert line.count("<td") == line.count(' data-head="') == line.count('role="cell"')


def test_only_the_marker_is_replaced():
    page = results.fill(
        f"# Results\n\n{results.MARKER}\n\nend\n", "tiny", [chapter(fresh=record())]
    )
    assert page.startswith("# Results\n\n## At a glance\n") and page.endswith("\n\nend\n")
    with pytest.raises(ValueError, match="exactly one line"):
        results.fill("# Results\n", "tiny", [])


def test_the_page_in_git_has_one_marker_and_no_result():
    page = (chapters.BOOK / "results.md").read_text(encoding="utf-8")
    assert page.splitlines().count(results.MARKER) == 1
    assert "<table" not in page
    assert "results" in chapters.toc_files()


# --- the record of an execution


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A book of one chapter, whose execution writes what `bench.makes` says."""
    monkeypatch.setattr(chapters, "BUILD", tmp_path / "build")
    monkeypatch.setattr(chapters, "BOOK", tmp_path / "book")
    monkeypatch.setattr(chapters, "chapter_key", lambda chapter, scale: "key")
    monkeypatch.setenv("EENOTES_RESULTS", str(tmp_path / "results"))
    for name, content in {"study": {"a": 1}, "tiny": {"old": True}}.items():
        chapters.write_json(tmp_path / "results" / name / "02-e2cm.json", content)
    chapters.write_json(tmp_path / "book" / "02-e2cm.ipynb", {"cells": [], "metadata": {}})

    class Bench:
        makes, succeeds, seen = None, True, None

        def execute(self):
            return chapters.execute("02-e2cm", "tiny")

        def nbmake(self, notebook, scale, where):
            self.seen = sorted(str(p.relative_to(where)) for p in where.rglob("*.json"))
            if self.makes is not None:
                chapters.write_json(
                    Path(chapters.environment(scale, where)["EENOTES_RESULTS"])
                    / scale
                    / "02-e2cm.json",
                    self.makes,
                )
            return self.succeeds

        def kept(self):
            path = chapters.record_of("02-e2cm", "tiny")
            return json.loads(path.read_text()) if path.exists() else None

        def lying(self):
            return json.loads((tmp_path / "results" / "tiny" / "02-e2cm.json").read_text())

    bench = Bench()
    monkeypatch.setattr(chapters, "nbmake", bench.nbmake)
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    return bench


def test_an_execution_keeps_its_record_beside_its_copy(bench):
    bench.makes = {"new": 1}
    assert bench.execute() and chapters.is_current("02-e2cm", "tiny")
    assert bench.kept() == bench.lying() == {"new": 1}
    assert bench.seen == ["study/02-e2cm.json"], (
        "a chapter sees the other scales' records, not one that it has not made"
    )


def test_an_execution_without_a_record_has_none_whatever_lies_around(bench):
    bench.makes = {"new": 1}
    bench.execute()
    bench.makes = None
    assert bench.execute() and bench.kept() is None
    assert bench.lying() == {"new": 1}


def test_a_failed_execution_changes_no_record(bench):
    bench.makes = {"new": 1}
    bench.execute()
    bench.makes, bench.succeeds = {"half": 1}, False
    assert not bench.execute()
    assert bench.kept() == bench.lying() == {"new": 1}


# --- where the real claims lead


def labels(name: str, notebook: Path) -> list[str]:
    return [
        label
        for cell in chapters.read_notebook(notebook)["cells"]
        for label in chapters.claims_of(cell)
    ]


@pytest.mark.parametrize("name", chapters.chapters())
def test_a_label_belongs_to_one_cell(name):
    found = labels(name, chapters.BOOK / f"{name}.ipynb")
    assert len({chapters.anchor(label) for label in found}) == len(found)


def test_every_claim_of_every_record_leads_to_a_cell():
    """The committed records, and those of the chapters that have been executed here, by this code."""
    folder = records.results_folder()
    known = [path for at in results.RECORDED for path in sorted((folder / at).glob("*.json"))]
    assert known
    fresh = [
        chapters.record_of(name, "tiny")
        for name in chapters.chapters()
        if chapters.is_current(name, "tiny")
    ]
    for path in [*known, *filter(Path.exists, fresh)]:
        found = json.loads(path.read_text(encoding="utf-8"))
        there = labels(found["chapter"], chapters.BOOK / f"{found['chapter']}.ipynb")
        missing = {c["where"] for c in found["claims"]} - set(there)
        assert not missing, (
            f"{path.name}: claims that come from {missing}; the cells of the chapter make {there}"
        )


def test_a_cell_that_makes_a_claim_gets_a_place_to_link_to():
    code = {
        "cell_type": "code",
        "id": "a",
        "metadata": {"claims": ["Order, loss or sparsity?", "x"]},
        "source": "1",
        "outputs": [],
    }
    plain = {"cell_type": "code", "id": "b", "metadata": {}, "source": "2", "outputs": []}
    cells = chapters.page_source({"cells": [plain, code], "metadata": {}})["cells"]
    assert [c["id"] for c in cells] == ["b", "claim-order-loss-or-sparsity", "a"]
    assert re.findall(r'id="([^"]+)"', cells[1]["source"]) == [
        "claim-order-loss-or-sparsity",
        "claim-x",
    ]
