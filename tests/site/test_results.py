"""The results page: what it makes of hand-made records, and where real claims lead."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import chapters
import page_html
import pages
import pytest
import results

from eenotes_book import records


def row_of(kind: str, statement: str, thesis: str, ours, **more) -> dict:
    """What `Record` writes of a claim, a check or a number."""
    row = {"kind": kind, "statement": statement, "thesis": thesis, "ours": ours, "spread": None}
    return row | {"n": 1, "where": "curve"} | more


def claim(statement="early is cheap", *, thesis="not stated", ours=0.5, **more) -> dict:
    """A claim of five runs."""
    found = {"spread": 0.1, "n": 5, "verdict": "holds", "reason": "r", "ratio": None}
    found |= {"difference": ours, "low": 0.4, "high": 0.6, "at_thesis_setting": False}
    return row_of("claim", statement, thesis, ours, **found | more)


def check(verdict="holds") -> dict:
    return row_of("check", "parts add up", "by construction", 0.0, verdict=verdict)


NUMBER = row_of("number", "networks", "9", 3.0)


def record(*claims, current=True, seeds=(0,), **more) -> dict:
    made = {"data": {"digits": {"train": 1100, "val": 3, "test": 2}}, "seeds": list(seeds)}
    made |= {"claims": list(claims) or [claim()], "device": "CPU (two threads)"}
    made |= {"seconds": 61.4, "recorded": "2026-01-02", "current": current}
    return made | {"outdated": [] if current else ["it was made with other settings"]} | more


def chapter(**what) -> results.Chapter:
    return results.Chapter("02-e2cm", "Means", places={"curve": "02-e2cm.html#claim-curve"}, **what)


class Tables(HTMLParser):
    """What a reader sees: class of the table → rows of cell texts; links; rows out of date."""

    def __init__(self, markdown: str):
        super().__init__()
        self.tables, self.links, self.outdated, self.folded = {}, [], [], set()
        self.cell, self.closed = None, False
        self.feed(markdown)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "table":
            name = attributes["class"].split()[-1]
            self.rows = self.tables.setdefault(name, [])
            self.folded |= {name} if self.closed else set()
        elif tag == "details":
            self.closed = "open" not in attributes
        elif tag == "tr":
            self.rows.append([])
            self.outdated.append("results-outdated" in attributes.get("class", ""))
        elif tag in ("td", "th"):
            self.cell = ""
        elif tag == "a":
            self.links.append(attributes["href"])
        elif tag == "br":
            self.handle_data(" / ")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append(self.cell)
            self.cell = None
        elif tag == "details":
            self.closed = False

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data


def read(*found: results.Chapter, scale="tiny") -> Tables:
    return Tables(results.page(scale, found))


HEADS = ["claim", "thesis", "ours", "verdict", "at the thesis's setting?", "ours ÷ thesis"]


# --- the tables


def test_one_row_per_claim_from_the_best_run_and_the_others_folded():
    statement = "E²CM keeps up; ours: difference, at budget 0.{}"
    once = {"n": 1, "low": None, "high": None, "verdict": "one run"}
    best = {"ours": 0.87654, "difference": 0.1, "low": 0.05, "high": 0.15, "ratio": 0.996}
    fresh = record(claim(statement.format(2), thesis="≈.88", ours=0.91, **once))
    study = record(claim(statement.format(4), thesis="≈.88", at_thesis_setting=True, **best))
    found = read(chapter(fresh=fresh, committed={"study": study}))
    interval = "difference 0.100 [0.050, 0.150], n = 5"
    ours = f"0.877 / {interval}; difference, at budget 0.4; study"
    row = ["E²CM keeps up", "≈.88", ours, "✓ holds", "yes", "0.996"]
    assert found.tables["results-claims"] == [HEADS, row]
    ours = "0.910 / n = 1; difference, at budget 0.2; tiny, this build"
    (_, other) = found.tables["results-others"]
    assert other == ["E²CM keeps up", "≈.88", ours, "• one run", "no", "–"]
    assert found.folded == {"results-claims", "results-others", "results-runs"}
    assert found.links.count("02-e2cm.html#claim-curve") == 3


def test_the_best_run_is_a_study_then_full_then_reduced_then_this_build():
    kept = {at: record(claim(ours=i)) for i, at in enumerate(["reduced", "full", "study"])}
    for scale in ("tiny", "reduced"):
        names = list(results.runs(scale, chapter(fresh=record(), committed=kept)))
        wanted = ["study", "full", "reduced", "tiny"]
        assert names == (wanted if scale == "tiny" else wanted[:3])
        made = chapter(fresh=record(claim(ours=9.0)), committed={"reduced": kept["reduced"]})
        (_, row) = read(made, scale="reduced").tables["results-claims"]
        assert row[2].startswith("9.00 / "), (
            "the published run, not the committed record of its scale"
        )


def test_claims_with_other_words_or_another_number_of_the_thesis_stay_apart():
    fresh = record(claim("MNIST: early is cheap"), claim("late is dear", thesis=".3"))
    study = record(claim("CIFAR: early is cheap"), claim("late is dear", thesis=".4"))
    rows = read(chapter(fresh=fresh, committed={"study": study})).tables["results-claims"][1:]
    assert [" ".join(row[:2]) for row in rows] == [
        "CIFAR: early is cheap not stated", "late is dear .4",
        "MNIST: early is cheap not stated", "late is dear .3",
    ]  # fmt: skip


def test_every_verdict_has_its_sign_and_only_open_ones_their_reason():
    words = ["holds", "fails", "undecided", "one run", "not testable here"]
    claims = [claim(word, verdict=word, reason="why") for word in words]
    found = read(chapter(fresh=record(*claims)))
    assert [row[3] for row in found.tables["results-claims"][1:]] == [
        "✓ holds", "✗ fails", "≈ undecided / why", "• one run", "– not testable here / why",
    ]  # fmt: skip
    assert found.tables["results-glance"] == [["chapter", *words], ["2. Means", *"11111"]]


def test_one_row_in_sight_per_claim_of_the_thesis():
    said = {"thesis": "≈.88", "at_thesis_setting": False}
    nets = [claim(f"{name}: it keeps up", **said, ours=v) for name, v in (("A", 0.5), ("B", 0.25))]
    nets[1]["verdict"] = "fails"
    others = [
        claim("x", thesis="not stated"),
        claim("y", thesis="not in the thesis"),
        claim("z", thesis="9"),
    ]
    found = read(chapter(fresh=record(*nets, *others), committed={"study": record(nets[0])}))
    assert found.tables["results-thesis"] == [
        ["", "claim", "thesis", "ours", "its setting?", "verdict"],
        ["2", "it keeps up", "≈.88", "0.500 A / 0.250 B", "no", "✓ holds / ✗ fails"],
        ["2", "z", "9", "0.500", "no", "✓ holds"],
    ]
    assert "results-thesis" not in found.folded
    assert "results-thesis" not in read(chapter(fresh=record(others[0]))).tables


def test_checks_and_numbers_are_listed_apart_and_a_broken_check_is_in_sight():
    found = read(chapter(fresh=record(claim(), check(), NUMBER)))
    assert len(found.tables["results-claims"]) == 2
    assert found.tables["results-checks"][1][::2] == ["parts add up", "✓ holds"]
    assert found.tables["results-numbers"][1] == ["networks", "3.00 / n = 1; tiny, this build", "9"]
    assert {"results-checks", "results-numbers"} <= found.folded
    broken = read(chapter(fresh=record(claim(), check("fails"))))
    assert "results-checks" not in broken.folded


def test_where_the_numbers_come_from_how_long_it_took_and_what_is_out_of_date():
    study = record(seeds=(0, 1, 2), seconds=1234.5, current=False)
    found = read(chapter(fresh=record(), committed={"study": study}, seconds=29.6))
    data, device = "digits: 1,100 train, 3 val, 2 test", "CPU (two threads)"
    old = "an earlier state: out of date / it was made with other settings"
    assert found.tables["results-runs"][1:] == [
        ["study", data, "3 (0, 1, 2)", device, "1,234", "2026-01-02", old],
        ["tiny, this build", data, "1 (0)", device, "30", "2026-01-02", "the present code"],
    ]
    assert found.tables["results-claims"][1][2].endswith("study out of date")
    assert sum(found.outdated) == 2  # its claim, and its row among the runs
    assert "out of date" not in str(read(chapter(fresh=record())).tables)


def test_a_chapter_without_a_record_says_so():
    page = results.page("tiny", [chapter(), chapter(fresh=record())])
    first = page.split("## Chapter")[1]
    assert "No record of this chapter" in first and "<table" not in first


def test_a_label_that_no_cell_has_is_an_error_and_in_an_old_record_the_chapter():
    lost = record(claim(where="nowhere"))
    with pytest.raises(ValueError, match=r"no cell makes 'nowhere'.*\"claims\": \[\"nowhere\"\]"):
        read(chapter(fresh=lost))
    assert "02-e2cm.html" in read(chapter(committed={"reduced": lost | {"current": False}})).links


def test_a_moved_probe_puts_committed_records_out_of_date(capsys):
    study, sentences = record(), ["lead[0] is 2 instead of 1"]
    assert pages.with_reasons(study, []) == study and pages.with_reasons(None, sentences) is None
    old = pages.with_reasons(study, sentences)
    assert not old["current"] and "lead[0] is 2 instead of 1" in old["outdated"][0]
    pages.report([chapter(committed={"study": old, "reduced": record()})])
    printed = capsys.readouterr().out
    assert printed.startswith("record of 02-e2cm at study is out of date: the probe of the present")
    assert "reduced" not in printed


# --- as Markdown


NASTY = "a|b $x_1$ and $y$ <b>no</b> & *so* on `code` [link](to) {role} \\frac ~~gone~~"


def test_no_text_of_a_record_means_anything_to_markdown_or_mathjax():
    pytest.importorskip("myst_parser", reason="the book's tools are not installed")
    from markdown_it.renderer import RendererHTML
    from myst_parser.config.main import MdParserConfig
    from myst_parser.parsers.mdit import create_md_parser

    config = chapters.yaml.safe_load(chapters.CONFIG.read_text(encoding="utf-8"))
    enabled = config["parse"]["myst_enable_extensions"]
    parser = create_md_parser(MdParserConfig(enable_extensions=enabled), RendererHTML)
    nasty = claim(NASTY, thesis=NASTY, ours=NASTY, reason=NASTY, verdict="undecided")
    fresh = record(nasty, check(), NUMBER, device=NASTY, data={NASTY: {"train": 1}})
    other = record(claim(NASTY, thesis=NASTY), current=False)
    page = results.page("tiny", [chapter(fresh=fresh, committed={"reduced": other})])
    kinds = {token.type for token in parser.parse(page)}
    assert kinds == {"heading_open", "inline", "heading_close", "html_block"}
    rows = Tables(page).tables
    assert rows["results-claims"][1][:2] == [NASTY, NASTY]
    assert rows["results-others"][1][2].startswith(NASTY) and NASTY in rows["results-others"][1][3]
    assert rows["results-runs"][2][1::2][:2] == [f"{NASTY}: 1 train", NASTY]


def test_each_value_has_its_column_for_a_narrow_screen():
    page = results.page("tiny", [chapter(fresh=record())])
    for line in page.splitlines():
        assert line.count("<td") == line.count(' data-head="') == line.count('role="cell"')
    assert page_html.table("x", [{"a": "1"}], outdated=[True]).count("results-outdated") == 1


def test_only_the_marker_is_replaced_and_the_page_in_git_has_one():
    page = f"# Results\n\n{results.MARKER}\n\nend\n"
    page = results.fill(page, "tiny", [chapter(fresh=record())])
    assert page.startswith("# Results\n\n## The thesis's claims\n") and page.endswith("\n\nend\n")
    with pytest.raises(ValueError, match="exactly one line"):
        results.fill("# Results\n", "tiny", [])
    page = (chapters.BOOK / "results.md").read_text(encoding="utf-8")
    assert page.splitlines().count(results.MARKER) == 1 and "<table" not in page
    assert "results" in chapters.toc_files()
    assert all(f"{mark} {word}" in page for word, mark in results.MARKS.items())


# --- the record of an execution


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A book of one chapter, whose execution writes what `bench.makes` says."""
    lying = tmp_path / "results" / "tiny" / "02-e2cm.json"
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    monkeypatch.setattr(chapters, "BUILD", tmp_path / "build")
    monkeypatch.setattr(chapters, "BOOK", tmp_path / "book")
    monkeypatch.setattr(chapters, "chapter_key", lambda chapter, scale: "key")
    monkeypatch.setenv("EENOTES_RESULTS", str(tmp_path / "results"))
    chapters.write_json(tmp_path / "results" / "study" / "02-e2cm.json", {"a": 1})
    chapters.write_json(lying, {"old": True})
    chapters.write_json(tmp_path / "book" / "02-e2cm.ipynb", {"cells": [], "metadata": {}})

    class Bench:
        seen = None

        def execute(self, makes, succeeds=True):
            self.makes, self.succeeds = makes, succeeds
            return chapters.execute("02-e2cm", "tiny")

        def nbmake(self, notebook, scale, where):
            self.seen = sorted(str(p.relative_to(where)) for p in where.rglob("*.json"))
            if self.makes is not None:
                folder = Path(chapters.environment(scale, where)["EENOTES_RESULTS"])
                chapters.write_json(folder / scale / "02-e2cm.json", self.makes)
            return 1.5 if self.succeeds else None

        def records(self):
            """The record that is kept beside the executed copy, and the one that lies around."""
            kept = chapters.record_of("02-e2cm", "tiny")
            return [json.loads(p.read_text()) if p.exists() else None for p in (kept, lying)]

    bench = Bench()
    monkeypatch.setattr(chapters, "nbmake", bench.nbmake)
    return bench


def test_an_execution_keeps_its_record_and_sees_no_earlier_one(bench):
    new = {"new": 1}
    assert bench.execute(makes=new) and chapters.is_current("02-e2cm", "tiny")
    assert bench.records() == [new, new]
    assert bench.seen == ["study/02-e2cm.json"], "only the other scales' records"
    assert not bench.execute(makes={"half": 1}, succeeds=False)
    assert bench.records() == [new, new], "a failed execution changes no record"
    assert bench.execute(makes=None)
    assert bench.records() == [None, new], "without a record, whatever lies around"


# --- where the real claims lead


def labels(name: str) -> list[str]:
    cells = chapters.read_notebook(chapters.BOOK / f"{name}.ipynb")["cells"]
    return [label for cell in cells for label in pages.claims_of(cell)]


@pytest.mark.parametrize("name", chapters.chapters())
def test_a_label_belongs_to_one_cell(name):
    found = labels(name)
    assert len({pages.anchor(label) for label in found}) == len(found)


def test_every_claim_of_every_record_leads_to_a_cell():
    """In the committed records, and in those of the chapters executed here by the present code."""
    folder = records.results_folder()
    paths = [path for at in results.RECORDED for path in sorted((folder / at).glob("*.json"))]
    assert paths
    current = [name for name in chapters.chapters() if chapters.is_current(name, "tiny")]
    paths += filter(Path.exists, (chapters.record_of(name, "tiny") for name in current))
    for path in paths:
        found = json.loads(path.read_text(encoding="utf-8"))
        missing = {c["where"] for c in found["claims"]} - set(labels(found["chapter"]))
        assert not missing, f"{path.name}: claims that come from {missing}, which no cell makes"


def test_a_cell_that_makes_a_claim_gets_a_place_to_link_to():
    plain = {"cell_type": "code", "id": "b", "metadata": {}, "source": "2", "outputs": []}
    code = plain | {"id": "a", "metadata": {"claims": ["Order, loss or sparsity?", "x"]}}
    cells = pages.page_source({"cells": [plain, code], "metadata": {}})["cells"]
    place = "claim-order-loss-or-sparsity"
    assert [c["id"] for c in cells] == ["b", place, "a"]
    assert re.findall(r'id="([^"]+)"', cells[1]["source"]) == [place, "claim-x"]
