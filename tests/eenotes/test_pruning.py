"""Pruning on a network of twelve weights, where every zero can be computed by hand."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import TensorDataset

from eenotes import EarlyExitNetwork, LinearExit, checkpoints, linear_exits, split, training
from eenotes.exits import ClassMeanExit
from eenotes.identity import fingerprint
from eenotes.methods import pruning_schedule
from eenotes.methods.pruning import layers, permanent, prune_smallest, sparsity
from eenotes.methods.pruning_schedule import accuracies, separately, together
from eenotes_book.models.resnet import CifarResNet

STAGE, EXIT, CLASSIFIER = "stages.0", "exits.0.linear", "stages.1"


def toy():
    """Two stages and one exit; the weights are the numbers 1 to 12 with alternating signs.

    The exit has those in between.
    """
    first, last = (nn.Linear(2, 2, bias=False) for _ in range(2))
    net = EarlyExitNetwork([first, last], [LinearExit(2, 2)]).eval()
    numbers = torch.tensor([1.0, -1.0]).repeat(6) * torch.arange(1, 13)
    with torch.no_grad():
        net.exits[0].linear.bias.zero_()
        for module, values in zip(layers(net).values(), numbers.reshape(3, 2, 2), strict=True):
            module.weight.copy_(values)
    return net


def small(seed=0):
    """A convolutional network with batch normalisation and two exits, and data for it."""
    torch.manual_seed(seed)
    backbone = CifarResNet(8, width=4, num_classes=3, in_channels=1)
    stages = split(backbone, at=["group1", "group2"])
    x, y = torch.randn(24, 1, 8, 8), torch.arange(24) % 3
    exits = linear_exits(stages, x, num_classes=3)
    return EarlyExitNetwork(stages, exits).eval(), TensorDataset(x, y)


def zeros_of(net):
    return [int((layer.weight == 0).sum()) for layer in layers(net).values()]


def nothing(net, part, number):
    """A tune that changes nothing."""


def no_accuracy(net):
    return [0.5] * net.num_exits


def run(net, order=together, *, rate=0.5, rounds=2, **options):
    """The rounds of a plan; by default nothing is tuned and nothing measured."""
    usual = {"tune": nothing, "evaluate": no_accuracy}
    return pruning_schedule.run(net, order(rate=rate, rounds=rounds), **usual | options)


def tuning(data, **options):
    usual = {"samples": 12, "batch_size": 6, "optimizer": partial(training.sgd, lr=0.05)}
    return partial(pruning_schedule.fine_tune, dataset=data, **usual | options)


# --- which weights, and pruning


def test_layers_in_order_of_execution():
    net = toy()
    assert list(layers(net)) == [STAGE, EXIT, CLASSIFIER]
    assert list(layers(net, part="exits")) == [EXIT]
    assert list(layers(net, part="backbone")) == [STAGE, CLASSIFIER]
    assert all(net.get_submodule(name) is module for name, module in layers(net).items())


def test_layers_of_the_thesis():
    """ResNet-56 with exits after blocks 4, 8, ..., 24, 27: 57 convolutions and 7 linear layers,
    these at 10, 19, 29, 38, 48, 57, 64.
    """
    backbone = CifarResNet(56, width=1)
    at = ["group1.3", "group1.7", "group2.2", "group2.6", "group3.1", "group3.5"]
    stages = split(backbone, at=at)
    net = EarlyExitNetwork(stages, linear_exits(stages, torch.randn(2, 3, 8, 8), num_classes=10))
    found = layers(net)
    linear = [i + 1 for i, layer in enumerate(found.values()) if isinstance(layer, nn.Linear)]
    assert linear == [10, 19, 29, 38, 48, 57, 64] and len(found) == 64
    assert sum(name.startswith("exits.") for name in found) == 6


def test_layers_that_would_not_see_their_masks_are_left_out():
    """Attention multiplies with the weights of its last layer by itself."""
    block = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    net = EarlyExitNetwork([block, nn.Linear(4, 3)], [LinearExit(4, 3, channels_last=True)])
    names = ["stages.0.linear1", "stages.0.linear2", "exits.0.linear", "stages.1"]
    assert list(layers(net)) == names


def test_a_layer_used_twice_counts_once():
    shared = nn.Linear(2, 2)
    net = EarlyExitNetwork([shared, nn.Sequential(shared, nn.Linear(2, 3))], [LinearExit(2, 3)])
    assert list(layers(net)) == ["stages.0", "exits.0.linear", "stages.1.1"]


def test_one_pool_by_hand():
    """A quarter of twelve: 1, 2 and 3 go, all in the first stage."""
    net = toy()
    prune_smallest(layers(net).values(), rate=0.25)
    assert net.stages[0].weight.tolist() == [[0, 0], [0, -4]]
    assert sparsity(layers(net)) == {STAGE: 0.75, EXIT: 0, CLASSIFIER: 0}


def test_each_layer_by_hand():
    net = toy()
    prune_smallest(layers(net).values(), rate=0.25, scope="layer")
    assert net.stages[0].weight.tolist() == [[0, -2], [3, -4]]
    assert net.exits[0].linear.weight.tolist() == [[0, -6], [7, -8]]
    assert net.stages[1].weight.tolist() == [[0, -10], [11, -12]]


def test_the_second_time_a_fraction_of_what_remains():
    """12 → 6 → 3: the rate is of the remaining weights, so the sparsity is 1 - (1 - rate)^2."""
    net = toy()
    for _ in range(2):
        prune_smallest(layers(net).values(), rate=0.5)
    assert net.stages[1].weight.tolist() == [[0, -10], [11, -12]]
    assert zeros_of(net) == [4, 4, 1]


def test_pools_of_their_own_by_hand():
    """The exit's weights meet only each other: 5 and 6 go, although 1 to 4 are smaller."""
    net = toy()
    prune_smallest(layers(net, part="exits").values(), rate=0.5)
    assert net.exits[0].linear.weight.tolist() == [[0, 0], [7, -8]]
    assert net.stages[0].weight.tolist() == [[1, -2], [3, -4]]


def test_what_is_compared_is_the_weight_after_the_last_step():
    """`module.weight` of a pruned layer is what the last forward pass used; pruning must not decide
    on yesterday's weights.
    """
    net = toy()
    modules = list(layers(net).values())
    prune_smallest(modules, rate=0.25)
    with torch.no_grad():
        # as an optimizer would: the masked weight does not know it yet
        net.stages[1].weight_orig.mul_(0.01)
    prune_smallest(modules, rate=0.45)  # 9 left: 4 of them go
    assert net.stages[1].weight.count_nonzero() == 0
    assert net.exits[0].linear.weight.count_nonzero() == 4


@given(
    rates=st.lists(st.floats(0.05, 0.6), min_size=1, max_size=4),
    scope=st.sampled_from(["global", "layer"]),
    seed=st.integers(0, 5),
)
def test_properties_of_pruning(rates, scope, seed):
    """Zeros stay zeros, kept weights keep their values, and each step takes the rate of what is
    left, up to rounding.
    """
    torch.manual_seed(seed)
    modules = [nn.Linear(5, 7), nn.Conv2d(2, 3, 3)]
    before, left = [m.weight.detach().clone() for m in modules], [35, 54]
    for rate in rates:
        prune_smallest(modules, rate=rate, scope=scope)
        kept = [int(m.weight.count_nonzero()) for m in modules]
        if scope == "layer":
            assert kept == [n - round(rate * n) for n in left]
        assert sum(kept) == pytest.approx((1 - rate) * sum(left), abs=1.01)
        for m, dense in zip(modules, before, strict=True):
            assert torch.equal(m.weight, dense * (m.weight != 0))
            before = [m.weight.detach().clone() for m in modules]
        if scope == "global":
            removed = torch.cat([m.weight_orig[m.weight_mask == 0].abs() for m in modules])
            assert (
                removed.max() <= torch.cat([m.weight[m.weight != 0].abs() for m in modules]).min()
            )
        left = kept


def test_permanent_is_a_plain_copy(unchanged):
    net, data = small()
    prune_smallest(layers(net).values(), rate=0.7)
    x = data.tensors[0]
    with unchanged(net):
        plain = permanent(net)
        assert all(torch.equal(a, b) for a, b in zip(plain(x), net(x), strict=True))
    assert not prune.is_pruned(plain) and prune.is_pruned(net)
    assert set(plain.state_dict()) == set(small()[0].state_dict())
    assert sparsity(layers(plain)) == sparsity(layers(net))
    with torch.no_grad():
        plain.exits[0].linear.weight.zero_()
    assert net.exits[0].linear.weight.count_nonzero() > 0


# --- schedules


def test_together_by_hand():
    iterations = list(run(toy()))
    assert [(i.part, i.number) for i in iterations] == [("all", 1), ("all", 2)]
    assert iterations[0].sparsity == {STAGE: 1, EXIT: 0.5, CLASSIFIER: 0}
    assert iterations[1].sparsity == {STAGE: 1, EXIT: 1, CLASSIFIER: 0.25}
    assert iterations[0].accuracy == (0.5, 0.5)


def test_separately_by_hand():
    iterations = list(run(toy(), separately))
    found = [(i.part, i.number, list(i.sparsity.values())) for i in iterations]
    assert found == [
        ("backbone", 1, [1, 0, 0]),
        ("backbone", 2, [1, 0, 0.5]),
        ("exits", 1, [1, 0.5, 0.5]),
        ("exits", 2, [1, 0.75, 0.5]),
    ]


def test_exits_with_a_rate_of_their_own():
    assert separately(rate=0.5, rounds=2, exits_rate=0.1)[1] == ("exits", 0.1, 2)
    assert separately(rate=0.5, rounds=2) == separately(rate=0.5, rounds=2, exits_rate=0.5)


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_both_give_every_weight_as_many_rounds_and_end_with_as_many_zeros(rounds):
    zeros = []
    for order in (together, separately):
        net, rounds_of = small()[0], {"backbone": 0, "exits": 0}
        for iteration in run(net, order, rounds=rounds, rate=0.3):
            for part in rounds_of:
                rounds_of[part] += iteration.part in (part, "all")
        assert rounds_of == {"backbone": rounds, "exits": rounds}
        zeros.append(sum(zeros_of(net)))
        weights = sum(layer.weight.numel() for layer in layers(net).values())
        assert zeros[-1] / weights == pytest.approx(1 - 0.7**rounds, abs=2e-3)
    assert abs(zeros[0] - zeros[1]) <= rounds + 1  # two pools are rounded twice


def test_the_iterator_prunes_step_by_step():
    net = toy()
    iterations = run(net)
    assert not prune.is_pruned(net)
    next(iterations)
    assert sum(zeros_of(net)) == 6


def test_frozen_is_frozen_bit_by_bit():
    """Phase 1 leaves the exits alone, phase 2 the backbone, its batch statistics included; both
    parts do learn in their own phase.
    """
    net, data = small()
    start, states = fingerprint(net.stages), []
    exits_before = fingerprint(net.exits)
    for iteration in run(net, separately, tune=tuning(data), rate=0.3):
        states.append({name: value.clone() for name, value in net.state_dict().items()})
        if iteration.part == "backbone":
            assert fingerprint(net.exits) == exits_before
    assert fingerprint(net.stages) != start
    done, last = states[1], states[-1]
    backbone = [name for name in last if name.startswith("stages.")]
    assert any(name.endswith("running_var") for name in backbone)
    assert all(torch.equal(done[name], last[name]) for name in backbone)
    assert not torch.equal(
        states[0]["stages.0.stem.1.running_mean"], done["stages.0.stem.1.running_mean"]
    )
    moved = [
        name
        for name in last
        if name.startswith("exits.") and not torch.equal(states[2][name], last[name])
    ]
    assert any(name.endswith("weight_orig") for name in moved)


@pytest.mark.parametrize(
    ("phase", "culprit"),
    [
        ("exits", "stages.0.stem.1.running_mean"),
        ("exits", "stages.0.stem.1.bias"),
        ("backbone", "exits.0.linear.bias"),
    ],
)
def test_a_tune_that_touches_the_frozen_part_is_caught(phase, culprit):
    def careless(net, part, number):
        if part == phase:
            with torch.no_grad():
                net.state_dict()[culprit].add_(1e-6)

    with pytest.raises(RuntimeError, match=f"fine-tuning of the {phase} changed"):
        list(run(small()[0], separately, tune=careless))


def test_zeros_stay_zero_through_fine_tuning():
    """With momentum and weight decay the hidden values move on, but not what is computed with."""
    net, data = small()
    zero, hidden = {}, {}
    for iteration in run(net, tune=tuning(data), rate=0.4, rounds=3):
        now = {name: module.weight == 0 for name, module in layers(net).items()}
        then = {name: m.weight_orig.detach().clone() for name, m in layers(net).items()}
        assert all((now[name] | ~mask).all() for name, mask in zero.items())
        assert not hidden or any(not torch.equal(then[name], hidden[name]) for name in hidden)
        assert iteration.sparsity == {n: mask.double().mean().item() for n, mask in now.items()}
        zero, hidden = now, then
    x = data.tensors[0]
    assert all(torch.equal(a, b) for a, b in zip(net(x), permanent(net)(x), strict=True))


class Reads(nn.Module):
    """A layer that ``forward`` may call, and whose weight it reads."""

    def __init__(self, calls):
        super().__init__()
        self.inner, self.last, self.calls = nn.Linear(4, 4), nn.Linear(4, 3), calls

    def forward(self, x):
        x = self.inner(x).tanh() if self.calls else x
        x = nn.functional.linear(x, self.inner.weight).relu()
        return self.last(x)


def by_hand(calls):
    backbone = Reads(calls)
    head = nn.Linear(4, 3)
    return EarlyExitNetwork([nn.Tanh(), backbone], [head])


def split_before(calls):
    stages = split(Reads(calls), at=["relu"], example=torch.ones(2, 4))
    return EarlyExitNetwork(stages, [nn.Linear(4, 3)])


def split_after(calls):
    backbone = Reads(calls)
    prune_smallest([backbone.inner, backbone.last], rate=0.5)
    stages = split(backbone, at=["relu"], example=torch.ones(2, 4))
    return EarlyExitNetwork(stages, [nn.Linear(4, 3)])


@pytest.mark.parametrize("calls", [True, False])
@pytest.mark.parametrize("build", [by_hand, split_before, split_after])
def test_a_mask_holds_where_forward_reads_the_weight_itself(build, calls):
    """The layer is found, keeps its zeros through training, and learns with the others."""
    torch.manual_seed(0)
    net = build(calls).eval()
    (inner,) = [layer for name, layer in layers(net).items() if name.endswith("inner")]
    if build is not split_after:
        prune_smallest(layers(net).values(), rate=0.5)
    zeros, before = inner.weight == 0, inner.weight.clone()
    data = TensorDataset(torch.randn(12, 4), torch.arange(12) % 3)
    training.fit(net, data, loss=training.joint_loss, epochs=2, batch_size=4)
    assert zeros.any()
    assert torch.equal(inner.weight == 0, zeros)
    assert torch.equal(inner.weight, inner.weight_orig * inner.weight_mask), "as last trained"
    assert (inner.weight != before)[~zeros].all()
    assert not any(module._forward_pre_hooks for module in [net, *net.stages])
    x = torch.randn(5, 4)
    for one, other in zip(permanent(net)(x), net(x), strict=True):
        assert torch.equal(one, other)


def test_fine_tune_draws_the_same_samples_for_every_plan():
    seen = {}
    numbers = torch.arange(24.0)[:, None, None, None].expand(-1, 1, 8, 8).contiguous()
    for part in ("all", "exits"):
        net, data = small()
        rows = seen[part] = []

        def note(x, generator, rows=rows):
            rows.extend(x[:, 0, 0, 0].tolist())
            return x

        tuning(TensorDataset(numbers, data.tensors[1]), augment=note)(net, part, 1)
    assert seen["all"] == seen["exits"] and len(set(seen["all"])) == len(seen["all"]) == 12


def test_fine_tune_may_see_samples_twice():
    net, data = small()
    rows = []
    tuning(data, samples=30, augment=lambda x, generator: rows.append(len(x)) or x)(net, "all", 1)
    assert sum(rows) == 30


def test_backbone_alone_learns_from_its_classifier_only():
    """By default the early exits do not pull: with other exits the backbone ends the same."""
    results = []
    for scale, loss in ((1.0, None), (5.0, None), (1.0, training.joint_loss)):
        net, data = small()
        with torch.no_grad():
            net.exits[0].linear.weight.mul_(scale)
        tuning(data, backbone_loss=loss)(net, "backbone", 1)
        results.append(fingerprint(net.stages))
    assert results[0] == results[1] != results[2]


def test_accuracies_by_hand(table_net, rows):
    net = table_net([[[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]])
    assert accuracies(net, [(rows(2), torch.tensor([0, 0]))]) == (0.5, 1.0)


def test_accuracies_refuse_what_would_only_look_like_one(table_net, rows):
    logits = [[[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [math.nan, 0.0]]]
    with pytest.raises(ValueError, match="exit 1 gave NaN"):
        accuracies(table_net(logits), [(rows(2), torch.tensor([0, 0]))])
    with pytest.raises(ValueError, match="one label per sample"):
        accuracies(table_net(logits), [(rows(2), torch.tensor([[0], [0]]))])


@pytest.mark.parametrize(
    ("part", "count", "samples", "words"),
    [
        ("heads", 24, 12, "'all', 'backbone' or 'exits'"),
        ("all", 0, 12, "of 0: fine-tuning"),
        ("all", 24, 0, "at least one"),
    ],
)
def test_fine_tune_refuses(part, count, samples, words):
    net, data = small()
    with pytest.raises(ValueError, match=words):
        tuning(TensorDataset(*data[:count]), samples=samples)(net, part, 1)


def test_any_order_is_a_plan():
    """Exits first, at another rate: 1 of their 4 weights goes; then half of the backbone's 8."""
    phases = [("exits", 0.25, 1), ("backbone", 0.5, 1)]
    iterations = list(run(toy(), lambda **_: phases))
    assert [list(i.sparsity.values()) for i in iterations] == [[0, 0.25, 0], [1, 0.25, 0]]


# --- resumption


@pytest.mark.parametrize(("order", "cut"), [(separately, 1), (separately, 3)])
def test_a_run_that_was_cut_off_goes_on(order, cut, tmp_path):
    """Cut off in either phase, it ends with the same bits, and does nothing twice."""
    net, data = small()
    calls, tune = [], tuning(data, samples=6)

    def counted(*args):
        calls.append(args)
        return tune(*args)

    evaluate = partial(accuracies, batches=[data.tensors])
    options = {"tune": counted, "evaluate": evaluate, "rate": 0.3}
    whole = list(run(net, order, **options))

    options["checkpoint"] = tmp_path / "cut.safetensors"
    iterations = run(small()[0], order, **options)
    for _ in range(cut):
        next(iterations)
    iterations.close()

    for left in (len(whole) - cut, 0):  # the second time it is finished
        calls.clear()
        again = small()[0]
        assert list(run(again, order, **options)) == whole
        assert len(calls) == left
        assert fingerprint(again) == fingerprint(net)


@pytest.mark.parametrize(
    "change",
    [
        {"rate": 0.4},
        {"net": small(seed=1)[0]},
        {"scope": "layer"},
        {"tune": tuning(small()[1])},
        {"evaluate": lambda net: [0.25] * net.num_exits},
    ],
)
def test_a_foreign_checkpoint_is_reported_and_not_used(change, tmp_path):
    path = tmp_path / "a.safetensors"
    first = list(run(small()[0], checkpoint=path))
    with pytest.warns(checkpoints.CheckpointWarning, match="another run"):
        assert list(run(**{"net": small()[0]} | change, checkpoint=path)) != first


def test_a_damaged_checkpoint_is_reported_and_not_used(tmp_path):
    path = tmp_path / "a.safetensors"
    first = list(run(small()[0]))
    path.write_bytes(b"half a file")
    with pytest.warns(checkpoints.CheckpointWarning, match="damaged"):
        assert list(run(small()[0], checkpoint=path)) == first


# --- bad input

BAD_RATES = [0, 1, 1.0, 0.0, -0.1, 1.5, float("nan"), True, "half", None]


@pytest.mark.parametrize("rate", BAD_RATES)
def test_a_rate_outside_0_and_1(rate, unchanged):
    net, _ = small()
    with unchanged(net):
        for call in (
            lambda: prune_smallest(layers(net).values(), rate=rate),
            lambda: run(net, together, rate=rate),
            lambda: run(net, separately, rate=rate),
            lambda: run(net, partial(separately, exits_rate=0.5), rate=rate),
        ):
            with pytest.raises(ValueError, match=r"must be in \(0, 1\)"):
                call()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rounds": 0}, "rounds=0"),
        ({"rounds": 1.5}, "whole number"),
        ({"rounds": True}, "rounds=True"),
        ({"scope": "local"}, "'global' or 'layer'"),
    ],
)
def test_bad_schedules_are_refused_before_anything_happens(options, words, unchanged):
    net, _ = small()
    for order in (together, separately):
        with unchanged(net), pytest.raises(ValueError, match=words):
            run(net, order, **options)


def test_a_network_without_exits():
    alone = EarlyExitNetwork([nn.Linear(2, 2)], [])
    without_weights = EarlyExitNetwork(
        [nn.Linear(2, 2), nn.Linear(2, 2)], [ClassMeanExit(torch.randn(2, 2))]
    )
    for net in (alone, without_weights):
        for call in (run, partial(run, order=separately), layers):
            with pytest.raises(ValueError, match="no exit to prune"):
                call(net)
        assert layers(net, part="backbone")


def test_nothing_left_to_prune(unchanged):
    layer = nn.Linear(2, 2)
    prune_smallest([layer], rate=0.75)
    for rate in (0.1, 0.5):  # one weight left: half of it rounds to nothing
        with unchanged(layer), pytest.raises(ValueError, match="nothing left to prune.* 1 weights"):
            prune_smallest([layer], rate=rate)
    with pytest.raises(ValueError, match="nothing left to prune"):
        list(run(toy(), rounds=9))


NO_WEIGHTS = EarlyExitNetwork([nn.Identity(), nn.Identity()], [LinearExit(2, 2)])
NAN = nn.Linear(1, 1)
nn.init.constant_(NAN.weight, math.nan)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: prune_smallest([], rate=0.5), "at least one layer"),
        (lambda: prune_smallest([nn.ReLU()], rate=0.5), "with a weight"),
        (lambda: prune_smallest([NAN], rate=0.5), "not finite"),
        (lambda: prune_smallest([nn.Linear(2, 2)], rate=0.5, scope="local"), "'global' or 'layer'"),
        (lambda: layers(toy(), part="heads"), "'all', 'backbone' or 'exits'"),
        (lambda: run(toy(), lambda **_: [("heads", 0.5, 1)]), "'all', 'backbone' or 'exits'"),
        (lambda: layers(NO_WEIGHTS, part="backbone"), "no linear or convolution layer"),
    ],
)
def test_what_cannot_be_pruned(call, words):
    with pytest.raises(ValueError, match=words):
        call()
