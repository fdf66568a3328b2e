"""The experiments of chapter 8 on tensors small enough to work out by hand."""

import argparse
import copy
import inspect
import json
import math
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.utils.data import TensorDataset

from eenotes.costs import Costs
from eenotes.exits import ClassMeanExit
from eenotes.methods import pruning
from eenotes.network import EarlyExitNetwork
from eenotes_book import ch08_open, language_models, records
from eenotes_book.ch08_open import (
    claims,
    compact,
    compression,
    dropping,
    novelty,
    reward,
    stale,
    streets,
    tables,
    two_sensors,
)
from eenotes_book.data import drawn_scenes, vision
from eenotes_book.models.four_stages import four_stages

ONE = torch.ones(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: novelty.auroc(torch.empty(0), ONE), "at least one"),
        (lambda: novelty.auroc(torch.ones(2, 2), ONE), "one score per sample"),
        (lambda: novelty.auroc(ONE * float("nan"), ONE), "NaN"),
        *(
            (lambda unknown=unknown: novelty.hold_out(tiny_vision(), unknown), "two at least")
            for unknown in ([], [4], [-1], [0, 1, 2])
        ),
        *(
            (lambda bits=bits: compact.quantise(torch.ones(1, 2), bits=bits), "from 1 to 16")
            for bits in (0, 17, 2.0, True)
        ),
        (lambda: compact.quantise(ONE[None] * float("inf"), bits=4), "not finite"),
        (lambda: compact.CompactExit(torch.ones(3, 4), grid=1, bits=8), "K, C, H, W"),
        (lambda: compact.CompactExit(torch.ones(3, 4, 2, 2), grid=0, bits=8), "grid of at least"),
        *(
            (lambda o=order: compression.compressed(None, o, None, bits=8), "letters of P, Q, D, C")
            for order in ("", "X", "PP", "QPQ")
        ),
        (lambda: four_stages("cnn", (1, 8, 8), num_classes=2, width=2), "'conv' or 'mlp'"),
        (lambda: streets.draw_measured(0, seed=0, noise=0.1), "at least one scene"),
        (lambda: streets.draw_measured(1, seed=0, noise=-0.1), "at least one scene"),
        *(
            (lambda plan=plan: two_sensors.cascade(KNOWN, COSTS, plan), "step")
            for plan in (
                [],
                [("image", 1)],
                [("radar", 0)],
                [("image", 0), ("image", 0)],
                [("depth", 0), ("depth", 1), ("depth", 2)],
            )
        ),
        (lambda: dropping.drop_rows(torch.ones(3), 0.5, "drop all"), "must be one of"),
        (lambda: dropping.drop_rows(torch.ones(3), 1.0, "random"), "ratio"),
        (lambda: dropping.drop_rows(torch.ones(3, 2), 0.5, "random"), "one number per row"),
        *(
            (lambda memory=memory: stale.CarriedMeans(None, memory=memory), "a positive number")
            for memory in (0, -1.0, float("nan"))
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- open world


@pytest.mark.parametrize(
    ("unknown", "known", "expected"),
    [
        # 2 beats 1, ties with 2, loses to 4; 3 beats 1 and 2; 5 beats all: 1.5 + 2 + 3 of 9
        ([2.0, 3.0, 5.0], [4.0, 1.0, 2.0], 6.5 / 9),
        ([1.0, 1.0, 1.0], [1.0, 1.0], 0.5),
        ([1.0], [0.0, -1.0], 1.0),
    ],
)
def test_auroc_counts_pairs_and_half_of_the_ties(unknown, known, expected):
    found = novelty.auroc(torch.tensor(unknown), torch.tensor(known))
    assert found == pytest.approx(expected)


def tiny_vision():
    x, y = torch.arange(6.0).view(6, 1, 1, 1), torch.tensor([0, 1, 2, 3, 1, 3])
    split = TensorDataset(x, y)
    return vision.Vision(
        "toy", split, split, split, ("a", "b", "c", "d"), torch.zeros(1), torch.ones(1)
    )


def test_hold_out_numbers_the_classes_anew():
    known, strangers = novelty.hold_out(tiny_vision(), [1])
    assert known.classes == ("a", "c", "d")
    assert known.train.tensors[0].flatten().tolist() == [0, 2, 3, 5]
    assert known.train.tensors[1].tolist() == [0, 1, 2, 2]
    assert strangers.tensors[0].flatten().tolist() == [1, 4]
    assert strangers.tensors[1].tolist() == [1, 1]


def test_whitening_makes_the_spread_within_the_classes_a_sphere():
    torch.manual_seed(0)
    labels = torch.arange(2).repeat(2000)
    offsets = labels[:, None] * torch.tensor([0.0, 5.0])
    x = torch.randn(4000, 2) * torch.tensor([10.0, 0.1]) + offsets
    matrix, head = novelty.whiten(x, labels)
    left = x @ matrix - head.means[labels]
    covariance = left.T @ left / len(left)
    assert covariance[0, 0] == pytest.approx(1, abs=0.02) and covariance[0, 1].abs() < 0.02
    assert covariance[1, 1] < 0.3  # much narrower than the mean: held back by the shrinkage
    with pytest.raises(ValueError, match="do not vary"):
        novelty.whiten(torch.eye(2), torch.tensor([0, 1]))


# --- pooled, in few bits


def test_quantise_by_hand():
    x = torch.tensor([[0.9, -2.0, 0.1, 3.6], [0.0, 0.0, 0.0, 0.0]])
    three = compact.quantise(x, bits=3, step=torch.ones(2, 1))
    assert three.tolist() == [[1, -2, 0, 3], [0, 0, 0, 0]]  # seven levels from -3 to 3
    one = compact.quantise(torch.tensor([[1.0, -3.0]]), bits=1)
    assert one.tolist() == [[2, -2]]  # the mean magnitude
    assert compact.quantise(torch.tensor([[-1.5, 0.2, 1.5]]), bits=2).tolist() == [[-1.5, 0, 1.5]]
    assert compact.quantise(torch.zeros(1, 3), bits=4).tolist() == [[0, 0, 0]]


def test_more_bits_are_closer_and_the_best_step_is_no_worse_than_that_of_the_largest_value():
    torch.manual_seed(0)
    x = torch.randn(5, 200)

    def error(rounded):
        return (rounded - x).square().sum(1)

    plain = error(compact.quantise(x, bits=3, step=x.abs().amax(1, keepdim=True) / 3))
    best = error(compact.quantise(x, bits=3))
    assert (best <= plain).all() and best.sum() < 0.7 * plain.sum()
    errors = [error(compact.quantise(x, bits=bits)).sum() for bits in (1, 2, 4, 8, 12)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-3


def test_a_compact_exit_without_rounding_is_a_class_mean_exit_on_pooled_features():
    torch.manual_seed(0)
    means, x = torch.randn(3, 2, 4, 4), torch.randn(5, 2, 4, 4)
    whole = compact.CompactExit(means, grid=4, bits=32)
    torch.testing.assert_close(whole(x), ClassMeanExit(means)(x))
    single = compact.CompactExit(means, grid=1, bits=32)
    torch.testing.assert_close(single(x), ClassMeanExit(means.mean((2, 3)))(x.mean((2, 3))))
    assert whole.stored_bits == 3 * 32 * 32 + 3 * 3 * 32
    assert compact.CompactExit(means, grid=2, bits=4).stored_bits == 3 * 8 * 4 + 8 * 8 + 3 * 3 * 32
    assert compact.CompactExit(means, grid=9, bits=32).grid == 4  # a smaller map keeps its size


# --- prune, quantise, distil


@pytest.fixture
def net():
    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Linear(4, 6), nn.ReLU()), nn.Linear(6, 3)]
    return EarlyExitNetwork(stages, [nn.Linear(6, 3)]).eval()


def test_the_distillation_loss_by_hand_and_no_gradient_into_the_teacher(net):
    x, y = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    early, last = net(x)
    hard = [nn.functional.cross_entropy(z, y) for z in (early, last)]
    teacher, pupil = (last / 2).softmax(1), (early / 2).softmax(1)
    divergence = (teacher * (teacher.log() - pupil.log())).sum(1).mean()
    expected = (hard[1] + 0.5 * hard[0] + 0.5 * 4 * divergence) / 2
    loss = compression.distillation_loss(net, (x, y))
    torch.testing.assert_close(loss, expected)
    weight = net.stages[1].weight
    found = torch.autograd.grad(loss, weight)
    torch.testing.assert_close(found, torch.autograd.grad(hard[1] / 2, weight))


def prune_half(net):
    pruning.prune_smallest(pruning.layers(net).values(), rate=0.5)


def round_to_two_bits(net):
    for module in pruning.layers(net).values():
        rounded = compression.Rounded(module.weight, 2)
        parametrize.register_parametrization(module, "weight_orig", rounded)


@pytest.mark.parametrize(
    "steps", [(prune_half, round_to_two_bits), (round_to_two_bits, prune_half)]
)
def test_masks_and_rounding_live_together_in_either_order(net, steps):
    net = compression.with_masks(net)
    for step in steps:
        step(net)
        net(torch.randn(3, 4))[-1].sum().backward()
        pruning.sparsity(pruning.layers(net))
    total = sum(m.weight.numel() for m in pruning.layers(net).values())
    assert sum(int((m.weight == 0).sum()) for m in pruning.layers(net).values()) >= total / 2
    for module in pruning.layers(net).values():
        assert prune.is_pruned(module) and parametrize.is_parametrized(module, "weight_orig")
        for row in module.weight:
            assert len(row[row != 0].abs().unique()) <= 1, "at two bits a row knows -a, 0 and a"
    twin = copy.deepcopy(net)
    x = torch.randn(3, 4)
    torch.testing.assert_close(twin(x)[-1], net(x)[-1])


def test_rounding_passes_gradients_straight_through():
    rounded = compression.Rounded(torch.tensor([[0.4, 1.2]]), 8)
    weight = torch.tensor([[0.4, 1.2]], requires_grad=True)
    (rounded(weight) * torch.tensor([[2.0, 3.0]])).sum().backward()
    assert weight.grad.tolist() == [[2.0, 3.0]]


def test_pruning_behind_the_rounded_weights_keeps_the_largest_unrounded_ones(net):
    net = compression.with_masks(net)
    first = net.stages[0][0]
    with torch.no_grad():
        first.weight_orig.copy_(torch.arange(1.0, 25.0).view(6, 4))
    pruning.sparsity(pruning.layers(net))
    with pytest.raises(ValueError, match="rounded layers"):
        compression.prune_behind([first], rate=0.5)
    round_to_two_bits(net)
    compression.prune_behind([first], rate=0.5)
    assert first.weight_mask.flatten().tolist() == [0] * 12 + [1] * 12
    with pytest.raises(ValueError, match="rate strictly"):
        compression.prune_behind([first], rate=1.0)


def test_rounded_weights_take_a_byte_each(net):
    with torch.no_grad():
        for module in pruning.layers(net).values():
            module.weight.copy_(torch.rand_like(module.weight))
    plain = compression.stored_bytes(net)
    net = compression.with_masks(net)
    round_to_two_bits(net)
    pruning.sparsity(pruning.layers(net))
    assert compression.stored_bytes(net) < plain / 2


# --- two modalities


def test_measured_scenes_are_the_drawn_ones_with_a_depth_map():
    images, depths, labels = streets.draw_measured(3, seed=5, noise=0.0)
    same, same_labels = drawn_scenes.draw(3, seed=5)
    assert torch.equal(images, same) and torch.equal(labels, same_labels)
    assert depths.shape == labels.shape and depths.min() >= 0 and depths.max() <= 1
    assert (depths[labels == streets.CLASSES.index("sky")] == 0).all()
    road = labels[0] == streets.CLASSES.index("road")
    rows = [depths[0, y][road[y]] for y in range(labels.shape[1]) if road[y].any()]
    assert all((row == row[0]).all() for row in rows), "the road is as near as its row"
    assert [row[0].item() for row in rows] == sorted(row[0].item() for row in rows)
    noisy = streets.draw_measured(3, seed=5, noise=0.1)[1]
    assert (noisy - depths).std() == pytest.approx(0.1, rel=0.05)


# log-probabilities (J, N, K) of two classes at one place
KNOWN = {
    "image": torch.tensor([[[0.0, -9.0]], [[0.0, -9.0]]]),
    "depth": torch.tensor([[[-3.0, -0.1]], [[-9.0, 0.0]]]),
}
COSTS = {"image": Costs((100, 200), (10,)), "depth": Costs((10, 20), (1,))}


def test_a_cascade_over_two_modalities_by_hand():
    plan = [("depth", 0), ("image", 0), ("depth", 1), ("image", 1)]
    logits, costs = two_sensors.cascade(KNOWN, COSTS, plan)
    expected = torch.tensor([[-3.0, -0.1], [-3.0, -9.1], [-9.0, -9.0], [-9.0, -9.0]])
    torch.testing.assert_close(logits[:, 0], expected)
    assert costs == Costs((10, 100, 20, 200), (1, 10, 0))
    assert costs.cumulative.tolist() == [11, 121, 141, 341]


def test_the_cheapest_sufficient_source():
    iou = pd.DataFrame(
        {"depth 1": [0.79, 0.5, 0.0], "image 1": [0.9, 0.6, 0.01], "both": [0.8, 0.7, 0.02]},
        index=["road", "car", "pole"],
    )
    cost = pd.Series({"depth 1": 0.1, "image 1": 0.4, "both": 1.3})
    assert two_sensors.sufficient(iou, cost).tolist() == ["depth 1", "both", "none"]


# --- dropping data


@pytest.mark.parametrize(
    ("ratio", "how", "left"),
    [
        (0.5, "drop agreeing", [1, 2]),
        (0.5, "drop disagreeing", [0, 3]),
        (0.0, "drop agreeing", [0, 1, 2, 3]),
    ],
)
def test_which_rows_stay(ratio, how, left):
    values = torch.tensor([0.9, 0.1, 0.5, 0.7])
    assert dropping.drop_rows(values, ratio, how).tolist() == left


def test_random_rows_follow_the_seed():
    values = torch.tensor([0.9, 0.1, 0.5, 0.7])
    random = [dropping.drop_rows(values, 0.5, "random", seed=seed).tolist() for seed in range(8)]
    assert all(len(rows) == 2 and rows == sorted(rows) for rows in random)
    assert len({*map(tuple, random)}) > 1
    assert random[3] == dropping.drop_rows(values, 0.5, "random", seed=3).tolist()


def test_agreement_is_the_confidence_where_both_exits_name_the_same_cluster():
    stages = [
        nn.Identity(),
        nn.Sequential(nn.Identity(), ClassMeanExit(torch.tensor([[0.0, 0.0], [4.0, 0.0]]))),
    ]
    early = ClassMeanExit(torch.tensor([[0.0, 0.0], [0.0, 3.0]]), torch.tensor([1.0, 1.0]))
    net = EarlyExitNetwork(stages, [early]).eval()
    # the first point: both say cluster 0, at distances 0 and 3; the second: early says 0, the last
    # says 1
    values = dropping.agreement(net, torch.tensor([[0.0, 0.0], [4.0, 0.0]]), exit_index=0)
    assert values.tolist() == pytest.approx([1 / (1 + math.exp(-3)), 0])


# --- staleness


def statistics_of(features, labels, vocabulary):
    from eenotes.language.token_statistics import Statistics

    counts = torch.bincount(labels, minlength=vocabulary)
    means = torch.zeros(vocabulary, 2).index_add_(0, labels, features)
    means /= counts.clamp_min(1)[:, None]
    return Statistics(means, counts, (features - means[labels]).square().sum().item())


def test_how_far_class_means_have_moved():
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 5.0], [5.0, 7.0]])
    y = torch.tensor([0, 0, 1, 1])
    before = statistics_of(x, y, 3)
    assert stale.moved(before, before) == 0
    # within the classes: four squares of 1, four positions minus two means, two dimensions:
    # variance 1, spread √2
    now = statistics_of(x + torch.tensor([3.0, 4.0]), y, 3)
    assert stale.moved(now, before) == pytest.approx(5 / 2**0.5)
    other = statistics_of(
        torch.cat([x, torch.full((9, 2), 100.0)]), torch.cat([y, torch.full((9,), 2)]), 3
    )
    assert stale.moved(other, before) == 0, "a token that was not seen before has not moved"


def test_carried_means_by_hand():
    found = statistics_of(
        torch.tensor([[0.0, 0.0], [2.0, 2.0], [8.0, 8.0]]), torch.tensor([0, 0, 1]), 3
    )
    endless = stale.CarriedMeans(found, memory=float("inf"))
    endless.update(torch.tensor([[4.0, 4.0], [6.0, 6.0], [1.0, 3.0]]), torch.tensor([0, 0, 2]))
    torch.testing.assert_close(endless.means, torch.tensor([[3.0, 3.0], [8.0, 8.0], [1.0, 3.0]]))
    short = stale.CarriedMeans(found, memory=1)
    short.update(torch.tensor([[4.0, 4.0]]), torch.tensor([0]))
    # halfway from (1, 1) to (4, 4)
    torch.testing.assert_close(short.means[0], torch.tensor([2.5, 2.5]))
    assert torch.equal(found.class_means[0], torch.tensor([1.0, 1.0])), (
        "what it began from stays as it was"
    )


@pytest.fixture(scope="module")
def small_model():
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = SimpleNamespace(width=16, layers=2, heads=2, length=64)
    return language_models.untrained(SimpleNamespace(vocabulary=300), sizes).eval()


def test_samples_continue_their_prompts_and_follow_the_seed(small_model):
    prompts = torch.randint(0, 300, (4, 5))
    one, same, other = (
        reward.sample(small_model, prompts, new=6, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert one.shape == (4, 11) and torch.equal(one[:, :5], prompts)
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_the_other_text_has_the_rows_asked_for_and_no_more():
    from eenotes_book.data import text

    rows = torch.zeros(1, 32, dtype=torch.int64)
    tokenizer = text.train_tokenizer("def f(x):\n    return x\n" * 50, vocabulary=270)
    b = SimpleNamespace(text=text.Text("toy", rows, rows, rows, tokenizer, ""))
    train, test = stale.other_text(b, train=20, test=5)
    assert train.shape == (20, 32) and test.shape == (5, 32)
    assert inspect.getsource(argparse).startswith(b.text.decode(train.flatten())), (
        "the beginning of the first module"
    )
    with pytest.raises(ValueError, match="no more"):
        stale.other_text(b, train=10**6, test=5)


# --- tables and claims


def order_table(values, bits=2):
    return pd.DataFrame(
        [
            {"seed": seed, "order": order, "bits": bits, "mean": value + 0.01 * seed, "bytes": 8}
            for seed in (0, 1)
            for order, value in values.items()
        ]
    )


ORDERS = {"PQD": 0.9, "PDQ": 0.8, "DPQ": 0.7, "QPD": 0.3, "QDP": 0.2, "DQP": 0.1, "PQC": 0.85}


def test_orders_are_grouped_by_what_comes_first():
    groups = tables.order_groups(order_table(ORDERS), 2)
    assert groups.before.tolist() == pytest.approx([0.8, 0.81])
    assert groups.after.tolist() == pytest.approx([0.2, 0.21])
    assert (groups.PQD - groups.PQC).tolist() == pytest.approx([0.05, 0.05])
    assert groups.range.iloc[0] == pytest.approx(0.8)


def test_the_lowest_cost_at_which_a_plan_is_as_good():
    plans = pd.DataFrame({"plan": "depth first", "cost": [0.2, 0.4, 0.6], "miou": [0.5, 0.6, 0.7]})
    assert tables.cheapest_as_good(plans, 0.55) == 0.4
    assert tables.cheapest_as_good(plans, 0.9) is None


def frame(columns, *rows, seeds=(0, 1)):
    """The same rows for every seed."""
    names = ["seed", *columns.split()]
    return pd.DataFrame([(seed, *row) for seed in seeds for row in rows], columns=names)


@pytest.fixture
def numbers():
    """A run of two seeds, in which every hypothesis has a number that is easy to name."""
    gate = dict.fromkeys(("accuracy", "accuracy_open", "refused", "rejected", "known"), 0.5)
    gate |= {"unknown": 0.6, "known_open": 0.5, "unknown_open": 0.8}
    run = {"auroc": {"softmax": [0.6, 0.6], "distance": [0.7, 0.9]}, "gate": {"distance": gate}}
    compact_rows = [(4, 32, 8, 8, 0.9), (2, 4, 8, 8, 0.88), (1, 4, 8, 8, 0.7)]
    plans = [("per step", 0.4, 0.5), ("per step and class", 0.4, 0.6)]
    ends = [(stale.FRESH, 0.9), ("new text, before", 0.85), ("carried along", 0.89)]
    rounds = [(stale.FRESH, 0.9), ("before", 0.6)]
    found = tables.as_numbers(
        novelty=[run | {"seed": seed} for seed in (0, 1)],
        compact=frame("grid bits bytes macs accuracy", *compact_rows),
        order=pd.concat([order_table({"dense": 0.9}, 32), order_table(ORDERS)]),
        sources=pd.Series({"image 1": 0.4, "image 3": 0.7}),
        plans=frame("thresholds budget miou", *plans, seeds=[0]).assign(
            plan="depth first", cost=0.4
        ),
        clusters=frame("kept accuracy", ("random", 0.6), ("drop agreeing", 0.5)),
        reading=frame("kept perplexity", ("random", 7), ("drop agreeing", 9)),
        tuning=frame("head accuracy", *ends).assign(samples=9),
        reward=frame("head agreement", *rounds, seeds=[0]).assign(round=3),
    )
    return json.loads(json.dumps(found))


def test_claims_are_made_from_the_plain_numbers_of_a_record(numbers):
    record = records.Record(ch08_open.CHAPTER, data={}, seeds=[0, 1], at="tiny")
    claims.claim_all(record, numbers)
    found = {row["statement"].split(":")[0]: row for row in record.claims}
    ours = {name: row["ours"] for name, row in found.items()}
    assert ours == pytest.approx(
        {"H1a": 0.2, "H1b": 0.3, "H2": 0.02, "H3a": 0.6, "H3b": 0.6, "H3c": 0.05, "H4a": 0.1,
         "H4b": -0.1, "H5a": -0.1, "H5b": -2, "H6a": 0.05, "H6b": 0.01, "H6c": 0.3}
    )  # fmt: skip
    assert found["H2"]["difference"] == pytest.approx(-0.02)
    assert {found[name]["verdict"] for name in ("H4a", "H4b", "H6c")} == {"one run"}
    assert {row["where"] for row in found.values()} == {
        "open-world", "compact", "order", "modalities", "dropping", "stale"
    }  # fmt: skip


def test_streets_are_not_testable_where_the_first_exit_is_as_good_as_the_last(numbers):
    record = records.Record(ch08_open.CHAPTER, data={}, seeds=[0, 1], at="tiny")
    claims.claim_all(record, numbers | {"sources": {"image 1": 0.68, "image 3": 0.7}})
    verdicts = [row["verdict"] for row in record.claims if row["where"] == "modalities"]
    assert verdicts == ["not testable here"] * 2


def test_sentences_name_the_numbers(numbers):
    found = {name: pd.DataFrame(numbers[name]) for name in ("compact", "order", "plans")}
    enough = pd.Series({"road": "depth 1", "car": "both"})
    sentence = claims.street_sentence(found["plans"], pd.Series(numbers["sources"]), enough)
    assert "depth 1 for road; both for car" in sentence and "does not reach it" in sentence
    assert "+10.0 ± 0.0 at exit 1" in claims.novelty_sentence(numbers["novelty"])
    assert "accuracy changes by -2.0 points" in claims.compact_sentence(found["compact"])
    assert "minus after it +60.0 ± 0.0" in claims.order_sentence(found["order"])
