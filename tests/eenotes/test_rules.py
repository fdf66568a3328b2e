"""From the logits of one exit to who leaves, computed by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eenotes import ClassMeanConfidence, Confidence, Entropy, Patience, PerClass

ln = math.log
# Two samples, softmax (0.8, 0.2) and (0.4, 0.6).
LOGITS = torch.tensor([[ln(8.0), ln(2.0)], [ln(4.0), ln(6.0)]])


def close(values, expected):
    return values.tolist() == pytest.approx(expected, abs=1e-6)


# --- confidence


@pytest.mark.parametrize(
    ("threshold", "leave"),
    [(0.0, [True, True]), (0.59, [True, True]), (0.61, [True, False]), (0.81, [False] * 2)],
)
def test_confidence_by_hand(threshold, leave):
    said = Confidence(threshold)(0, LOGITS)
    assert said.prediction.tolist() == [0, 1]
    assert close(said.confidence, [0.8, 0.6])
    assert said.leave.tolist() == leave
    assert said.state is None


def test_confidence_must_exceed_the_threshold():
    certain = torch.tensor([[100.0, 0.0]])
    assert Confidence(1.0)(0, certain).confidence.item() == 1
    assert not Confidence(1.0)(0, certain).leave
    assert not Confidence(0.5)(0, torch.zeros(1, 2)).leave


def test_one_threshold_per_exit():
    rule = Confidence([0.7, 0.9])
    assert rule(0, LOGITS).leave.tolist() == [True, False]
    assert rule(1, LOGITS).leave.tolist() == [False, False]
    assert rule.thresholds == (0.7, 0.9)


def test_normalised_confidence_by_hand():
    """Distances 2 and 3 with normalisers 1 and 3: the nearest mean is class 0, the softmax of -2
    and -1 prefers class 1.
    """
    logits, mu = torch.tensor([[-2.0, -3.0]]), torch.tensor([1.0, 3.0])
    by_hand = math.exp(-1) / (math.exp(-1) + math.exp(-2))
    rule = ClassMeanConfidence(0.7, [mu])
    decision = rule(0, logits)
    assert (decision.prediction.item(), decision.leave.item()) == (0, True)
    assert close(decision.confidence, [by_hand])
    assert rule.probabilities(0, logits).argmax(1).item() == 1


def test_exits_without_a_normaliser_are_not_divided():
    rule = ClassMeanConfidence(0.5, [None, torch.tensor([1.0, 100.0])])
    for j in (0, 2):  # None, and beyond the end
        assert close(rule(j, LOGITS).confidence, [0.8, 0.6])
        assert rule(j, LOGITS).prediction.tolist() == [0, 1]
    assert not close(rule(1, LOGITS).confidence, [0.8, 0.6])


# --- entropy


def test_entropy_by_hand():
    # 0.500 and 0.673 nats
    entropies = [-(0.8 * ln(0.8) + 0.2 * ln(0.2)), -(0.4 * ln(0.4) + 0.6 * ln(0.6))]
    said = Entropy(0.6)(0, LOGITS)
    assert said.prediction.tolist() == [0, 1]
    assert said.leave.tolist() == [True, False]
    assert close(said.confidence, [1 - h / ln(2) for h in entropies])
    assert Entropy([0.6, 0.7])(1, LOGITS).leave.tolist() == [True, True]


def test_entropy_of_certainty_and_of_ignorance():
    said = Entropy(ln(4))(0, torch.tensor([[100.0, 0, 0, 0], [0, 0, 0, 0]]))
    assert close(said.confidence, [1, 0])
    assert said.leave.tolist() == [True, False]
    assert not Entropy(0.0)(0, torch.tensor([[1e4, 0.0]])).leave
    assert Entropy(math.inf)(0, torch.zeros(1, 2)).leave


# --- what the two rules with thresholds share


@pytest.mark.parametrize("rule", [Confidence, Entropy])
@pytest.mark.parametrize(
    "thresholds", [-0.1, float("nan"), [0.5, -0.1], [0.5, float("nan")], torch.zeros(2, 2, 2)]
)
def test_thresholds_out_of_range(rule, thresholds):
    with pytest.raises(ValueError, match="one number, one per early exit"):
        rule(thresholds)


@pytest.mark.parametrize(
    "normaliser",
    [
        torch.ones(3),
        (torch.tensor([1.0, -1.0]),),
        (None, torch.zeros(2)),
        (1.0,),
        (torch.ones(1, 2),),
        (torch.tensor([math.inf]),),
    ],
)
def test_a_normaliser_is_a_sequence_of_positive_vectors(normaliser):
    with pytest.raises(ValueError, match="one entry per exit"):
        ClassMeanConfidence(0.5, normaliser)


def test_more_normalisers_than_exits():
    ClassMeanConfidence(0.5, (None, torch.ones(2))).check(2)
    with pytest.raises(ValueError, match="3 normalisers for a network with 2 exits"):
        ClassMeanConfidence(0.5, (None,) * 3).check(2)


def test_a_class_that_cannot_be_adds_no_entropy():
    prediction, confidence, entropy = Entropy(0.5).score(0, torch.tensor([[0.0, -math.inf, 0.0]]))
    assert entropy.item() == pytest.approx(math.log(2)) and confidence.item() == pytest.approx(
        1 - math.log(2) / math.log(3)
    )


def test_a_confidence_above_one_is_out_of_range():
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        Confidence(1.01)
    assert Entropy(1.01).thresholds == 1.01


@pytest.mark.parametrize("rule", [Confidence, Entropy])
def test_a_table_has_a_threshold_per_exit_and_class(rule):
    """LOGITS predict class 0 with .8 (.50 nats) and class 1 with .6 (.67 nats)."""
    table = [[0.7, 0.5], [0.9, 0.7]] if rule is Confidence else [[0.6, 0.7], [0.4, 0.6]]
    made = rule(table)
    assert made.thresholds == tuple(map(tuple, table))
    assert made(0, LOGITS).leave.tolist() == [True, True]
    assert made(1, LOGITS).leave.tolist() == [False, False]
    made.check(3)
    with pytest.raises(ValueError, match="3 classes, the logits have 2"):
        rule([[0.5, 0.5, 0.5]])(0, LOGITS)


@pytest.mark.parametrize("rule", [Confidence, Entropy])
def test_as_many_thresholds_as_early_exits(rule):
    rule([0.1, 0.2]).check(3)
    rule(0.1).check(3)
    for num_exits in (1, 2, 4):
        with pytest.raises(
            ValueError, match=f"2 thresholds for a network with {num_exits - 1} early exits"
        ):
            rule([0.1, 0.2]).check(num_exits)


@pytest.mark.parametrize(
    "thresholds", [0.5, [0.5, 0.25], (0.5,), torch.tensor(0.5), torch.tensor([0.5, 0.25])]
)
def test_thresholds_come_in_many_forms(thresholds):
    expected = torch.as_tensor(thresholds).tolist()
    assert Confidence(thresholds).thresholds == (
        tuple(expected) if isinstance(expected, list) else expected
    )


# --- patience


def history(patience, predictions):
    """Ask for one sample whose exits predict these classes; the confirmations so far, and whether
    it would leave.
    """
    state, counts, leaves = None, [], []
    for j, prediction in enumerate(predictions):
        logits = torch.nn.functional.one_hot(torch.tensor([prediction]), 3).float()
        said = Patience(patience)(j, logits, state)
        state = said.state
        assert said.prediction.item() == prediction == state[0, 0]
        counts.append(state[0, 1].item())
        leaves.append(said.leave.item())
    return counts, leaves


def test_patience_by_hand():
    """PABEE counts the confirmations in a row; another prediction starts again from zero."""
    assert history(2, [1, 1, 0, 0, 0]) == ([0, 1, 0, 1, 2], [False, False, False, False, True])
    assert history(1, [2, 1, 1]) == ([0, 0, 1], [False, False, True])
    assert history(1, [0, 1, 0, 1]) == ([0, 0, 0, 0], [False] * 4)


def test_patience_keeps_samples_apart():
    state = torch.tensor([[0, 3], [1, 3]])  # last predictions 0 and 1, three confirmations each
    # predictions 1 and 0: both changed their mind
    said = Patience(4)(4, LOGITS.flip(0)[:, [0, 1]], state)
    assert said.state.tolist() == [[1, 0], [0, 0]]
    said = Patience(4)(4, LOGITS, state)
    assert said.state.tolist() == [[0, 4], [1, 4]]
    assert said.leave.tolist() == [True, True]
    assert close(said.confidence, [0.8, 0.6])


@pytest.mark.parametrize("patience", [0, -1, 1.5, "2"])
def test_patience_is_a_whole_number(patience):
    with pytest.raises(ValueError, match="whole number of at least 1"):
        Patience(patience)


# --- per class


@pytest.mark.parametrize(
    ("thresholds", "leave"),
    [
        ([0.7, 0.7], [True, False]),  # 0.8 > 0.7
        ([0.9, 0.5], [False, True]),  # 0.6 > 0.5
        ([0.9, 0.1], [True, True]),  # the other class of sample 0, 0.2 > 0.1, is enough
        ([0.7, 0.5], [True, True]),  # either
        ([1.0, 1.0], [False, False]),
        ([0.0, 1.0], [True, True]),
    ],
)
def test_any_class_above_its_own_threshold(thresholds, leave):
    said = PerClass(torch.tensor(thresholds))(0, LOGITS)
    assert said.leave.tolist() == leave
    assert said.prediction.tolist() == [0, 1]
    assert close(said.confidence, [0.8, 0.6])


def test_thresholds_per_exit_and_class():
    rule = PerClass([[0.7, 0.7], [0.9, 0.5]])
    rule.check(3)
    assert rule(0, LOGITS).leave.tolist() == [True, False]
    assert rule(1, LOGITS).leave.tolist() == [False, True]
    with pytest.raises(ValueError, match="2 exits, the network has 3 early exits"):
        rule.check(4)


def test_equal_thresholds_above_one_half_are_the_confidence_rule():
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        PerClass(torch.full((4,), 0.6))(0, logits).leave, Confidence(0.6)(0, logits).leave
    )


@pytest.mark.parametrize(
    "thresholds", [0.5, [0.5, 1.1], [0.5, -0.1], [float("nan"), 0.5], torch.zeros(2, 2, 2)]
)
def test_bad_thresholds_per_class(thresholds):
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        PerClass(thresholds)


def test_a_threshold_for_every_class():
    with pytest.raises(ValueError, match="3 classes, the logits have 2"):
        PerClass([0.5, 0.5, 0.5])(0, LOGITS)


# --- invariants


@given(st.integers(0, 99), st.integers(2, 6), st.floats(0, 1), st.floats(0, 1))
def test_who_leaves_at_a_high_bar_leaves_at_a_low_one(seed, classes, a, b):
    logits = 3 * torch.randn(20, classes, generator=torch.Generator().manual_seed(seed))
    low, high = sorted([a, b])
    for rule in (Confidence, lambda t: PerClass([t] * classes), lambda t: Entropy(1 - t)):
        assert (rule(low)(0, logits).leave | ~rule(high)(0, logits).leave).all()


@given(st.integers(0, 99), st.integers(1, 6))
def test_confidences_lie_between_0_and_1_and_rows_do_not_touch_each_other(seed, classes):
    logits = 3 * torch.randn(8, classes, generator=torch.Generator().manual_seed(seed))
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
    for rule in (Confidence(0.6), Entropy(0.5), Patience(1), PerClass([0.6] * classes)):
        said, shuffled = rule(0, logits), rule(0, logits[order])
        assert ((said.confidence > -1e-6) & (said.confidence < 1 + 1e-6)).all()
        assert torch.equal(said.prediction, logits.argmax(1))
        assert torch.equal(shuffled.prediction, said.prediction[order])
        assert torch.allclose(shuffled.confidence, said.confidence[order])
