"""From the logits of one exit to the samples that exit, computed by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eenotes import ClassMeanConfidence, Confidence, Entropy, Patience, PerClass

ln = math.log
NAN = float("nan")
# Two samples, softmax (0.8, 0.2) and (0.4, 0.6): entropies of 0.500 and 0.673 nats.
LOGITS = torch.tensor([[ln(8.0), ln(2.0)], [ln(4.0), ln(6.0)]])
ENTROPIES = [-(0.8 * ln(0.8) + 0.2 * ln(0.2)), -(0.4 * ln(0.4) + 0.6 * ln(0.6))]
CONFIDENT = [0.8, 0.6]
DECIDED = [1 - entropy / ln(2) for entropy in ENTROPIES]


def close(values, expected):
    return values.tolist() == pytest.approx(expected, abs=1e-6)


# --- by hand


@pytest.mark.parametrize(
    ("rule", "j", "leave", "confidence"),
    [
        (Confidence(0.0), 0, [True, True], CONFIDENT),
        (Confidence(0.59), 0, [True, True], CONFIDENT),
        (Confidence(0.61), 0, [True, False], CONFIDENT),
        (Confidence(0.81), 0, [False, False], CONFIDENT),
        (Confidence([0.7, 0.9]), 0, [True, False], CONFIDENT),
        (Confidence([0.7, 0.9]), 1, [False, False], CONFIDENT),
        (Confidence([[0.7, 0.5], [0.9, 0.7]]), 0, [True, True], CONFIDENT),
        (Confidence([[0.7, 0.5], [0.9, 0.7]]), 1, [False, False], CONFIDENT),
        (Entropy(0.6), 0, [True, False], DECIDED),
        (Entropy([0.6, 0.7]), 1, [True, True], DECIDED),
        (Entropy([[0.6, 0.7], [0.4, 0.6]]), 0, [True, True], DECIDED),
        (Entropy([[0.6, 0.7], [0.4, 0.6]]), 1, [False, False], DECIDED),
        (ClassMeanConfidence(0.7, [None, torch.ones(2)]), 0, [True, False], CONFIDENT),
        (ClassMeanConfidence(0.7, [None, torch.ones(2)]), 1, [True, False], CONFIDENT),
        (ClassMeanConfidence(0.7, [None]), 2, [True, False], CONFIDENT),
        (PerClass([0.7, 0.7]), 0, [True, False], CONFIDENT),  # 0.8 > 0.7
        (PerClass([0.9, 0.5]), 0, [False, True], CONFIDENT),  # 0.6 > 0.5
        (PerClass([0.9, 0.1]), 0, [True, True], CONFIDENT),  # sample 0's other class: 0.2 > 0.1
        (PerClass([0.7, 0.5]), 0, [True, True], CONFIDENT),
        (PerClass([1.0, 1.0]), 0, [False, False], CONFIDENT),
        (PerClass([0.0, 1.0]), 0, [True, True], CONFIDENT),
        (PerClass([[0.7, 0.7], [0.9, 0.5]]), 0, [True, False], CONFIDENT),
        (PerClass([[0.7, 0.7], [0.9, 0.5]]), 1, [False, True], CONFIDENT),
    ],
)
def test_by_hand(rule, j, leave, confidence):
    decision = rule(j, LOGITS)
    assert decision.prediction.tolist() == [0, 1]
    assert decision.leave.tolist() == leave
    assert close(decision.confidence, confidence)
    assert decision.state is None


def test_a_score_must_be_on_the_right_side_of_the_threshold_not_on_it():
    certain = torch.tensor([[100.0, 0.0]])
    assert Confidence(1.0)(0, certain).confidence.item() == 1
    assert not Confidence(1.0)(0, certain).leave
    assert not Confidence(0.5)(0, torch.zeros(1, 2)).leave
    assert not Entropy(0.0)(0, torch.tensor([[1e4, 0.0]])).leave
    assert Entropy(math.inf)(0, torch.zeros(1, 2)).leave


def test_normalised_confidence_by_hand():
    """Distances 2 and 3 with normalisers 1 and 3.

    The nearest mean is class 0; the softmax of -2 and -1 prefers class 1.
    """
    logits, rule = torch.tensor([[-2.0, -3.0]]), ClassMeanConfidence(0.7, [torch.tensor([1.0, 3])])
    decision = rule(0, logits)
    assert (decision.prediction.item(), decision.leave.item()) == (0, True)
    assert close(decision.confidence, [math.exp(-1) / (math.exp(-1) + math.exp(-2))])
    assert rule.probabilities(0, logits).argmax(1).item() == 1


def test_entropy_of_certainty_of_ignorance_and_of_a_class_that_cannot_be():
    decision = Entropy(ln(4))(0, torch.tensor([[100.0, 0, 0, 0], [0, 0, 0, 0]]))
    assert close(decision.confidence, [1, 0])
    assert decision.leave.tolist() == [True, False]
    _, confidence, entropy = Entropy(0.5).score(0, torch.tensor([[0.0, -math.inf, 0.0]]))
    assert close(entropy, [ln(2)]) and close(confidence, [1 - ln(2) / ln(3)])


# --- what a rule refuses


SCORES = [Confidence, Entropy, lambda thresholds: ClassMeanConfidence(thresholds, [])]


@pytest.mark.parametrize("rule", SCORES)
@pytest.mark.parametrize("thresholds", [-0.1, NAN, [0.5, -0.1], [0.5, NAN], torch.zeros(2, 2, 2)])
def test_thresholds_out_of_range(rule, thresholds):
    with pytest.raises(ValueError, match="one number, one per early exit"):
        rule(thresholds)


@pytest.mark.parametrize(
    "thresholds", [0.5, [0.5, 1.1], [0.5, -0.1], [NAN, 0.5], torch.zeros(2, 2, 2)]
)
def test_bad_thresholds_per_class(thresholds):
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        PerClass(thresholds)


def test_an_entropy_may_be_above_one_and_a_confidence_may_not():
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        Confidence(1.01)
    assert Entropy(1.01).thresholds == 1.01


ONE, INFINITE = torch.ones(2), torch.tensor([math.inf])


@pytest.mark.parametrize(
    "normaliser",
    [ONE, (torch.tensor([1.0, -1.0]),), (None, 0 * ONE), (1.0,), (ONE[None],), (INFINITE,)],
)
def test_a_normaliser_is_a_sequence_of_positive_vectors(normaliser):
    with pytest.raises(ValueError, match="one entry per exit"):
        ClassMeanConfidence(0.5, normaliser)


@pytest.mark.parametrize("rule", SCORES)
@pytest.mark.parametrize("thresholds", [[0.1, 0.2], [[0.1] * 3, [0.2] * 3]])
def test_as_many_thresholds_as_early_exits(rule, thresholds):
    rule(0.1).check(3)
    rule(thresholds).check(3)
    for early in (0, 1, 3):
        with pytest.raises(ValueError, match=f"2 thresholds for a network with {early} early"):
            rule(thresholds).check(early + 1)


def test_as_many_rows_and_normalisers_as_exits():
    PerClass([[0.7, 0.7], [0.9, 0.5]]).check(3)
    with pytest.raises(ValueError, match="2 exits, the network has 3 early exits"):
        PerClass([[0.7, 0.7], [0.9, 0.5]]).check(4)
    ClassMeanConfidence(0.5, (None, ONE)).check(2)
    with pytest.raises(ValueError, match="3 normalisers for 2 exits"):
        ClassMeanConfidence(0.5, (None,) * 3).check(2)


@pytest.mark.parametrize("rule", [PerClass([0.5] * 3), *(rule([[0.5] * 3]) for rule in SCORES)])
def test_a_threshold_for_every_class(rule):
    with pytest.raises(ValueError, match="3 classes, the logits have 2"):
        rule(0, LOGITS)


@pytest.mark.parametrize("patience", [0, -1, 1.5, "2"])
def test_patience_is_a_whole_number(patience):
    with pytest.raises(ValueError, match="whole number, at least 1"):
        Patience(patience)


@pytest.mark.parametrize("form", [list, tuple, torch.tensor])
def test_thresholds_come_in_many_forms(form):
    assert Confidence(form([0.5, 0.25])).thresholds == (0.5, 0.25)
    assert Confidence(torch.tensor(0.5)).thresholds == Confidence(0.5).thresholds == 0.5
    assert Confidence(form([[0.5, 0.25]])).thresholds == ((0.5, 0.25),)


# --- patience


@pytest.mark.parametrize(
    ("patience", "predictions", "confirmed", "exits"),
    [
        (2, [1, 1, 0, 0, 0], [0, 1, 0, 1, 2], [4]),
        (1, [2, 1, 1], [0, 0, 1], [2]),
        (1, [0, 1, 0, 1], [0] * 4, []),
    ],
)
def test_patience_by_hand(patience, predictions, confirmed, exits):
    """PABEE counts the confirmations in a row; another prediction starts again from zero."""
    state = None
    for j, prediction in enumerate(predictions):
        logits = torch.nn.functional.one_hot(torch.tensor([prediction]), 3).float()
        decision = Patience(patience)(j, logits, state)
        state = decision.state
        assert decision.prediction.item() == prediction
        assert state.tolist() == [[prediction, confirmed[j]]]
        assert decision.leave.item() == (j in exits)


def test_patience_keeps_samples_apart():
    state = torch.tensor([[0, 3], [1, 3]])  # last predictions 0 and 1, three confirmations each
    changed = Patience(4)(4, LOGITS.flip(0), state)  # predictions 1 and 0
    assert changed.state.tolist() == [[1, 0], [0, 0]]
    same = Patience(4)(4, LOGITS, state)
    assert same.state.tolist() == [[0, 4], [1, 4]]
    assert same.leave.tolist() == [True, True]
    assert close(same.confidence, [0.8, 0.6])


# --- invariants


def random_logits(seed, classes, count=20):
    return 3 * torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))


def test_equal_thresholds_above_one_half_are_the_confidence_rule():
    logits = random_logits(0, 4, count=50)
    assert torch.equal(PerClass([0.6] * 4)(0, logits).leave, Confidence(0.6)(0, logits).leave)


@given(st.integers(0, 99), st.integers(2, 6), st.floats(0, 1), st.floats(0, 1))
def test_what_exits_at_a_high_threshold_exits_at_a_low_one(seed, classes, one, other):
    logits, (low, high) = random_logits(seed, classes), sorted([one, other])
    for rule in (Confidence, lambda t: PerClass([t] * classes), lambda t: Entropy(1 - t)):
        assert (rule(low)(0, logits).leave | ~rule(high)(0, logits).leave).all()


@given(st.integers(0, 99), st.integers(1, 6))
def test_confidences_lie_between_0_and_1_and_rows_do_not_touch_each_other(seed, classes):
    logits = random_logits(seed, classes, count=8)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
    for rule in (Confidence(0.6), Entropy(0.5), Patience(1), PerClass([0.6] * classes)):
        decision, shuffled = rule(0, logits), rule(0, logits[order])
        assert ((decision.confidence > -1e-6) & (decision.confidence < 1 + 1e-6)).all()
        assert torch.equal(decision.prediction, logits.argmax(1))
        assert torch.equal(shuffled.prediction, decision.prediction[order])
        assert torch.allclose(shuffled.confidence, decision.confidence[order])


def test_thresholds_of_a_table_are_those_of_a_number_in_double_precision():
    z = torch.tensor([[0.9, 0.1]], dtype=torch.float64).log()
    score = Confidence(0.5).score(0, z).score.item()
    for threshold, leaves in ((score, False), (score - 1e-12, True)):
        for rule in (Confidence(threshold), Confidence([[threshold] * 2])):
            assert rule(0, z).leave.item() is leaves
