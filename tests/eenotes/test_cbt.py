"""CBT on numbers small enough for pen and paper."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from eenotes import PerClass, predict, simulate
from eenotes.costs import Costs
from eenotes.methods import cbt
from eenotes_book import cbt_budgets

close = torch.testing.assert_close

# Two exits, three classes; one sample of each of the first two classes, none of the third.
FIRST = torch.tensor([[0.8, 0.1, 0.1], [0.5, 0.3, 0.2]])
LAST = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.7, 0.2]])
LABELS = torch.tensor([0, 1])


def found(**options):
    return cbt.statistics([([FIRST.log(), LAST.log()], LABELS)], **{"num_classes": 3, **options})


# --- statistics


def test_statistics_by_hand():
    s = found()
    assert s.counts.tolist() == [1, 1, 0]
    close(s.per_exit[0], torch.tensor([[0.8, 0.1, 0.1], [0.5, 0.3, 0.2], [0, 0, 0]]))
    close(s.shared[:2], torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.5, 0.2]]))
    close(s.margins()[:2], torch.tensor([0.5, 0.2]))
    close(s.margins(shared=False)[:, :2], torch.tensor([[0.7, 0.2], [0.3, 0.5]]))


def test_thresholds_by_hand():
    """Margins .5 and .2: the first class is the easiest, the second the hardest.

    The third has no samples and gets β.
    """
    s = found()
    close(s.thresholds(alpha=0.9, beta=0.998), torch.tensor([0.9, 0.998, 0.998]))
    each = s.thresholds(alpha=0.6, beta=0.8, shared=False)
    close(each, torch.tensor([[0.6, 0.8, 0.8]]))
    assert isinstance(s.rule(alpha=0.9, beta=0.998), PerClass)


@pytest.mark.parametrize(
    ("margins", "present", "thresholds"),
    [
        ([0.2, 0.3, 0.6], [True, True, True], [0.9, 0.8, 0.5]),  # linear in between
        ([0.4, 0.4, 0.4], [True, True, False], [0.9, 0.9, 0.9]),  # no difference: β for all
        ([0.4, 0.4, 0.9], [True, True, False], [0.9, 0.9, 0.9]),
    ],
)
def test_margins_are_stretched(margins, present, thresholds):
    margins, present = torch.tensor(margins), torch.tensor(present)
    close(cbt.stretch(margins, alpha=0.5, beta=0.9, present=present), torch.tensor(thresholds))


def test_a_class_taken_for_another_is_reported_and_the_own_margin_is_negative():
    p = torch.tensor([[0.1, 0.9], [0.2, 0.8]])
    s = cbt.statistics([([p.log()], LABELS)], num_classes=2)
    assert s.confused == [0]
    close(s.margins(), torch.tensor([0.8, 0.6]))  # class 0 is wrong, and counts as the easiest
    close(s.margins(margin="own"), torch.tensor([-0.8, 0.6]))
    assert s.thresholds(alpha=0.6, beta=0.9, margin="own").tolist() == pytest.approx([0.9, 0.6])
    assert found().confused == []


def test_streaming_over_pixels_equals_all_at_once_and_the_ignored_do_not_count():
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 6, 4, 5, 7), torch.randint(0, 4, (6, 5, 7))
    labels[torch.rand(6, 5, 7) < 0.3] = 255
    labels[2:4] = 255  # a batch without a single class
    batches = (([z[i : i + 2] for z in logits], labels[i : i + 2]) for i in (0, 2, 4))
    s = cbt.statistics(batches, num_classes=4, ignore_index=255)
    p = logits.softmax(2).movedim(2, -1)
    for k in range(4):
        close(s.per_exit[:, k], p[:, labels == k].mean(1))
    assert int(s.counts.sum()) == int((labels != 255).sum())
    inside = cbt.statistics([(list(logits), labels.clamp_max(3))], num_classes=4, ignore_index=3)
    assert inside.counts[3] == 0
    assert inside.thresholds(alpha=0.5, beta=0.75)[3] == 0.75


def _work(rank, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    own = [FIRST[rank::2].log(), LAST[rank::2].log()], LABELS[rank::2]
    s = cbt.statistics([own], num_classes=3)
    torch.save((s.per_exit, s.counts), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_agree_with_one(tmp_path):
    torch.multiprocessing.start_processes(_work, (str(tmp_path),), nprocs=2, start_method="fork")
    for rank in range(2):
        per_exit, counts = torch.load(tmp_path / f"{rank}.pt")
        close(per_exit, found().per_exit)
        assert counts.tolist() == [1, 1, 0]


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9), st.floats(0, 1), st.floats(0, 1))
def test_thresholds_lie_between_alpha_and_beta_and_fall_with_the_margin(margins, one, other):
    alpha, beta = sorted([one, other])
    margins = torch.tensor(margins)
    thresholds = cbt.stretch(margins, alpha=alpha, beta=beta)
    assert thresholds.min() >= alpha - 1e-6 and thresholds.max() <= beta + 1e-6
    assert thresholds[margins.argmin()] == pytest.approx(beta)
    assert (thresholds[margins.argsort()].diff() <= 1e-6).all()


# --- classification


def test_the_same_thresholds_classify(table_net, rows):
    """Of two samples with .95 for their class, only that of the easy class exits early."""
    sure = torch.tensor([[0.95, 0.03, 0.02], [0.03, 0.95, 0.02]]).log()
    net = table_net([sure, sure])
    outcome = predict(net, rows(2), found().rule(alpha=0.9, beta=0.998))
    assert outcome.exit_index.tolist() == [0, 1]
    assert outcome.prediction.tolist() == [0, 1]


# --- budget

COSTS = Costs((100, 100, 200), (0, 0))


def split(count=400, seed=0, exits=3, classes=3):
    """Exits that know more and more, on classes of unequal difficulty: logits and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    noise = torch.randn(exits, count, classes, generator=generator)
    known = torch.tensor([1.0, 2.0, 4.0])[:exits, None, None] * one_hot(labels, classes)
    return noise + known * (1 + labels[:, None] / 2), labels


@pytest.mark.parametrize("thresholds", [[0.5, 0.8, 0.9], [[0.6, 0.7, 0.8], [0.9, 0.5, 1.0]]])
def test_validation_says_what_simulate_says(thresholds):
    (logits, labels), thresholds = split(), torch.tensor(thresholds)
    v = cbt_budgets.validation(logits, labels, COSTS)
    outcome, choice = simulate(logits, PerClass(thresholds)), cbt_budgets.choice(v, thresholds)
    assert torch.equal(cbt_budgets.exit_index(v, thresholds), outcome.exit_index)
    cost = COSTS.relative_cost(outcome.exit_index).mean().item()
    assert choice.relative_cost == cbt_budgets.cost(v, thresholds) == pytest.approx(cost)
    assert choice.score == pytest.approx(cbt_budgets.mean_iou(outcome.prediction, labels, 3))


def test_mean_iou_by_hand():
    """Class 0: 1 of 2; class 1: 1 of 2; class 2 does not occur and does not count."""
    assert cbt_budgets.mean_iou(
        torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 3
    ) == pytest.approx(0.5)


@pytest.mark.parametrize("budget", [0.5, 0.7])
@pytest.mark.parametrize("kind", ["cbt", "ns", "single", "priced", "exits"])
def test_a_budget_is_kept_and_nearly_spent(kind, budget):
    logits, labels = split(2000)
    v = cbt_budgets.validation(logits, labels, COSTS)
    s = cbt.statistics([(list(logits), labels)], num_classes=3)
    ways = {
        "cbt": lambda: cbt_budgets.scale_for_budget(s, v, budget=budget),
        "ns": lambda: cbt_budgets.scale_for_budget(s, v, budget=budget, shared=False),
        "single": lambda: cbt_budgets.single_for_budget(v, budget=budget),
        "priced": lambda: cbt_budgets.priced_for_budget(v, budget=budget),
        "exits": lambda: cbt_budgets.priced_for_budget(v, budget=budget, per_class=False),
    }
    choice = ways[kind]()
    # samples that lose nothing exit at any price: less than the budget is spent
    free = choice.price is not None and choice.price < 1e-5
    assert (0 if free else budget - 0.06) < choice.relative_cost <= budget
    assert cbt_budgets.choice(v, choice.thresholds).score == pytest.approx(choice.score)
    exit_index = simulate(logits, choice.rule).exit_index
    assert torch.equal(exit_index, cbt_budgets.exit_index(v, choice.thresholds))


# --- price


def test_a_price_of_zero_stops_only_what_loses_nothing_then_more():
    """Two classes; exit 1 predicts class 0 with .9 and .8 (right) and .7 (wrong).

    Free of charge no sample has a reason to exit; for a little the first two exit; for much, all.
    """
    labels, p = torch.tensor([0, 0, 1]), torch.tensor([0.9, 0.8, 0.7])
    logits = torch.stack([torch.stack([p, 1 - p], 1), 0.01 + 0.98 * one_hot(labels, 2)]).log()
    v = cbt_budgets.validation(logits, labels, Costs((1, 1), (0,)))
    assert cbt_budgets.priced(v, price=0.0).tolist() == [[1.0, 1.0]]
    assert cbt_budgets.priced(v, price=0.01)[0].tolist() == pytest.approx([0.7, 1.0])
    assert cbt_budgets.priced(v, price=100.0)[0].tolist() == pytest.approx([0.5, 1.0])


def test_the_loss_is_the_gradient_of_mean_iou():
    """If one right prediction of many becomes wrong, mean IoU falls by the loss, to first order."""
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (6000,))
    mostly = torch.where(torch.rand(6000) < 0.8, labels, torch.randint(0, 3, (6000,)))
    changed = mostly.clone()
    i = int((mostly == labels).nonzero()[0])
    changed[i] = (labels[i] + 1) % 3
    logits = torch.stack([one_hot(s, 3).float() for s in (changed, mostly)])
    loss = cbt_budgets.iou_loss(cbt_budgets.validation(logits, labels, Costs((1, 1), (0,))))
    drop = cbt_budgets.mean_iou(mostly, labels, 3) - cbt_budgets.mean_iou(changed, labels, 3)
    assert loss[0, i].item() == pytest.approx(drop, rel=0.01)
    assert (loss[1][mostly == labels] == 0).all()


@given(st.floats(0.001, 10), st.floats(0.001, 10), st.booleans())
def test_a_higher_price_never_costs_more(one, other, per_class):
    v = cbt_budgets.validation(*split(200), COSTS)
    low, high = (
        cbt_budgets.cost(v, cbt_budgets.priced(v, price=price, per_class=per_class))
        for price in sorted([one, other])
    )
    assert high <= low + 1e-9


def test_with_one_early_exit_no_other_thresholds_pay_less():
    """Brute force over every cut of both classes."""
    torch.manual_seed(1)
    logits, labels = split(40, exits=2, classes=2)
    v = cbt_budgets.validation(logits, labels, Costs((1, 3), (0,)))
    loss = cbt_budgets.iou_loss(v)

    def paid(thresholds):
        at = cbt_budgets.exit_index(v, thresholds)
        return (loss.gather(0, at[None]).sum() + 0.2 * v.relative_cost[at].mean()).item()

    cuts = [0.5, *v.score[0].tolist(), 1.0]
    best = min(paid(torch.tensor([[max(a, 0.5), max(b, 0.5)]])) for a in cuts for b in cuts)
    assert paid(cbt_budgets.priced(v, price=0.2)) == pytest.approx(best)


# --- bad input


@pytest.mark.parametrize(
    ("alpha", "beta"), [(0.9, 0.8), (-0.1, 0.5), (0.5, 1.1), (float("nan"), 0.9)]
)
def test_alpha_and_beta_in_the_wrong_order(alpha, beta):
    with pytest.raises(ValueError, match="alpha ≤ beta"):
        found().thresholds(alpha=alpha, beta=beta)


@pytest.mark.parametrize(
    ("logits", "labels", "options", "message"),
    [
        ([FIRST.log()], torch.tensor([0, 3]), {}, r"0\.\.2"),
        ([FIRST.log()], torch.tensor([0, -1]), {}, r"0\.\.2"),
        ([FIRST.log()], torch.tensor([9, 9]), {"ignore_index": 9}, "no batch has a sample"),
        ([FIRST.log(), LAST.log()[:1]], LABELS, {}, "exit 1 .* must agree"),
        (
            [torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 2, 2)],
            torch.zeros(1, 4, 4, dtype=torch.long),
            {},
            "exit 1 .* must agree",
        ),
        ([FIRST.log()[:, :2]], LABELS, {}, "3 classes"),
        ([], LABELS, {}, "exits"),
        ([FIRST * torch.nan], LABELS, {}, "NaN"),
    ],
)
def test_bad_batches(logits, labels, options, message):
    with pytest.raises(ValueError, match=message):
        cbt.statistics([(logits, labels)], num_classes=3, **options)


SPLIT = cbt_budgets.validation(*split(), COSTS)
TWO = Costs((1, 1), (0,))
ZEROS = torch.zeros(2, 1, 3)


@pytest.mark.parametrize(
    ("way", "message"),
    [
        (lambda: cbt.statistics([], num_classes=3), "nothing"),
        (lambda: cbt.statistics([], num_classes=1), "at least 2"),
        (
            lambda: cbt.statistics([([FIRST], LABELS), ([FIRST, LAST], LABELS)], num_classes=3),
            "same exits",
        ),
        (lambda: found().margins(margin="other"), "margin="),
        (lambda: cbt.stretch(torch.tensor([0.1, torch.nan]), alpha=0.5, beta=0.9), "finite"),
        (
            lambda: cbt.stretch(torch.ones(2), alpha=0.5, beta=0.9, present=torch.ones(1)),
            "one entry for each",
        ),
        (lambda: cbt_budgets.validation(ZEROS, torch.tensor([3]), TWO), r"0\.\.2"),
        (lambda: cbt_budgets.validation(ZEROS, torch.tensor([2]), COSTS), "3 stages"),
        (lambda: cbt_budgets.validation(ZEROS * torch.nan, torch.tensor([2]), TWO), "NaN"),
        (lambda: cbt_budgets.cost(SPLIT, torch.tensor([0.4, 0.6, 0.6])), "at least 0.5"),
        (lambda: cbt_budgets.scale_for_budget(found(), SPLIT, budget=0.1), r"at most 0\.1.*least"),
        (lambda: cbt_budgets.priced(SPLIT, price=torch.nan), "price"),
        (lambda: cbt_budgets.priced(SPLIT, price=-1.0), "price"),
        (lambda: cbt_budgets.single_for_budget(SPLIT, budget=0.1), r"at most 0\.1.*least"),
        (lambda: cbt_budgets.priced_for_budget(SPLIT, budget=0.1), r"at most 0\.1.*least"),
    ],
)
def test_other_bad_input(way, message):
    with pytest.raises(ValueError, match=message):
        way()


@pytest.mark.parametrize("kind", [torch.float32, torch.bool])
def test_labels_are_whole_numbers(kind):
    with pytest.raises(TypeError, match="whole numbers"):
        cbt_budgets.validation(ZEROS, torch.ones(1, dtype=kind), TWO)
    with pytest.raises(TypeError, match="whole numbers"):
        cbt.statistics([([FIRST], LABELS.to(kind))], num_classes=3)
