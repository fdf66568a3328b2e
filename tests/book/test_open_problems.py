"""The experiments of chapter 7 on tensors small enough to work out by hand."""

import argparse
import copy
import inspect
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
from eenotes_book import ch07_open, settings
from eenotes_book.ch07_open import (
    claims,
    compact,
    compression,
    dropping,
    novelty,
    reward,
    stale,
    streets,
    two_sensors,
)
from eenotes_book.data import drawn_scenes, vision


def test_settings_have_the_same_keys_at_every_scale():
    tiny, *others = (
        vars(settings.load(ch07_open.CHAPTER, at)) for at in ("tiny", "reduced", "full")
    )
    for other in others:
        assert set(other) == set(tiny)
        for name, part in tiny.items():
            if isinstance(part, SimpleNamespace):
                assert set(vars(other[name])) == set(vars(part)), name


# --- open world


def test_auroc_counts_pairs_and_half_of_the_ties():
    # pairs (unseen, seen): 2 beats 1, ties with 2, loses to 4; 3 beats 1 and 2; 5 beats all: 1.5 +
    # 2 + 3 of 9
    assert novelty.auroc(
        torch.tensor([2.0, 3.0, 5.0]), torch.tensor([4.0, 1.0, 2.0])
    ) == pytest.approx(6.5 / 9)
    assert novelty.auroc(torch.ones(3), torch.ones(2)) == 0.5
    assert novelty.auroc(torch.tensor([1.0]), torch.tensor([0.0, -1.0])) == 1.0


@pytest.mark.parametrize(
    ("unknown", "known", "message"),
    [
        (torch.empty(0), torch.ones(2), "at least one"),
        (torch.ones(2, 2), torch.ones(2), "one score per sample"),
        (torch.tensor([float("nan")]), torch.ones(2), "NaN"),
    ],
)
def test_auroc_refuses(unknown, known, message):
    with pytest.raises(ValueError, match=message):
        novelty.auroc(unknown, known)


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
    assert strangers.tensors[0].flatten().tolist() == [1, 4] and strangers.tensors[1].tolist() == [
        1,
        1,
    ]


@pytest.mark.parametrize("unknown", [[], [4], [-1], [0, 1, 2]])
def test_hold_out_refuses(unknown):
    with pytest.raises(ValueError, match="two at least must stay known"):
        novelty.hold_out(tiny_vision(), unknown)


def test_whitening_makes_the_spread_within_the_classes_a_sphere():
    torch.manual_seed(0)
    labels = torch.arange(2).repeat(2000)
    x = torch.randn(4000, 2) * torch.tensor([10.0, 0.1]) + labels[:, None] * torch.tensor(
        [0.0, 5.0]
    )
    matrix, head = novelty.whiten(x, labels)
    left = x @ matrix - head.means[labels]
    covariance = left.T @ left / len(left)
    assert covariance[0, 0] == pytest.approx(1, abs=0.02) and covariance[0, 1].abs() < 0.02
    assert covariance[1, 1] < 0.3, (
        "a direction much narrower than the mean is held back by the floor of a thousandth"
    )
    with pytest.raises(ValueError, match="do not vary"):
        novelty.whiten(torch.eye(2), torch.tensor([0, 1]))


# --- pooled, in few bits


def test_quantise_by_hand():
    x = torch.tensor([[0.9, -2.0, 0.1, 3.6], [0.0, 0.0, 0.0, 0.0]])
    three = compact.quantise(x, bits=3, step=torch.ones(2, 1))
    assert three.tolist() == [[1, -2, 0, 3], [0, 0, 0, 0]], "seven levels from -3 to 3"
    assert compact.quantise(torch.tensor([[1.0, -3.0]]), bits=1).tolist() == [[2, -2]], (
        "one bit: the mean magnitude"
    )
    assert compact.quantise(torch.tensor([[-1.5, 0.2, 1.5]]), bits=2).tolist() == [[-1.5, 0, 1.5]]
    assert compact.quantise(torch.zeros(1, 3), bits=4).tolist() == [[0, 0, 0]]


def test_the_best_step_is_no_worse_than_that_of_the_largest_value():
    torch.manual_seed(0)
    x = torch.randn(5, 200)
    widest = x.abs().amax(1, keepdim=True) / 3
    plain, best = compact.quantise(x, bits=3, step=widest), compact.quantise(x, bits=3)
    assert ((best - x).square().sum(1) <= (plain - x).square().sum(1)).all()
    assert (best - x).square().sum() < 0.7 * (plain - x).square().sum()


def test_more_bits_are_closer():
    torch.manual_seed(0)
    x = torch.randn(3, 50)
    errors = [
        (compact.quantise(x, bits=bits) - x).square().mean().item() for bits in (1, 2, 4, 8, 12)
    ]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-6


@pytest.mark.parametrize("bits", [0, 17, 2.0, True])
def test_quantise_refuses_bits(bits):
    with pytest.raises(ValueError, match="from 1 to 16"):
        compact.quantise(torch.ones(1, 2), bits=bits)


def test_quantise_refuses_infinity():
    with pytest.raises(ValueError, match="not finite"):
        compact.quantise(torch.tensor([[1.0, float("inf")]]), bits=4)


def test_a_compact_exit_without_rounding_is_a_class_mean_exit_on_pooled_features():
    torch.manual_seed(0)
    means, x = torch.randn(3, 2, 4, 4), torch.randn(5, 2, 4, 4)
    whole = compact.CompactExit(means, grid=4, bits=32)
    torch.testing.assert_close(whole(x), ClassMeanExit(means)(x))
    halves = compact.CompactExit(means, grid=1, bits=32)
    torch.testing.assert_close(halves(x), ClassMeanExit(means.mean((2, 3)))(x.mean((2, 3))))
    assert whole.stored_bits == 3 * 32 * 32 + 3 * 3 * 32
    assert compact.CompactExit(means, grid=2, bits=4).stored_bits == 3 * 8 * 4 + 8 * 8 + 3 * 3 * 32
    assert compact.CompactExit(means, grid=9, bits=32).grid == 4, (
        "a map smaller than the grid keeps its size"
    )


def test_a_compact_exit_refuses():
    with pytest.raises(ValueError, match="K, C, H, W"):
        compact.CompactExit(torch.ones(3, 4), grid=1, bits=8)
    with pytest.raises(ValueError, match="grid of at least 1"):
        compact.CompactExit(torch.ones(3, 4, 2, 2), grid=0, bits=8)


# --- prune, quantise, distil


def two_exits():
    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Linear(4, 6), nn.ReLU()), nn.Linear(6, 3)]
    return EarlyExitNetwork(stages, [nn.Linear(6, 3)]).eval()


def test_the_distillation_loss_by_hand():
    net, x, y = two_exits(), torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    early, last = net(x)
    hard = [nn.functional.cross_entropy(z, y) for z in (early, last)]
    teacher, pupil = (last / 2).softmax(1), (early / 2).softmax(1)
    divergence = (teacher * (teacher.log() - pupil.log())).sum(1).mean()
    expected = (hard[1] + 0.5 * hard[0] + 0.5 * 4 * divergence) / 2
    torch.testing.assert_close(compression.distillation_loss(net, (x, y)), expected)


def test_no_gradient_flows_into_the_teacher():
    net, x, y = two_exits(), torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    compression.distillation_loss(net, (x, y)).backward()
    mine = net.stages[1].weight.grad.clone()
    net.zero_grad()
    (nn.functional.cross_entropy(net(x)[-1], y) / 2).backward()
    torch.testing.assert_close(mine, net.stages[1].weight.grad)


@pytest.mark.parametrize("order", ["PQ", "QP"])
def test_masks_and_rounding_live_together_in_either_order(order):
    net = compression.with_masks(two_exits())
    for letter in order:
        compression._change(net, letter, rate=0.5, bits=2)
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


def test_pruning_behind_the_rounded_weights_keeps_the_largest_unrounded_ones():
    net = compression.with_masks(two_exits())
    first = net.stages[0][0]
    with torch.no_grad():
        first.weight_orig.copy_(torch.arange(1.0, 25.0).view(6, 4))
    pruning.sparsity(pruning.layers(net))
    with pytest.raises(ValueError, match="rounded layers"):
        compression.prune_behind([first], rate=0.5)
    compression._change(net, "Q", rate=0.5, bits=2)
    compression.prune_behind([first], rate=0.5)
    assert first.weight_mask.flatten().tolist() == [0] * 12 + [1] * 12
    with pytest.raises(ValueError, match="rate strictly"):
        compression.prune_behind([first], rate=1.0)


@pytest.mark.parametrize("order", ["", "X", "PP", "QPQ"])
def test_compressed_refuses_orders(order):
    with pytest.raises(ValueError, match="letters of P, Q, D, C"):
        compression.compressed(SimpleNamespace(net=two_exits()), order, SimpleNamespace(), bits=8)


def test_rounded_weights_take_a_byte_each():
    net = two_exits()
    with torch.no_grad():
        for module in pruning.layers(net).values():
            module.weight.copy_(torch.rand_like(module.weight))
    plain = compression.stored_bytes(net)
    net = compression.with_masks(net)
    compression._change(net, "Q", rate=0.5, bits=2)
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


@pytest.mark.parametrize(("count", "noise"), [(0, 0.1), (1, -0.1)])
def test_draw_measured_refuses(count, noise):
    with pytest.raises(ValueError, match="at least one scene"):
        streets.draw_measured(count, seed=0, noise=noise)


def toy_senses():
    v = streets.Senses({}, {}, 0)
    picture = torch.tensor([[[0.0, -9.0]], [[0.0, -9.0]]])  # (J, N, K) log-probabilities
    depth = torch.tensor([[[-3.0, -0.1]], [[-9.0, 0.0]]])
    v._seen = {"test": ({"image": picture, "depth": depth}, torch.tensor([0]))}
    v.__dict__["costs"] = {"image": Costs((100, 200), (10,)), "depth": Costs((10, 20), (1,))}
    return v


def test_a_cascade_over_two_modalities_by_hand():
    plan = [("depth", 0), ("image", 0), ("depth", 1), ("image", 1)]
    logits, labels, costs = two_sensors.cascade(toy_senses(), plan, "test")
    torch.testing.assert_close(
        logits[:, 0], torch.tensor([[-3.0, -0.1], [-3.0, -9.1], [-9.0, -9.0], [-9.0, -9.0]])
    )
    assert labels.tolist() == [0]
    assert costs == Costs((10, 100, 20, 200), (1, 10, 0))
    assert costs.cumulative.tolist() == [11, 121, 141, 341]


@pytest.mark.parametrize(
    "plan",
    [
        [],
        [("image", 1)],
        [("radar", 0)],
        [("image", 0), ("image", 0)],
        [("depth", 0), ("depth", 1), ("depth", 2)],
    ],
)
def test_a_cascade_refuses_plans(plan):
    with pytest.raises(ValueError, match="step"):
        two_sensors.cascade(toy_senses(), plan, "test")


def test_the_cheapest_sufficient_source():
    iou = pd.DataFrame(
        {"depth 1": [0.79, 0.5, 0.0], "image 1": [0.9, 0.6, 0.01], "both": [0.8, 0.7, 0.02]},
        index=["road", "car", "pole"],
    )
    cost = pd.Series({"depth 1": 0.1, "image 1": 0.4, "both": 1.3})
    assert two_sensors.sufficient(iou, cost).to_dict() == {
        "road": "depth 1",
        "car": "both",
        "pole": "none",
    }


# --- dropping data


def test_which_rows_stay():
    values = torch.tensor([0.9, 0.1, 0.5, 0.7])
    assert dropping.drop_rows(values, 0.5, "drop agreeing").tolist() == [1, 2]
    assert dropping.drop_rows(values, 0.5, "drop disagreeing").tolist() == [0, 3]
    assert dropping.drop_rows(values, 0.0, "drop agreeing").tolist() == [0, 1, 2, 3]
    random = [dropping.drop_rows(values, 0.5, "random", seed=seed).tolist() for seed in range(8)]
    assert (
        all(len(rows) == 2 and rows == sorted(rows) for rows in random)
        and len({*map(tuple, random)}) > 1
    )
    assert random[3] == dropping.drop_rows(values, 0.5, "random", seed=3).tolist()


def test_drop_rows_refuses():
    with pytest.raises(ValueError, match="must be one of"):
        dropping.drop_rows(torch.ones(3), 0.5, "drop all")
    with pytest.raises(ValueError, match="ratio"):
        dropping.drop_rows(torch.ones(3), 1.0, "random")
    with pytest.raises(ValueError, match="one number per row"):
        dropping.drop_rows(torch.ones(3, 2), 0.5, "random")


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
    assert (
        values[0].item() == pytest.approx(1 / (1 + torch.tensor(-3.0).exp().item()))
        and values[1] == 0
    )


# --- staleness


def statistics_of(features, labels, vocabulary):
    from eenotes.language.token_statistics import Statistics

    counts = torch.bincount(labels, minlength=vocabulary)
    means = torch.zeros(vocabulary, 2).index_add_(0, labels, features)
    means /= counts.clamp_min(1)[:, None]
    return Statistics(means, counts, (features - means[labels]).square().sum().item())


def test_how_far_class_means_have_moved():
    x, y = (
        torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 5.0], [5.0, 7.0]]),
        torch.tensor([0, 0, 1, 1]),
    )
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


@pytest.mark.parametrize("memory", [0, -1.0, float("nan")])
def test_carried_means_refuse_a_memory(memory):
    with pytest.raises(ValueError, match="memory must be a positive number"):
        stale.CarriedMeans(statistics_of(torch.ones(1, 2), torch.tensor([0]), 1), memory=memory)


@pytest.fixture(scope="module")
def small_model():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.OPTConfig(
        vocab_size=300, hidden_size=16, word_embed_proj_dim=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, dropout=0.0, pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return transformers.OPTForCausalLM(config).eval()


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


# --- claims


def order_frame(values):
    rows = [
        {"seed": seed, "order": order, "bits": 2, "mean": value + 0.01 * seed}
        for seed in (0, 1)
        for order, value in values.items()
    ]
    return pd.DataFrame(rows)


def test_orders_are_grouped_by_what_comes_first():
    table = order_frame(
        {"PQD": 0.9, "PDQ": 0.8, "DPQ": 0.7, "QPD": 0.3, "QDP": 0.2, "DQP": 0.1, "PQC": 0.85}
    )
    groups = claims.order_groups(table, 2)
    assert groups.before.tolist() == pytest.approx(
        [0.8, 0.81]
    ) and groups.after.tolist() == pytest.approx([0.2, 0.21])
    assert (groups.PQD - groups.PQC).tolist() == pytest.approx([0.05, 0.05])
    assert groups.range.iloc[0] == pytest.approx(0.8)


def test_leads_over_random_are_paired_by_seed():
    table = pd.DataFrame(
        {
            "seed": [0, 0, 1, 1],
            "kept": ["random", "drop agreeing"] * 2,
            "accuracy": [0.5, 0.4, 0.7, 0.8],
        }
    )
    assert claims.kept_leads(table, "accuracy") == pytest.approx([-0.1, 0.1])


def test_verdicts():
    assert claims.decide([0.02, 0.03]) is True and claims.decide([-0.02, -0.03]) is False
    assert claims.decide([0.002, 0.002]) is None, "seeds that agree by chance on next to nothing"
    assert claims.decide([0.1, -0.06]) is None, "within two standard errors"
    assert claims.decide([0.006]) is True and claims.decide([0.006], least=0.01) is None
    with pytest.raises(ValueError, match="no run"):
        claims.decide([])
    assert claims.everywhere([True, True]) is True
    assert claims.everywhere([True, None]) is None and claims.everywhere([None, False]) is False


def test_the_lowest_cost_at_which_a_plan_is_as_good():
    streets = pd.DataFrame(
        {
            "plan": "depth first",
            "thresholds": "per step",
            "cost": [0.2, 0.4, 0.6],
            "miou": [0.5, 0.6, 0.7],
        }
    )
    assert claims.cheapest_as_good(streets, 0.55) == 0.4
    assert claims.cheapest_as_good(streets, 0.9) is None


def test_numbers_in_words():
    assert claims.plus_minus([0.01, 0.03]) == "+2.0 ± 1.4"
    assert claims.plus_minus([-0.5], unit=1, digits=2) == "-0.50"
