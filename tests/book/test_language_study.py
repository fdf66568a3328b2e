"""Chapter 6: what the numbers of its runs become: claims, sentences, tables."""

import pytest

from eenotes_book import records
from eenotes_book.ch06_language import CHAPTER, claims, experiment


def judged(numbers, at="study", seeds=(0,)):
    record = records.Record(CHAPTER, data={}, seeds=seeds, at=at)
    claims.claim_all(record, numbers)
    return record.claims


@pytest.mark.parametrize("at", ["reduced", "study"])
def test_committed_claims_follow_from_committed_numbers(at):
    record = records.load(CHAPTER, at)
    assert judged(record["numbers"], at, record["seeds"]) == record["claims"]


def run(*, random_end, lead=0.02):
    """A run whose class means lead the copied head, everywhere and by the same."""
    names = ["random", "copy", "class mean", "class mean + random", "whitened class mean"]
    zero = dict(zip(names, [0.0, 0.1, 0.1 + lead, 0.1 + lead, 0.1 + lead], strict=True))
    ends = {"random": random_end, "copy": 0.1, "class mean": 0.1 + lead}
    ends["class mean, scaled"] = 0.1 + lead
    curves = {
        name: [
            {"epoch": epoch, "exit_accuracy": value} for epoch, value in enumerate([0.05, end, end])
        ]
        for name, end in ends.items()
    }
    identical = {"greedy": {"identical": True}, "copy": {"identical": True}}
    return {
        "epoch 0": zero,
        "curves": {"frozen": curves, "all weights": curves},
        "decoding": identical,
    }


def words(random_end):
    runs = [run(random_end=random_end, lead=0.02 + 0.001 * seed) for seed in range(5)]
    claims = judged({"runs": runs}, at="full")
    return {row["statement"].split(";")[0]: row["verdict"] for row in claims}


def test_where_a_random_head_learns_frozen_training_cannot_be_judged():
    ahead = "Frozen: class means end ahead of the copied head"
    for random_end, word in ((0.01, "holds"), (0.09, "not testable here")):
        found = words(random_end)
        assert found[ahead] == word
        assert found["Epoch 0: class means are better than the copied head"] == "holds"
        assert found["All weights: the copied head ends ahead of class means"] == "fails"
    assert words(0.01)["Frozen: class means dip after the first epoch"] == "fails"


def test_small_models_are_demonstrations_without_a_verdict():
    rows = judged({"runs": [run(random_end=0.01)] * 5})
    assert {row["kind"] for row in rows} == {"number", "check"}
    assert all(row["statement"].startswith("Small model") for row in rows[:-1])


def test_sentences():
    zero = {"copy": 0.2, "class mean": 0.1, "class mean, plug-in N₀": 0.05}
    found = claims.best_sentence(zero | {"whitened class mean": 0.2002})
    assert "copied head 0.200, class means 0.100 (0.050 with the plug-in N₀)" in found
    assert "whitened class means 0.200" in found
    numbers = {"width": 8, "tied": True, "final": 0.3, "plug_in": 0.1}
    rows = [
        numbers | {"model": f"{epochs} epochs", "epochs": epochs, "features": features,
                   "copy": 0.2, "chosen": 0.2 + lead, "whitened": 0.21}
        for epochs, lead in ((1, 0.01), (3, -0.02)) for features in ("raw", "normalised")
    ]  # fmt: skip
    assert "1 epochs: +1.0 raw" in claims.lead_sentences(rows)
    assert "+1.0 on average over 4 cases" in claims.lead_sentences(rows)
    assert "(raw features) from +1.0 to -2.0" in claims.cause_sentences(rows)


def test_averages_over_runs():
    runs = [run(random_end=end) for end in (0.0, 0.02)]
    mean, spread = experiment.averaged(runs, "frozen")
    assert mean["random"][2] == pytest.approx(0.01)
    assert spread["random"][2] == pytest.approx(0.02 / 2**0.5)
    assert spread["copy"].max() == 0
