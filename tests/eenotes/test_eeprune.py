"""EEPrune on networks that are tables: every probability is known."""

import math
from contextlib import nullcontext

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from eenotes import EarlyExitNetwork
from eenotes.methods import eeprune
from eenotes.methods.sample_selection import SelectionWarning

# Six samples, two classes: the true class, what the early exit says (probability of class 0), what
# the final exit says.
TRUTH = [0, 0, 0, 1, 1, 0]
EARLY = [0.71, 0.55, 0.90, 0.20, 0.60, 0.95]
FINAL = [0.80, 0.90, 0.40, 0.10, 0.30, 0.70]
# 0, 1, 3 and 5 are right at both; 2 is overthought; 4 is wrong early and right at the end.


def logits(of_class_0):
    p = torch.tensor(of_class_0, dtype=torch.float64)
    return torch.stack([p, 1 - p], 1).log()


@pytest.fixture
def net(table_net):
    return table_net([logits(EARLY), logits(FINAL)])


@pytest.fixture
def data(rows):
    return TensorDataset(rows(6), torch.tensor(TRUTH))


# --- the rule


@pytest.mark.parametrize(
    ("threshold", "drop"),
    [
        (0.52, [0, 1, 3, 5]),
        (0.6, [0, 3, 5]),
        (0.75, [3, 5]),
        (0.9, [5]),
        (0.99, []),
        (0.0, [0, 1, 3, 5]),
    ],
)
def test_three_conditions_and_a_threshold(net, data, threshold, drop):
    pruned = eeprune.prune(net, data, threshold=threshold)
    assert pruned.drop.tolist() == drop
    assert pruned.keep.tolist() == [row for row in range(6) if row not in drop]


def test_a_confidence_at_the_threshold_does_not_exceed_it(table_net, rows):
    """Two classes at even odds: a confidence of ½ exactly."""
    net = table_net([torch.zeros(1, 2), torch.zeros(1, 2)])
    even = TensorDataset(rows(1), torch.tensor([0]))
    assert eeprune.prune(net, even, threshold=0.5).drop.tolist() == []
    assert eeprune.prune(net, even, threshold=0.49).drop.tolist() == [0]


@pytest.mark.parametrize(
    ("ratio", "drop"),
    [(0.0, []), (1 / 6, [5]), (2 / 6, [3, 5]), (0.5, [0, 3, 5]), (4 / 6, [0, 1, 3, 5])],
)
def test_a_ratio_drops_the_surest_that_qualify(net, data, ratio, drop):
    assert eeprune.prune(net, data, ratio=ratio).drop.tolist() == drop


def test_the_report_counts_each_condition(net, data):
    report = eeprune.prune(net, data, ratio=0.5).report
    assert (report.samples, report.early_right, report.both_right) == (6, 5, 4)
    assert (report.wanted, report.dropped) == (3, 3)
    assert report.threshold == pytest.approx(0.71)
    assert str(report).startswith(
        "6 samples: 5 right at the early exit, 1 of them wrong at the end, 4 right at both; "
        "3 to be dropped, 3 dropped"
    )
    assert eeprune.prune(net, data, threshold=0.6).report.threshold == 0.6


def test_too_few_qualify(net, data):
    with pytest.warns(
        SelectionWarning, match="5 of 6 samples were to be dropped .83%., but only 4 qualify"
    ):
        pruned = eeprune.prune(net, data, ratio=5 / 6)
    assert pruned.drop.tolist() == [0, 1, 3, 5]
    assert (pruned.report.wanted, pruned.report.dropped) == (5, 4)


def test_nobody_qualifies(table_net, rows):
    """Everything wrong: nothing is dropped, and the report still reads."""
    net = table_net([logits([0.1, 0.2]), logits([0.1, 0.2])])
    with pytest.warns(SelectionWarning, match="only 0 qualify"):
        pruned = eeprune.prune(net, TensorDataset(rows(2), torch.tensor([0, 0])), ratio=0.5)
    assert pruned.keep.tolist() == [0, 1]
    assert str(pruned.report).endswith("0 dropped")


def test_a_quota_per_class(net, data):
    """Four of class 0, two of class 1: half of each; in class 1 only one qualifies."""
    pruned = eeprune.prune(net, data, ratio=0.5, balanced=True)
    assert pruned.drop.tolist() == [0, 3, 5]
    with pytest.warns(SelectionWarning, match="per class"):
        assert eeprune.prune(net, data, ratio=5 / 6, balanced=True).drop.tolist() == [0, 1, 3, 5]


# --- the variants


def test_scores_by_hand(net, data):
    seen = eeprune.observe(net, data)
    hard = [0.29, 0.45, math.inf, 0.20, math.inf, 0.05]
    assert eeprune.importance(seen).tolist() == pytest.approx(hard, abs=1e-6)
    # of the true class
    early, final = [0.71, 0.55, 0.90, 0.80, 0.40, 0.95], [0.80, 0.90, 0.40, 0.90, 0.70, 0.70]
    soft = [1 - (a + b) / 2 for a, b in zip(early, final, strict=True)]
    assert eeprune.importance(seen, variant="soft").tolist() == pytest.approx(soft, abs=1e-6)
    loss = [-(math.log(a) + math.log(b)) / 2 for a, b in zip(early, final, strict=True)]
    assert eeprune.importance(seen, variant="loss").tolist() == pytest.approx(loss, abs=1e-6)


def test_soft_and_loss_can_drop_what_the_hard_rule_keeps(net, data):
    """Sample 2 is overthought, .9 early and .4 at the end; both variants may drop it, and neither
    runs out of candidates.
    """
    for variant in ("soft", "loss"):
        pruned = eeprune.prune(net, data, ratio=5 / 6, variant=variant)
        assert 2 in pruned.drop and len(pruned.drop) == 5
        assert pruned.scores.method == f"EEPrune-{variant.capitalize()}"


def test_a_probability_of_zero_has_a_finite_loss(table_net, rows):
    certain = torch.tensor([[0.0, -1e6]])
    net = table_net([certain, certain])
    seen = eeprune.observe(net, TensorDataset(rows(1), torch.tensor([1])))
    assert eeprune.importance(seen, variant="loss").isfinite().all()


# --- the exits


def test_the_exit_that_decides(table_net, rows):
    """Three early exits, right about one sample each; the middle one is the default."""
    right, wrong = [3.0, 0.0], [0.0, 3.0]
    tables = [torch.tensor([right if row == j else wrong for row in range(3)]) for j in range(3)]
    net = table_net([*tables, torch.tensor([right] * 3)])
    data = TensorDataset(rows(3), torch.tensor([0, 0, 0]))
    assert eeprune.middle(net) == 1
    for exit_index, drop in [(0, [0]), (1, [1]), (2, [2]), (None, [1])]:
        assert eeprune.prune(net, data, threshold=0.5, exit_index=exit_index).drop.tolist() == drop


# --- bad input


HALF = {"ratio": 0.5}
BOTH = "either a ratio or a threshold"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        *[({"ratio": bad}, r"must be in \[0, 1\)") for bad in (1.0, -0.2, math.nan)],
        ({}, BOTH),
        (HALF | {"threshold": 0.5}, BOTH),
        ({"threshold": 1.2}, "in \\[0, 1\\]"),
        ({"threshold": 0.5, "variant": "soft"}, "for 'hard' without balance"),
        ({"threshold": 0.5, "balanced": True}, "for 'hard' without balance"),
        (HALF | {"variant": "strict"}, "'hard', 'soft' or 'loss'"),
        *[
            (HALF | {"exit_index": j}, f"exit_index={j} does not exist.* are 0 to 0")
            for j in (1, -1, 7)
        ],
    ],
)
def test_bad_options(net, data, options, words):
    with pytest.raises(ValueError, match=words):
        eeprune.prune(net, data, **options)


def test_bad_networks_and_data_sets(net, data):
    with pytest.raises(ValueError, match="needs an early exit"):
        eeprune.prune(EarlyExitNetwork([net.stages[0]], []), data, ratio=0.5)
    with pytest.raises(ValueError, match="training mode"):
        eeprune.prune(net.train(), data, ratio=0.5)
    with pytest.raises(TypeError, match="a loader's order changes"):
        eeprune.prune(net.eval(), DataLoader(data, 2, shuffle=True), ratio=0.5)


# --- properties

probability = st.floats(0.01, 0.99).filter(lambda p: abs(p - 0.5) > 1e-3)
samples = st.lists(st.tuples(probability, probability, st.integers(0, 1)), min_size=1, max_size=20)


@given(samples, st.floats(0, 0.95), st.sampled_from([1, 3, 256]))
def test_only_what_both_exits_get_right_is_dropped_whatever_the_batch(
    table_net, rows, drawn, ratio, batch_size
):
    assume(round(ratio * len(drawn)) < len(drawn))
    early, final, truth = map(list, zip(*drawn, strict=True))
    net = table_net([logits(early), logits(final)])
    data = TensorDataset(rows(len(truth)), torch.tensor(truth))
    qualify = {
        i for i, (a, b, y) in enumerate(drawn) if (a < 0.5) == bool(y) and (b < 0.5) == bool(y)
    }
    short = round(ratio * len(truth)) > len(qualify)
    with pytest.warns(SelectionWarning) if short else nullcontext():
        pruned = eeprune.prune(net, data, ratio=ratio, batch_size=batch_size)
    assert set(pruned.drop.tolist()) <= qualify
    assert not short or set(pruned.drop.tolist()) == qualify
    sure = [max(p, 1 - p) for p in early]
    rest = qualify - set(pruned.drop.tolist())
    assert all(sure[a] >= sure[b] - 1e-6 for a in pruned.drop.tolist() for b in rest)
