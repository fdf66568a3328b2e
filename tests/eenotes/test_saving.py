"""A saved network is the same network again, bit for bit, or the file is refused in a sentence."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import eenotes
from eenotes import (
    ClassMeanConfidence,
    Confidence,
    EarlyExitNetwork,
    Entropy,
    Patience,
    PerClass,
    ScoreRule,
    linear_exits,
    predict,
    split,
)
from eenotes.checkpoints import load_tensors, save_tensors
from eenotes.methods import e2cm, pruning

torch.manual_seed(0)
Y = torch.arange(30) % 3
X = torch.randn(30, 3, 8, 8) + Y[:, None, None, None]


class Small(nn.Module):
    """Two convolutions, with a class token's like: a parameter of its own."""

    def __init__(self, *, width=6, eps=1e-5, classes=3):
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width, eps=eps)
        self.conv2, self.head = nn.Conv2d(width, 8, 3), nn.Linear(8, classes)
        self.shift = nn.Parameter(torch.randn(width, 1, 1))

    def forward(self, x):
        x = self.norm(self.conv1(x)).relu() + self.shift
        return self.head(self.conv2(x).relu().mean((2, 3)))


class Own(nn.Module):
    """An exit of one's own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(3))

    def forward(self, features):
        return features.mean((1, 2, 3))[:, None] * self.scale


def linear(backbone=None):
    stages = split(backbone or Small().eval(), at=["norm", "conv2"])
    return EarlyExitNetwork(stages, linear_exits(stages, X, num_classes=3, grid=2)).eval()


def class_means():
    return e2cm.fit(split(Small().eval(), at=["norm", "conv2"]), [(X, Y)], num_classes=3)


def whitened():
    stages = split(Small().eval(), at=["norm", "conv2"])
    return e2cm.fit_whitened(stages, [(X, Y)], num_classes=3, grid=1)


def combined():
    means = class_means()
    heads = linear_exits(means.stages, X, num_classes=3)
    return e2cm.combine(means, EarlyExitNetwork(means.stages, heads))


def with_masks():
    net = linear()
    pruning.prune_smallest(pruning.layers(net).values(), rate=0.4)
    return net


def in_bfloat16():
    return class_means().bfloat16()


def by_hand():
    net = linear()
    return EarlyExitNetwork([nn.Sequential(*net.stages[:2]), net.stages[2]], [Own()]).eval()


def same_bits(one, other):
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [f.dtype for f in first.values()] == [s.dtype for s in second.values()]


@pytest.mark.parametrize(
    "build", [linear, class_means, whitened, combined, with_masks, in_bfloat16, by_hand]
)
def test_a_loaded_network_is_the_same(build, tmp_path, unchanged):
    net, path = build(), tmp_path / "net.safetensors"
    net.train()
    with unchanged(net):
        eenotes.save(net, path, rule=Entropy(0.9))
    net.eval()
    dtype = next(net.parameters()).dtype
    fresh, random = by_hand() if build is by_hand else Small().to(dtype), torch.get_rng_state()
    with unchanged(fresh):
        again = eenotes.load(path, fresh)
    assert torch.equal(torch.get_rng_state(), random)
    same_bits(net, again)
    assert not any(part.training for part in again.modules())
    rule, x = eenotes.load_rule(path), X.to(dtype)
    for one, other in zip(net(x), again(x), strict=True):
        assert torch.equal(one, other)
    one, other = predict(net, x, Entropy(0.9)), predict(again, x, rule)
    assert torch.equal(one.exit_index, other.exit_index)
    assert torch.equal(one.confidence, other.confidence)
    again.train()  # still follows the mode, and can be saved again
    eenotes.save(again, path)
    same_bits(eenotes.load(path, fresh), net)


@dataclass(frozen=True)
class Doubled(ScoreRule):
    """A rule of one's own."""

    thresholds: float | tuple[float, ...]

    def score(self, j, logits):
        return Confidence.score(self, j, 2 * logits)


@pytest.mark.parametrize(
    "rule",
    [
        Confidence(0.1 + 0.2),
        Confidence(((0.5, 0.6, 0.7), (0.6, 0.5, 1.0))),
        Entropy((float("inf"), 0.3)),
        Patience(1),
        PerClass(torch.tensor([[0.4, 0.5, 0.6], [0.7, 0.4, 0.5]])),
        ClassMeanConfidence((0.4, 0.5), (torch.rand(3) + 1, None)),
        Doubled(0.6),
    ],
)
def test_a_loaded_rule_decides_the_same(rule, tmp_path):
    net, path = linear(), tmp_path / "net"
    eenotes.save(net, path, rule=rule)
    again = eenotes.load_rule(path, Doubled)
    assert type(again) is type(rule) and repr(again) == repr(rule)
    one, other = predict(net, X, rule), predict(net, X, again)
    assert torch.equal(one.exit_index, other.exit_index)


@pytest.mark.parametrize(
    ("fresh", "words"),
    [
        (lambda: Small(width=7), r"conv1.bias was \(\(6,\).*here it is \(\(7,\)"),
        (lambda: Small().double(), "was .*float32.* here it is .*float64"),
        (lambda: Small(eps=10.0), "other answers"),
        (lambda: nn.Linear(2, 3), "no node 'norm'"),
        (lambda: EarlyExitNetwork([Small()], []), "was missing|here it is missing"),
    ],
)
def test_another_architecture_is_refused(fresh, words, tmp_path, unchanged):
    eenotes.save(linear(), tmp_path / "net")
    backbone = fresh()
    with unchanged(backbone), pytest.raises(ValueError, match=words):
        eenotes.load(tmp_path / "net", backbone)


def test_what_cannot_be_saved_or_loaded_is_said(tmp_path):
    path, net = tmp_path / "net", by_hand()
    with pytest.raises(TypeError, match="Small is no early exit network"):
        eenotes.save(Small(), path)
    with pytest.raises(ValueError, match="4 thresholds"):
        eenotes.save(net, path, rule=Confidence([0.5] * 4))
    with pytest.raises(TypeError, match="only numbers and tensors"):
        eenotes.save(net, path, rule=ClassMeanConfidence(0.5, {1: None}.values()))
    with pytest.raises(ValueError, match="there is no file"):
        eenotes.load(path, net)
    eenotes.save(net, path)
    with pytest.raises(ValueError, match="build it anew"):
        eenotes.load(path, Small())
    with pytest.raises(ValueError, match="without a rule"):
        eenotes.load_rule(path)
    eenotes.save(net, path, rule=Doubled(0.5))
    with pytest.raises(ValueError, match=r"load_rule\(path, Doubled\)"):
        eenotes.load_rule(path)
    tensors, facts = load_tensors(path)
    save_tensors(path, tensors, **facts | {"format": 99})
    with pytest.raises(ValueError, match="format 1.* it says 99"):
        eenotes.load(path, net)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="damaged"):
        eenotes.load(path, net)


@pytest.mark.parametrize("norm", [False, True])
def test_of_a_language_model_the_exit_is_saved(norm, made, text, tmp_path):
    from eenotes.language import exits

    model, path = made("llama"), tmp_path / "exit"
    exited = exits.attach(model, at=2, norm=norm).eval()
    eenotes.save(exited, path)
    again = eenotes.load(path, made("llama"))
    same_bits(exited, again)
    assert torch.equal(exited.exit_logits(text()), again.exit_logits(text()))
    other = copy.deepcopy(model)
    nn.init.ones_(other.lm_head.weight)
    with pytest.raises(ValueError, match="other weights of its model"):
        eenotes.load(path, other)


def test_a_network_that_gives_more_than_logits_is_not_saved(tmp_path):
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(TypeError, match="gave a tuple: let it return the logits alone"):
        eenotes.save(EarlyExitNetwork([Pair()], []), tmp_path / "net", example=torch.randn(2, 3))
