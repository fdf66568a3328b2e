"""The table of claims at the end of a chapter."""

import re

import pytest

from eenotes_book import claims_table, records


@pytest.mark.parametrize(
    ("value", "like", "shown"),
    [
        (0.87654, None, "0.877"),
        (-0.352611, None, "−0.353"),
        (-0.0002667, None, "−0.0003"),
        (0.0, None, "0.000"),
        (4.569, None, "4.57"),
        (81.34, None, "81.3"),
        (1234.5, None, "1,234"),
        (0.5, 81.0, "0.5"),
        ("no", None, "no"),
        (None, None, ""),
    ],
)
def test_a_number_has_two_or_three_digits(value, like, shown):
    assert claims_table.short(value, like) == shown


@pytest.mark.parametrize(
    ("kind", "thesis", "whose"),
    [
        ("claim", "≈.88 (figure)", "thesis"),
        ("claim", "visible in the heat map", "thesis"),
        ("claim", "not stated", "no number"),
        ("claim", "not stated; predicted by others", "no number"),
        ("claim", "future work", "ours"),
        ("claim", "not in the thesis", "ours"),
        ("claim", "ours, not the thesis's", "ours"),
        ("claim", "Kubaty et al., 2026: it is ahead", "ours"),
        ("number", "9", "numbers"),
        ("check", "by construction", "check"),
    ],
)
def test_the_thesis_s_claims_are_told_from_others(kind, thesis, whose):
    assert claims_table.origin({"kind": kind, "thesis": thesis}) == whose


def test_a_record_shows_the_thesis_s_claims_first_with_verdicts_and_no_checks():
    record = records.Record("02-e2cm", data={}, seeds=range(5))
    five = [0.1, 0.11, 0.12, 0.1, 0.11]
    record.claim("a < b; ours: lead", thesis="not in the thesis", values=five)
    record.claim("it grows", thesis=".1 (figure)", values=[-x for x in five])
    record.claim("it turns", thesis="not stated; predicted by others", values=five)
    record.claim("it may help", thesis="future work", values=five)
    record.number("networks", thesis="9", values=[3.0])
    record.check("parts add up", values=[0.0], holds=True)
    shown = record.show(caption="This run").data
    plain = re.sub(r"<style>.*?</style>|<[^>]+>", "|", shown)
    order = ["This run", "The thesis's claims", "it grows", "The thesis gives no number"]
    order += ["it turns", "predicted by others", "Not in the thesis", "a &lt; b", "lead"]
    order += ["it may help", "future work", "Numbers to compare", "networks"]
    places = [plain.find(part) for part in (words.replace("'", "&#x27;") for words in order)]
    assert places == sorted(places) and min(places) >= 0
    assert "parts add up" not in plain and "✗ fails" in plain and "✓ holds" in plain
    assert "−0.108" in plain and "n = 5" in plain
    for row in re.findall(r"<tr role='row'>.*?</tr>", shown):
        assert row.count("<td") == row.count("data-head=") == 4, "a narrow screen names each value"
