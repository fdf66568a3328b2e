"""Guaranteed thresholds, temperatures and prices, against answers computed another way."""

import pytest
import torch
from scipy import optimize, stats

from eenotes.calibration import expected_stopping, temperature
from eenotes.costs import Costs
from eenotes.guarantees import in_expectation, losses_of, with_guarantee
from eenotes.rules import Confidence, Entropy
from eenotes.thresholds import Answers, evaluate

COSTS = Costs((10, 10, 20), (1, 1))


def logits_of(confidence, predictions):
    """Logits of two classes with these confidences ``(J, N)`` and predictions ``(J, N)``."""
    odds = torch.logit(torch.as_tensor(confidence, dtype=torch.float64))
    sides = torch.as_tensor(predictions)
    return torch.stack([torch.where(sides == 0, odds, 0), torch.where(sides == 1, odds, 0)], 2)


def network(count, seed=0):
    """Two early exits that err more often where they are unsure; the last one errs on 8 %."""
    generator = torch.Generator().manual_seed(seed)
    confidence = 0.5 + 0.499 * torch.rand(3, count, generator=generator, dtype=torch.float64)
    labels = torch.randint(2, (count,), generator=generator)
    right = torch.rand(3, count, generator=generator, dtype=torch.float64) < confidence
    right[2] = torch.rand(count, generator=generator) < 0.92
    predictions = torch.where(right, labels, 1 - labels)
    return logits_of(confidence, predictions), labels


def test_losses_by_hand():
    predictions = [[0, 0, 0], [1, 1, 1], [1, 0, 1]]
    logits = logits_of(torch.full((3, 3), 0.9), predictions)
    answers = Answers(logits, torch.tensor([1, 1, 0]), Confidence(0.5), COSTS)
    expected = {
        "disagreement": [[1, 0, 1], [0, 1, 0], [0, 0, 0]],
        "error": [[1, 1, 0], [0, 0, 1], [0, 1, 1]],
        "lost accuracy": [[1, 0, -1], [0, -1, 0], [0, 0, 0]],
    }
    for risk, losses in expected.items():
        assert losses_of(answers, risk=risk).tolist() == losses


@pytest.mark.parametrize("rule", [Confidence(0.5), Entropy(0.1)], ids=["above", "below"])
def test_every_threshold_is_tried(rule):
    """The found threshold is the last before the first that fails, tried one by one."""
    logits, labels = network(300)
    answers = Answers(logits, labels, rule, COSTS)
    every = answers.score[:-1].flatten().unique()
    every = [rule.closed, *every.sort(descending=rule.leaves_above).values.tolist()]
    path = torch.tensor([[level] * 2 for level in every], dtype=torch.float64)
    given = {"risk": "error", "level": 0.18, "delta": 0.2}
    fast = with_guarantee(logits, labels, rule, COSTS, **given)
    slow = with_guarantee(logits, labels, rule, COSTS, **given, candidates=path)
    assert fast == slow
    assert 0 < answers.outcome(torch.tensor(fast.thresholds))[1].ne(2).sum() < 300


def test_the_bound_is_that_of_clopper_and_pearson():
    logits, labels = network(500)
    found = with_guarantee(
        logits, labels, Confidence(0.5), COSTS, risk="error", level=0.2, delta=0.1
    )
    wrong = round(500 * found.risk)
    assert found.bound == pytest.approx(stats.beta.ppf(0.9, wrong + 1, 500 - wrong))
    assert found.bound <= 0.2


def test_it_stops_at_the_first_candidate_that_fails():
    logits, labels = network(2000)
    path = [[1.0, 1.0], [0.99, 1.0], [0.5, 0.5], [0.98, 1.0]]
    found = with_guarantee(
        logits, labels, Confidence(0.5), COSTS, risk="disagreement", level=0.03, delta=0.1,
        candidates=path,
    )  # fmt: skip
    assert found.thresholds == (0.99, 1.0)
    expected = evaluate(logits, labels, Confidence(found.thresholds), COSTS)
    assert found.cost == pytest.approx(expected["relative_cost"])


def test_the_promise_is_kept_on_as_many_splits_as_it_says():
    logits, labels = network(20000, seed=3)
    generator, delta, broken = torch.Generator().manual_seed(0), 0.1, 0
    for _ in range(300):
        at = torch.randint(20000, (600,), generator=generator)
        found = with_guarantee(
            logits[:, at], labels[at], Confidence(0.5), COSTS,
            risk="error", level=0.15, delta=delta,
        )  # fmt: skip
        truth = evaluate(logits, labels, Confidence(found.thresholds), COSTS)
        broken += truth["accuracy"] < 0.85
    assert 0 < broken <= 300 * delta + 3 * (300 * delta * (1 - delta)) ** 0.5


def test_in_expectation_by_hand():
    logits = logits_of([[0.9, 0.8, 0.7, 0.6], [0.9] * 4], [[0, 1, 0, 1], [0, 0, 0, 0]])
    costs, labels = Costs((10, 10), (1,)), torch.zeros(4, dtype=torch.long)
    # disagreements from the closed exit on: 0 of 4, 0 (above .8), 1 (.7), 1 (.6), 2 (.5)
    found = in_expectation(logits, labels, Confidence(0.5), costs, risk="disagreement", level=0.4)
    assert found.thresholds == (pytest.approx(0.6),)
    assert (found.bound, found.risk) == (pytest.approx(2 / 5), 1 / 4)
    with pytest.raises(ValueError, match="bound of closed exits is 0.2000 with 4 samples"):
        in_expectation(logits, labels, Confidence(0.5), costs, risk="disagreement", level=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": 0.0}, "level must lie between 0 and 1"),
        ({"delta": 1.0}, "delta must lie between 0 and 1"),
        ({"risk": "loss"}, "risk='loss' must be"),
        ({"risk": "lost accuracy", "delta": 0.0005}, "a hundred times 1000 samples would not"),
        ({"candidates": [[1.0, 1.0]]}, "no candidate opens an exit"),
        ({"level": 0.01}, "and it must be below 0.01"),
        ({"risk": "disagreement", "level": 0.001}, "on 1000 samples only; about 2... would do"),
        ({"labels": torch.full((1000,), 2)}, "labels must lie in 0..1"),
        ({"logits": torch.full((3, 1000, 2), torch.nan)}, "NaN"),
    ],
)
def test_what_cannot_be_promised_is_refused(changes, message):
    logits, labels = network(1000)
    given = {
        "logits": logits,
        "labels": labels,
        "risk": "error",
        "level": 0.2,
        "delta": 0.1,
    } | changes
    logits, labels = given.pop("logits"), given.pop("labels")
    with pytest.raises(ValueError, match=message):
        with_guarantee(logits, labels, Confidence(0.5), COSTS, **given)


def test_temperature_has_the_smallest_loss():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (500,), generator=generator)
    logits = torch.randn(2, 500, 4, generator=generator, dtype=torch.float64)
    logits[:, range(500), labels] += 1
    logits[1] *= 3
    found = temperature(logits, labels)
    for exit_logits, mine in zip(logits, found, strict=True):

        def loss(t, z=exit_logits):
            return torch.nn.functional.cross_entropy(z / t, labels).item()

        best = optimize.minimize_scalar(loss, bounds=(0.05, 20), method="bounded")
        assert mine.item() == pytest.approx(best.x, rel=1e-3)


def test_temperature_that_does_not_exist_is_refused():
    logits = torch.eye(3)[None]
    with pytest.raises(ValueError, match="exit 0 has no finite temperature"):
        temperature(logits, torch.arange(3))
    with pytest.raises(ValueError, match="exit 0 has no finite temperature"):
        temperature(logits, torch.tensor([1, 2, 0]))


@pytest.mark.parametrize("price", [0.3, 2.0, 30.0])
def test_expected_stopping_is_the_best_threshold_of_all(price):
    logits, labels = network(80)
    logits, costs = logits[1:], Costs((10, 20), (1,))
    found = expected_stopping(logits, labels, Confidence(0.5), costs, price=price)

    def loss(threshold):
        row = evaluate(logits, labels, Confidence(threshold), costs)
        return row["relative_cost"] + price * (1 - row["accuracy"])

    every = [(t,) for t in (0.0, *logits[0].softmax(1).max(1).values.tolist(), 1.0)]
    assert loss(found) == pytest.approx(min(map(loss, every)))


def test_expected_stopping_goes_backwards():
    logits, labels = network(60, seed=2)
    later = expected_stopping(
        logits[1:], labels, Confidence(0.5), Costs((20, 20), (1,)), price=3 * 40 / 40
    )
    both = expected_stopping(logits, labels, Confidence(0.5), COSTS, price=3.0)
    assert both[1] == pytest.approx(later[0])
    # with what follows fixed, no other first threshold is better
    grid = torch.linspace(0, 1, 41, dtype=torch.float64)

    def loss(first):
        row = evaluate(logits, labels, Confidence((first, both[1])), COSTS)
        return row["relative_cost"] + 3 * (1 - row["accuracy"])

    assert loss(both[0]) <= min(map(loss, grid.tolist())) + 1e-9


def test_prices_must_be_positive():
    logits, labels = network(20)
    with pytest.raises(ValueError, match="price of a wrong answer"):
        expected_stopping(logits, labels, Confidence(0.5), COSTS, price=0)
