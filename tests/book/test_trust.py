"""Chapter 7's experiments on tensors small enough to work out by hand, and the bench for rules."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from eenotes.costs import Costs
from eenotes.guarantees import in_expectation, with_guarantee
from eenotes.rules import Confidence, Entropy
from eenotes.thresholds import evaluate
from eenotes_book.ch07_trust import experiment, promises, rule_bench, scores, stopping
from eenotes_book.ch07_trust.rival_tests import SIGNED, TESTS
from eenotes_book.data import recorded
from eenotes_book.data.recorded import Recorded

COSTS = Costs((10, 10, 20), (1, 1))


def run_of(count: int, *, seed: int = 0, rule=None) -> Recorded:
    """Two early exits that are surer where they are right, and a last one that is mostly right."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=generator)
    logits = torch.randn(3, count, 3, generator=generator)
    for j, strength in enumerate((1.0, 2.0, 3.0)):
        logits[j, range(count), labels] += strength
    facts = {"method": "drawn", "classes": ["a", "b", "c"]}
    return Recorded(logits, labels, COSTS, rule or Confidence(1.0), facts)


# --- promises


@pytest.mark.parametrize("rule", [Confidence(1.0), Entropy(0.0)], ids=["above", "below"])
@pytest.mark.parametrize(
    ("risk", "level", "test"),
    [
        ("disagreement", 0.1, "binomial"),
        ("error", 0.2, "binomial"),
        ("lost accuracy", 0.1, "two coins"),
    ],
)
def test_the_walk_stops_where_the_package_does(rule, risk, level, test):
    run = run_of(800, rule=rule)
    (weights,) = promises.draws(1, images=800, samples=500, seed=1)
    at = torch.from_numpy(np.repeat(np.arange(800), weights))
    found = with_guarantee(
        run.logits[:, at], run.labels[at], rule, COSTS,
        risk=risk, level=level, delta=0.1,
    )  # fmt: skip
    walk = promises.Walk(promises.Seen.of(run), risk)
    limit = promises.largest_counts(test, samples=500, level=level, delta=0.1, most=500)
    steps = promises.chosen(walk, weights, test, limit)
    sign = 1 if rule.leaves_above else -1
    assert 0 < steps < len(walk.level)
    assert sign * walk.threshold(steps) == pytest.approx(found.thresholds[0])
    assert walk.cost(weights)[steps] == pytest.approx(found.cost)
    assert walk.risk(weights)[steps] == pytest.approx(found.risk, abs=1e-6)
    assert walk.steps(walk.threshold(steps)) == steps


def test_in_expectation_the_walk_stops_where_the_package_does():
    run = run_of(800)
    weights = np.ones(800, int)
    found = in_expectation(run.logits, run.labels, run.rule, COSTS, risk="disagreement", level=0.1)
    walk = promises.Walk(promises.Seen.of(run), "disagreement", monotone=True)
    limit = promises.largest_counts("in expectation", samples=800, level=0.1, delta=0.5, most=0)
    steps = promises.chosen(walk, weights, "in expectation", limit)
    assert walk.threshold(steps) == pytest.approx(found.thresholds[0])


def test_risk_and_cost_of_every_step_are_those_of_an_evaluation():
    run = run_of(60)
    walk, everyone = promises.Walk(promises.Seen.of(run), "error"), np.ones(60, int)
    risk, cost = walk.risk(everyone), walk.cost(everyone)
    for threshold in (0.9, 0.6, 0.4):
        row = evaluate(run.logits, run.labels, Confidence(threshold), COSTS)
        steps = walk.steps(threshold)
        assert risk[steps] == pytest.approx(1 - row["accuracy"])
        assert cost[steps] == pytest.approx(row["relative_cost"])
    assert cost[0] == 1 and len(risk) == 2 * 60 + 1


@pytest.mark.parametrize("test", TESTS)
def test_largest_counts_are_the_last_that_pass(test):
    limit = promises.largest_counts(test, samples=200, level=0.1, delta=0.1, most=5)
    for minus in (0, 5) if test in SIGNED else (0,):
        most = int(limit[minus])
        counts = torch.tensor([[minus, 200 - minus - n, n] for n in (most, most + 1)])
        p = TESTS[test](counts, level=0.1)
        assert p[0] <= 0.1 < p[1]


def test_a_promise_is_broken_as_often_as_it_may_be_and_a_naive_one_half_of_the_time():
    seen = promises.Seen.of(run_of(2000))
    sets = promises.draws(300, images=2000, samples=400)
    found = promises.trial(
        seen, ["naive", "binomial", "Learn then Test"], sets,
        risk="disagreement", level=0.1, delta=0.1,
    )  # fmt: skip
    broken = found.groupby("chooser").broken.mean()
    assert 0.35 < broken["naive"] < 0.75
    assert 0.01 < broken["binomial"] < 0.1 + 3 * (0.09 / 300) ** 0.5
    assert broken["Learn then Test"] <= broken["binomial"]
    assert found[found.chooser == "binomial"].above.mean() > 0


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("level", [0.02, 0.3])
def test_p_values_are_valid_where_the_risk_is_exactly_the_level(test, level):
    draws = np.random.default_rng(1)
    minus = 0.02 if test in SIGNED else 0.0
    shares = [minus, 1 - level - 2 * minus, level + minus]
    p = TESTS[test](torch.from_numpy(draws.multinomial(400, shares, size=2000)), level=level)
    for delta in (0.05, 0.2):
        assert (p <= delta).double().mean() <= delta + 3 * (delta / 2000) ** 0.5


def test_lost_accuracy_is_promised_at_less_cost_by_two_coins_than_by_bets():
    run = recorded.load("resnet20", "sdn1")
    sets = promises.draws(1000, images=len(run.labels), samples=2500)
    found = promises.trial(
        promises.Seen.of(run), ["two coins", "betting"], sets,
        risk="lost accuracy", level=0.01, delta=0.1,
    )  # fmt: skip
    broken, above = (found.groupby("chooser")[name].mean() for name in ("broken", "above"))
    assert 0.04 < broken["two coins"] < 0.1 and broken["betting"] < 0.02
    assert above["two coins"] < 0.03 < 0.035 < above["betting"]


def test_elsewhere_a_class_that_is_harder_breaks_the_promise():
    run = run_of(1500)
    wrong = run.logits.argmax(2) != run.logits[-1].argmax(1)
    logits = run.logits.clone()
    logits[0, (run.labels == 0) & ~wrong[0], :] = torch.tensor([0.0, 9.0, 0.0])  # sure and wrong
    harder = replace(run, logits=torch.where(torch.rand(1, 1500, 1) < 0.1, logits, run.logits))
    seen = promises.Seen.of(harder)
    walk = promises.Walk(seen, "disagreement")
    sets = promises.draws(50, images=1500, samples=1000)
    found = promises.trial(seen, ["binomial"], sets, risk="disagreement", level=0.2, delta=0.1)
    same = promises.elsewhere(found, walk, np.ones(1500), level=0.2)
    assert same.risk.tolist() == found.risk.tolist()
    mostly = np.where(harder.labels == 0, 20.0, 1.0)
    moved = promises.elsewhere(found, walk, mostly, level=0.2)
    assert moved.risk.mean() > same.risk.mean()


# --- calibration and scores


def test_calibration_error_by_hand():
    confidence = torch.tensor([0.9, 0.9, 0.61, 0.61], dtype=torch.float64)
    right = torch.tensor([True, False, True, True])
    # two bins of two: |.5 - .9| and |1 - .61|
    assert experiment.calibration_error(confidence, right) == pytest.approx((0.4 + 0.39) / 2)
    table = experiment.reliability(confidence, right)
    assert table.accuracy.tolist() == [1.0, 0.5] and table.share.tolist() == [0.5, 0.5]


def test_a_calibrated_exit_has_an_error_that_shrinks_with_the_samples():
    generator = torch.Generator().manual_seed(9)
    confidence = torch.rand(20_000, dtype=torch.float64, generator=generator)
    few, many = (experiment.error_of_the_calibrated(confidence[:n]) for n in (500, 20_000))
    assert 0.02 < few < 0.08 and many < few / 4


def test_images_may_stop_where_going_on_does_not_help():
    labels = torch.tensor([0, 0, 0, 0])
    answers = torch.tensor([[0, 1, 1, 0], [1, 0, 1, 0], [1, 0, 1, 0]])
    logits = torch.nn.functional.one_hot(answers, 2).float()
    run = replace(run_of(4), logits=logits, labels=labels)
    expected = [[True, False, True, True], [True, True, True, True], [True, True, True, True]]
    assert scores.may_stop(run).tolist() == expected


def test_scores_fitted_to_one_half_are_probabilities_on_the_other():
    run = run_of(6000)
    first, second = run.halves()
    hot = replace(first, logits=3 * first.logits), replace(second, logits=3 * second.logits)
    calibrated = scores.calibrated_rule(hot[0])
    # the likeliest class of a strength s has the log-odds s z: three times too hot is 3 / s
    assert calibrated.temperatures == pytest.approx((3, 1.5, 1), rel=0.15)
    failure = scores.failure_rule(hot[0])
    stop = scores.may_stop(hot[1])
    for j in range(2):
        answer = calibrated.score(j, hot[1].logits[j])
        right = answer.prediction == second.labels
        assert experiment.calibration_error(answer.confidence, right) < 0.04
        score = failure.score(j, hot[1].logits[j]).score
        assert experiment.calibration_error(score, stop[j]) < 0.05


# --- stopping


def test_boundaries_of_two_looks_by_hand():
    """Stop where a wrong answer now costs less than another look and a wrong answer then."""
    model, price = stopping.TwoClasses(signal=0.8, looks=2), 3.0
    (edge,) = model.boundaries(price)
    x = np.linspace(-12, 12, 4001)  # the log-odds' step
    for odds, stop in ((edge - 0.1, False), (edge + 0.1, True)):
        p = 1 / (1 + np.exp(-odds))
        step = p * stats.norm.pdf(x, 1.28, 1.6) + (1 - p) * stats.norm.pdf(x, -1.28, 1.6)
        later = np.trapezoid(step / (1 + np.exp(np.abs(odds + x))), x)
        assert (price * (1 - p) <= 0.5 + price * later) == stop


def test_drawn_looks_are_posteriors_and_a_fixed_test_errs_as_it_says():
    model = stopping.TwoClasses(signal=0.5, looks=4)
    logits, labels = model.draw(20_000)
    confidence, answer = logits[-1].softmax(1).max(1)
    right = (answer == labels).double().mean().item()
    assert right == pytest.approx(confidence.mean().item(), abs=0.01)
    assert right == pytest.approx(1 - model.fixed().error.iloc[-1], abs=0.01)


def test_ways_of_choosing_are_paid_for_on_the_other_half():
    run = run_of(1200)
    table = {way: stopping.losses(run, way) for way in stopping.WAYS}
    for rows in table.values():
        assert len(rows) == 10 * len(stopping.PRICES)
        expected = rows.cost + rows.price * (1 - rows.accuracy)
        assert np.allclose(rows.loss, expected)
    means = {way: rows.loss.mean() for way, rows in table.items()}
    assert means["one threshold"] < means["patience"]


# --- the bench


class Certain(Confidence):
    """A rule that anyone might bring."""


def test_a_rule_of_ones_own_stands_beside_ours(monkeypatch):
    monkeypatch.setattr(rule_bench.recorded, "load", lambda network, method: run_of(1000))
    monkeypatch.setattr(rule_bench.at_budgets, "BUDGETS", (0.5, 0.7, 0.9))
    monkeypatch.setattr(rule_bench, "_SHOWN", (0.5, 0.7, 0.9))
    mine = rule_bench.bench(Certain, names=["a/b"])
    assert mine.rule.tolist() == ["Certain"]
    ours = rule_bench.ours("a/b").set_index("rule")
    assert list(ours.index) == list(experiment.RULES)
    columns = [c for c in mine.columns if c not in ("exits", "rule")]
    assert np.allclose(mine[columns].iloc[0], ours.loc["confidence", columns].astype(float))
    fitted = rule_bench.bench(scores.calibrated_rule, names=["a/b"], title="mine")
    assert fitted["calibration error"].item() == pytest.approx(
        ours.loc["calibrated", "calibration error"]
    )
    with pytest.raises(TypeError, match="gives a ScoreRule, not a float"):
        rule_bench.bench(lambda half: 0.5, names=["a/b"])


def test_rules_are_named_by_module_and_name():
    assert rule_bench.load("eenotes.rules:Confidence") is Confidence
    with pytest.raises(ValueError, match="module:Rule"):
        rule_bench.load("eenotes.rules")
    with pytest.raises(ValueError, match="there is no rule"):
        rule_bench.load("eenotes.rules:Nothing")


def test_the_kept_table_has_our_rules_for_every_network():
    table = rule_bench.kept()
    assert set(table.rule) == set(experiment.RULES)
    assert isinstance(table, pd.DataFrame) and not table.isna().any().any()
