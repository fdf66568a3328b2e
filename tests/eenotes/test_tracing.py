"""What a trace would freeze is honoured or refused; stages copy and pickle with both graphs."""

import copy
import io
import pickle
import random

import pytest
import torch
from torch import nn

from eenotes import EarlyExitNetwork, cut_points, linear_exits, split
from eenotes.methods import pruning

X = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))


class TwoLayers(nn.Module):
    """A linear layer, a classifier, and ``body(net, x)`` for a forward."""

    def __init__(self, body=None):
        super().__init__()
        self.first, self.last, self.body = nn.Linear(4, 8), nn.Linear(8, 3), body

    def forward(self, x):
        return self.body(self, x)


def dropout(net, x):
    return net.last(nn.functional.dropout(net.first(x).relu(), 0.5, net.training))


def network(backbone, at=("relu",), x=X):
    stages = split(backbone, at=list(at))
    return EarlyExitNetwork(stages, linear_exits(stages, x, num_classes=3))


def by_torch_save(net):
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def by_pickle(net):
    return pickle.loads(pickle.dumps(net))


# --- copies


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("way", [by_torch_save, by_pickle, copy.deepcopy])
def test_a_copy_follows_train_and_eval(way, training):
    net = network(TwoLayers(dropout)).train(training)
    twin = way(net)
    assert [m.training for m in twin.modules()] == [m.training for m in net.modules()]
    for mode in (True, False):
        net.train(mode), twin.train(mode)
        torch.manual_seed(1)
        expected = net(X)
        torch.manual_seed(1)
        assert all(torch.equal(a, b) for a, b in zip(twin(X), expected, strict=True))
    assert not torch.equal(twin.train()(X)[-1], twin(X)[-1]), "dropout is on in training mode"
    assert torch.equal(twin.eval()(X)[-1], twin(X)[-1])


@pytest.mark.parametrize("way", [by_torch_save, by_pickle, copy.deepcopy])
def test_parts_shared_between_stages_stay_shared(way):
    backbone = TwoLayers(lambda net, x: net.last(net.middle(net.middle(net.first(x)).relu())))
    backbone.middle = nn.Linear(8, 8)
    twin = way(network(backbone))
    assert twin.stages[0].middle is twin.stages[1].middle


@pytest.mark.parametrize("way", [by_torch_save, copy.deepcopy])
def test_a_network_with_masks_can_be_copied(way):
    net = network(TwoLayers(dropout))
    pruning.prune_smallest(pruning.layers(net).values(), rate=0.3)
    net.train()(X)[-1].sum().backward()  # the masked weights have a history now
    twin = way(net).eval()
    assert all(torch.equal(a, b) for a, b in zip(twin(X), net.eval()(X), strict=True))
    assert (twin.stages[0].first.weight == 0).any()


# --- what a trace freezes


def test_optional_arguments_take_their_defaults():
    class Optional(TwoLayers):
        def forward(self, x, scale=None, mask=None):
            h = self.first(x).relu()
            if scale is None:
                h = 2 * h
            return self.last(h if mask is None else h * mask)

    backbone = Optional().eval()
    first, rest = split(backbone, at=["relu"])
    assert torch.equal(rest(first(X)), backbone(X))


def random_depth(net, x):
    x = net.first(x)
    if net.training and random.random() < 0.5:
        x = x.relu()
    return net.last(x.tanh())


def noise(net, x):
    x = net.first(x).relu()
    return net.last(x + torch.randn(8) if net.training else x)


def always_noise(net, x):
    return net.last(net.first(x).relu() + torch.randn(8))


def noise_of_its_input(net, x):
    x = net.first(x).relu()
    return net.last(x + torch.randn_like(x) if net.training else x)


@pytest.mark.parametrize("body", [random_depth, noise, always_noise])
def test_random_numbers_are_refused(body):
    backbone, state = TwoLayers(body), (random.getstate(), torch.get_rng_state())
    mode = "evaluation" if body is always_noise else "training"
    with pytest.raises(ValueError, match=f"in {mode} mode .*or a random number"):
        split(backbone, at=["first"])
    assert not [name for name in vars(backbone) if "constant" in name]
    assert state[0] == random.getstate() and torch.equal(state[1], torch.get_rng_state())


@pytest.mark.parametrize(
    "body",
    [
        noise_of_its_input,
        lambda net, x: net.last(net.first(x).relu() + torch.arange(8.0)),  # belongs to the stage
    ],
)
def test_what_forward_makes_is_no_constant_of_the_backbone(body):
    backbone = TwoLayers(body).train()
    first, rest = split(backbone, at=["relu"])
    torch.manual_seed(2)
    expected = backbone(X)
    torch.manual_seed(2)
    assert torch.equal(rest(first(X)), expected)
    assert not [name for name in vars(backbone) if "constant" in name]


def test_a_decision_about_the_batch_is_found_by_the_comparison():
    calls = []

    def counting(net, x):
        calls.append(1)
        return net.last(net.first(x).relu() * (1.0 if len(calls) < 9 else 2.0))

    with pytest.raises(ValueError, match="give other answers than the backbone"):
        split(TwoLayers(counting), at=["relu"])


# --- what can be cut


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.last = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        x, _ = self.lstm(x)
        x, weights = self.attention(x, x, x)
        return self.last(x.relu().mean(1))


def test_an_unused_item_of_a_tuple_forbids_no_cut():
    backbone = Recurrent().eval()
    assert {"relu", "mean"} <= set(cut_points(backbone))
    first, rest = split(backbone, at=["relu"])
    x = torch.randn(2, 5, 4)
    assert torch.allclose(rest(first(x)), backbone(x))


def by_size(net, x):
    size = x.size(0)
    return net.last(net.first(x).relu().reshape(size, 8))


def by_shape(net, x):
    size, _ = x.shape
    return net.last(net.first(x).relu().reshape(size, 8))


def by_late_size(net, x):
    hidden = net.first(x).relu()
    return net.last(hidden.reshape(x.size(dim=0), 8) + 0 * x.size(0))


@pytest.mark.parametrize("body", [by_size, by_shape, by_late_size])
def test_the_size_of_the_batch_forbids_no_cut(body):
    backbone = TwoLayers(body).eval()
    first, rest = split(backbone, at=["relu"])
    for count in (1, 3):  # fewer samples than the first stage has seen may come to the second
        assert torch.allclose(rest(first(X)[:count]), backbone(X[:count]))


def sized(net, x):
    size = x.size(1)
    return net.last(net.first(x).relu() * size)


def skip(net, x):
    return net.last(net.first(x).relu()) + x[:, :3]


@pytest.mark.parametrize(
    "body, words", [(sized, r"\(size\).*nearest legal places"), (skip, r"\(x\).*no legal place")]
)
def test_an_illegal_cut_names_what_else_is_needed(body, words):
    with pytest.raises(ValueError, match="more than one value " + words):
        split(TwoLayers(body), at=["relu"])


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_wrappers_are_looked_through(wrap):
    backbone = TwoLayers(dropout).eval()
    stages = split(wrap(backbone), at=["relu"])
    assert stages[0].first is backbone.first


def test_two_arguments_and_a_missing_example():
    class Two(TwoLayers):
        def forward(self, x, y):
            return self.last(self.first(x).relu() + y)

    with pytest.raises(ValueError, match="1 required positional argument: 'y'"):
        split(Two(), at=["first"])

    odd = TwoLayers(lambda net, x: net.last(net.first(x.reshape(-1, 7, 4).sum(1)).relu()))
    with pytest.raises(ValueError, match="example=x"):
        split(odd, at=["relu"])
    assert len(split(odd, at=["relu"], example=torch.randn(2, 28))) == 2
    with pytest.raises(ValueError, match="must be a batch"):
        split(TwoLayers(dropout), at=["relu"], example=torch.randn(0, 4))
