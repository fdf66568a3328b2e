"""The meaning of a verdict, with intervals computed by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eenotes_book.statistics import Gate, band, interval, judge, mean, spread

# Mean 3, standard deviation sqrt(2.5), t(.975, 4) = 2.776445: 3 ± 1.963243.
FIVE = [1.0, 2.0, 3.0, 4.0, 5.0]
REACH = 2.776445 * math.sqrt(2.5 / 5)


def test_interval_by_hand():
    assert interval(FIVE) == pytest.approx((3 - REACH, 3 + REACH), abs=1e-5)
    assert (mean(FIVE), spread(FIVE), spread([1.0])) == (3, pytest.approx(math.sqrt(2.5)), None)
    with pytest.raises(ValueError, match="at least two values, got 1"):
        interval([1.0])


def test_a_verdict_says_what_its_interval_is_taken_over():
    assert "over 5 seeds" in judge(FIVE, wanted="ahead").reason
    assert "over 5 tenths" in judge(FIVE, wanted="ahead", over="tenths").reason


def moved(by: float) -> list[float]:
    """Five differences whose mean is ``by``; their interval reaches 1.96 to both sides."""
    return [x - 3 + by for x in FIVE]


@pytest.mark.parametrize(
    "wanted, margin, by, word",
    [
        ("ahead", 0.0, 2.0, "holds"),
        ("ahead", 0.0, 1.9, "undecided"),
        ("ahead", 0.0, -2.0, "fails"),
        ("ahead", 3.0, 0.9, "fails"),  # no lead of 3 is possible
        ("ahead", 3.0, 1.1, "undecided"),
        ("ahead", 9.0, 2.0, "holds"),  # a lead all the same
        ("not behind", 2.0, 0.0, "holds"),
        ("not behind", 1.9, 0.0, "undecided"),
        ("not behind", 2.0, -4.0, "fails"),
        ("equal", 2.0, 0.0, "holds"),
        ("equal", 1.9, 0.0, "undecided"),
        ("equal", 1.0, 3.0, "fails"),
        ("equal", 1.0, -3.0, "fails"),
    ],
)
def test_the_rule(wanted, margin, by, word):
    found = judge(moved(by), wanted=wanted, margin=margin)
    assert (found.word, found.n) == (word, 5) and found.mean == pytest.approx(by)
    assert found.high - found.low == pytest.approx(2 * REACH, abs=1e-5)


def test_few_seeds_give_no_verdict_and_a_closed_gate_none_at_all():
    one, four = judge([9.0], wanted="ahead"), judge([9.0, 9.1, 9.2, 9.1], wanted="ahead")
    assert (one.word, one.low, one.high) == ("one run", None, None)
    assert four.word == "undecided" and four.low > 0 and "needs 5" in four.reason
    gates = [Gate("ten networks", passed) for passed in (True, False)]
    words = [judge(moved(9.0), wanted="ahead", gate=gate).word for gate in gates]
    assert words == ["holds", "not testable here"]
    assert "ten networks" in judge([1.0], wanted="ahead", gate=gates[1]).reason


@given(st.lists(st.floats(-9, 9), min_size=5, max_size=9), st.floats(0, 3))
def test_a_claim_and_its_opposite_do_not_both_hold(differences, margin):
    opposite = [-x for x in differences]
    words = [judge(d, wanted="ahead", margin=margin).word for d in (differences, opposite)]
    assert words.count("holds") <= 1 and (words[0] != "holds" or words[1] == "fails")


@pytest.mark.parametrize(
    "differences, options, message",
    [
        ([], {"wanted": "ahead"}, "at least one"),
        ([1.0, math.nan], {"wanted": "ahead"}, "finite"),
        (FIVE, {"wanted": "better"}, "'ahead', 'not behind' or 'equal'"),
        (FIVE, {"wanted": "equal", "margin": -1.0}, "must not be negative"),
    ],
)
def test_what_cannot_be_judged(differences, options, message):
    with pytest.raises(ValueError, match=message):
        judge(differences, **options)


def test_a_band_is_wider_than_the_interval_of_a_point_and_the_same_for_one_point():
    curves = [[x, 2 * x, 0.0] for x in FIVE]
    found = band(curves)
    low, high = interval(FIVE, level=1 - 0.05 / 3)
    assert found["mean"].tolist() == pytest.approx([3, 6, 0])
    assert found.loc[0, ["low", "high"]].tolist() == pytest.approx([low, high])
    assert found.loc[1, "high"] == pytest.approx(2 * high) and low < interval(FIVE)[0]
    one = band([[x] for x in FIVE])
    assert one.loc[0, ["low", "high"]].tolist() == pytest.approx(interval(FIVE))
    with pytest.raises(ValueError, match="share their points"):
        band([[1.0], [1.0, 2.0]])
