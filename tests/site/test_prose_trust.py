"""Numbers in the sentences of chapter 7 are those of its study and of the recorded logits."""

from collections.abc import Callable
from functools import cache
from statistics import mean

import numpy as np
import pandas as pd
import pytest
from sentences import Sentences, check, points, share, study

from eenotes_book.ch07_trust import promises, rule_bench
from eenotes_book.data import recorded

SHOWN = "resnet56/whitened"


@cache
def networks() -> dict[str, dict]:
    return study("07-thresholds-you-can-trust")["numbers"]["networks"]


def promise(risk: str, method: str, samples: int) -> pd.Series:
    """Means over the groups of calibration samples, for the network of the figures."""
    (row,) = [
        row
        for row in networks()[SHOWN]["promises"]
        if (row["risk"], row["method"], row["samples"]) == (risk, method, samples)
    ]
    return pd.DataFrame(row["groups"]).mean()


def confidences() -> Sentences:
    plain, white = (recorded.load("resnet56", method) for method in ("e2cm", "whitened"))
    early = enumerate(plain.logits[:-1])
    found = np.concatenate([plain.rule.score(j, z).score.numpy() for j, z in early])
    within = points(((found > 0.1) & (found < 0.13)).mean())
    yield "{} % at their early exits lie between .10 and .13", within
    confidence = white.logits.softmax(2).amax(2)
    right = white.logits.argmax(2) == white.labels
    near = (confidence > 0.85) & (confidence <= 0.95)
    at = [share(right[j][near[j]].double().mean().item(), 2) for j in (0, 4, 8)]
    yield "{} are right at exit 1, {} at exit 5 and {} at exit 9", *at
    own = np.mean(networks()[SHOWN]["temperatures"], 0)
    # half by half in the figure, tenth by tenth here
    assert abs(own[0] - 1.2) < 0.1 and abs(own[8] - 3.3) < 0.1, "from 1.2 to 3.3"
    trained = np.mean(networks()["resnet20/sdn"]["temperatures"], 0)
    low, high = share(trained[:-1].min(), 1), share(trained[:-1].max(), 2)
    yield "their temperatures are {} to {}", low, high
    yield "The backbone's own classifier has {}", f"{trained[-1]:.1f}"


def what_calibration_gains() -> Sentences:
    leads = {
        name: {rule: 100 * mean(values) for rule, values in found["leads"].items()}
        for name, found in networks().items()
    }
    for name, found in leads.items():
        gain = found["calibrated"]
        more = found["failure prediction"] - gain
        if name.endswith("e2cm"):
            assert 2 < gain < 3.5 and 0.5 < more < 1.5, "two to three points, and another one"
        else:
            assert abs(gain) < 0.55 and more < 0.5, name
    yield "changes the accuracy by {} at most", "half a point"
    yield "adds less than {}", "half a point"


def broken_promises() -> Sentences:
    run = recorded.load("resnet56", "whitened")
    seen = promises.Seen.of(run)
    walk, rng = promises.Walk(seen, "disagreement"), np.random.default_rng(0)
    images = len(run.labels)
    given = {"samples": images // 2, "level": 0.02, "delta": 0.1, "most": 0}
    limit = promises.largest_counts("binomial", **given)
    truth, other, whole = walk.risk(np.ones(images)), 0, 0
    for _ in range(500):
        half = np.bincount(rng.permutation(images)[: images // 2], minlength=images)
        steps = promises.chosen(walk, half, "binomial", limit)
        other += walk.risk(1 - half)[steps] > 0.02
        whole += truth[steps] > 0.02
    assert abs(other / 500 - 0.13) < 0.04 and abs(whole / 500 - 0.02) < 0.02
    yield "looks broken in {} %; looked up on all 10,000 images it is broken in {} %", 13, 2
    sets = promises.draws(500, images=images, samples=1000)
    given = {"risk": "disagreement", "level": 0.02, "delta": 0.1}
    found = promises.trial(seen, ["naive", "in expectation", "Learn then Test"], sets, **given)
    table = found.groupby("chooser")[["broken", "above"]].mean()
    assert table.broken["naive"] > 0.5 and abs(table.broken["in expectation"] - 0.5) < 0.06
    binomial, hoeffding = (
        promise("disagreement", method, 1000) for method in ("binomial", "Hoeffding-Bentkus")
    )
    assert table.above["Learn then Test"] > binomial.above and hoeffding.above > binomial.above
    tight = [promise("disagreement", "binomial", n).broken for n in (1000, 5000)]
    yield "broken in {} to {} % of the draws", *(points(x, 0) for x in sorted(tight))


def cost_of_a_promise() -> Sentences:
    above = promise("disagreement", "binomial", 5000).above
    yield "two per cent disagreement costs {} of the backbone more than the oracle", share(above)
    yield "within {} of the oracle's cost with 5,000 images", share(above)
    few = share(promise("disagreement", "binomial", 1000).above)
    yield "With 1,000 images it is {}", few


def elsewhere() -> Sentences:
    shifts = study("07-thresholds-you-can-trust")["numbers"]["shifts"]
    at = {(row["shift"], row["strength"]): row for row in shifts}

    def found(kind: str, strength: float, what: str) -> float:
        return pd.DataFrame(at[kind, strength]["groups"])[what].mean()

    clean = next(row for row in shifts if row["shift"] == "none")
    cost = pd.DataFrame(clean["groups"]).cost.mean(), found("blur", 0.5, "cost")
    yield "from {} to {} of the backbone", *map(share, cost)
    lost = [clean["accuracy"] - at[key]["accuracy"] for key in (("blur", 0.5), ("noise", 0.02))]
    assert points(lost[0], 0) == "2" and points(lost[1], 0) == "4", "two points, and four"
    assert found("blur", 0.5, "broken") <= 0.1 and 0.15 < found("noise", 0.02, "broken") < 0.35
    assert found("blur", 0.6, "broken") > 0.9 and found("noise", 0.04, "broken") > 0.9
    wrong = 1 - at["noise", 0.02]["accuracy"], 1 - clean["accuracy"]
    yield "it is wrong on {} of the images, where {} were", share(wrong[0], 2), share(wrong[1])
    cats = [points(found("share of cat", s, "broken"), 0) for s in (0.4, 0.8)]
    yield (
        "four times as many cats {} % of the promises are broken, with eight times as many {} %",
        *cats,
    )
    assert found("share of automobile", 0.4, "risk") < 0.0175


def price_of_an_answer() -> Sentences:
    prices = networks()[SHOWN]["prices"]

    def loss(name: str, way: str) -> pd.Series:
        return pd.DataFrame(networks()[name]["prices"][way]).groupby("price").loss.mean()

    one, nine = (loss(SHOWN, way) for way in ("one threshold", "one per exit, by induction"))
    ahead = one - nine
    assert abs(ahead[ahead.index < 8].mean() - 0.01) < 0.003, "a hundredth ahead at low prices"
    assert (ahead[ahead.index >= 8] < 0).all(), "and behind at high ones"
    for name in networks():
        if name.endswith("e2cm"):
            saved = loss(name, "one threshold") - loss(name, "one per exit, by induction")
            assert 0.015 < saved.mean() < 0.035, "two to three hundredths"
    rows = pd.DataFrame(prices["one threshold"]).groupby("price")[["cost", "accuracy"]].mean()
    ends = [x for p in (4, 16) for x in (share(rows.cost[p], 2), share(rows.accuracy[p]))]
    yield "ResNet-56 goes from {} of the cost at {} to {} at {}", *ends


def classes_and_rules() -> Sentences:
    risk = pd.DataFrame(networks()[SHOWN]["classes"]).set_index("class").risk
    assert risk.idxmax() == "bird"
    yield "{} % of them get another answer", points(risk.max())
    yield "2 % on average are {} % of the birds", points(risk.max())
    kept = rule_bench.kept().set_index(["exits", "rule"])["promised cost"]
    pair = [kept["resnet50/sdn1", rule] for rule in ("failure prediction", "confidence")]
    yield "for {} of the cost, the confidence for {}", *(share(cost, 2) for cost in pair)
    pair = [kept[SHOWN, rule] for rule in ("failure prediction", "confidence")]
    yield "on ResNet-56 the two are {} and {}", *(share(cost, 2) for cost in pair)


def for_teachers() -> Sentences:
    tight = [promise("disagreement", "binomial", n) for n in (1000, 5000)]
    shares = [points(each.broken, 0) for each in sorted(tight, key=lambda each: each.broken)]
    yield "tail is broken in {} to {} % of the draws", *shares
    yield "with 5,000 images it costs {} of the backbone more", share(tight[1].above)
    risk = pd.DataFrame(networks()[SHOWN]["classes"]).set_index("class").risk
    yield "{} % of the birds disagree", points(risk["bird"])


def test_the_teacher_s_page_says_what_was_measured():
    check("teaching", for_teachers())


@pytest.mark.parametrize(
    "sentences",
    (
        confidences,
        what_calibration_gains,
        broken_promises,
        cost_of_a_promise,
        elsewhere,
        price_of_an_answer,
        classes_and_rules,
    ),
)
def test_sentences_say_what_was_measured(sentences: Callable[[], Sentences]):
    check("07-thresholds-you-can-trust", sentences())
