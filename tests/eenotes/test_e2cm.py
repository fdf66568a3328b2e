"""E²CM on a network small enough for pen and paper."""

import math

import pytest
import torch
from torch import nn

from eenotes import (
    ClassMeanExit,
    Confidence,
    EarlyExitNetwork,
    LinearExit,
    collect,
    count_macs,
    predict,
    split,
)
from eenotes.exits import pool
from eenotes.methods import e2cm
from eenotes_book.models.resnet import CifarResNet

# One number per image; the first stage doubles it.
X = torch.tensor([[0.0], [2.0], [5.0], [7.0]])
Y = torch.tensor([0, 0, 1, 1])


def two_stages():
    double, classifier = nn.Linear(1, 1, bias=False), nn.Linear(1, 2, bias=False)
    nn.init.constant_(double.weight, 2.0)
    with torch.no_grad():
        classifier.weight.copy_(torch.tensor([[0.0], [1.0]]))
    return nn.ModuleList([double, classifier]).eval()


def fit(stages=None, batches=None, **options):
    batches = [(X[:3], Y[:3]), (X[3:], Y[3:])] if batches is None else batches
    return e2cm.fit(
        two_stages() if stages is None else stages, batches, **{"num_classes": 2, **options}
    )


# --- by hand


@pytest.mark.parametrize(
    ("normaliser", "mu"),
    [
        ("mean", [(2 + 2 + 8 + 12) / 4, (12 + 8 + 2 + 2) / 4]),
        ("rms", [((4 + 4 + 64 + 144) / 4) ** 0.5, ((144 + 64 + 4 + 4) / 4) ** 0.5]),
    ],
)
def test_fit_by_hand(normaliser, mu):
    """Features 0, 4 | 10, 14: the means are 2 and 12, and μ averages the distances of all four,
    whatever their class.
    """
    net = fit(normaliser=normaliser)
    (head,) = net.exits
    assert head.means.tolist() == [[2], [12]]
    assert head.mean_distance.tolist() == pytest.approx(mu)
    assert not any(part.training for part in net.modules())
    first, last = net(torch.tensor([[3.0]]))
    assert first.tolist()[0] == pytest.approx([-4, -6], abs=1e-5)
    assert last.tolist() == [[0, 6]]


def test_rule_by_hand():
    """Feature 6: distances 4 and 6, both over μ = 6; softmax(-4/6, -1) = .583 for class 0."""
    net = fit()
    confidence = 1 / (1 + math.exp(4 / 6 - 1))
    for threshold, exit_index, prediction in [(confidence - 1e-3, 0, 0), (confidence + 1e-3, 1, 1)]:
        outcome = predict(net, torch.tensor([[3.0]]), e2cm.rule(net, threshold))
        assert (outcome.exit_index.item(), outcome.prediction.item()) == (exit_index, prediction)
    anyone = predict(net, torch.tensor([[3.0]]), e2cm.rule(net, 0.0))
    assert anyone.confidence.item() == pytest.approx(confidence)
    assert e2cm.rule(net).thresholds == 1.0


def test_the_nearest_mean_and_the_largest_confidence_can_differ():
    net = fit()
    net.exits[0] = ClassMeanExit(net.exits[0].means, torch.tensor([1.0, 10.0])).eval()
    x = torch.tensor([[3.0]])  # distances 4 and 6, normalised 4 and .6
    assert predict(net, x, e2cm.rule(net, 0.0)).prediction.item() == 0
    logits = net(x)[0]
    assert e2cm.rule(net).probabilities(0, logits).argmax(1).item() == 1


@pytest.mark.parametrize("normaliser", ["mean", "rms"])
def test_fit_on_a_backbone_is_the_definition(normaliser, unchanged):
    """All stages at once, against the formulas of the paper, one stage and one class at a time."""
    torch.manual_seed(0)
    backbone = CifarResNet(8, width=4, num_classes=3).eval()
    x, y = torch.randn(40, 3, 8, 8), torch.arange(40) % 3
    stages = split(backbone, at=["stem", "group1", "group2"])
    batches = list(zip(x.split(16), y.split(16), strict=True))
    with unchanged(backbone):
        net = e2cm.fit(stages, batches, num_classes=3, normaliser=normaliser)
    with torch.no_grad():
        for features, head in zip(net.features(x), net.exits, strict=True):
            flat = features.flatten(1)
            means = torch.stack([flat[y == k].mean(0) for k in range(3)])
            distance = torch.cdist(flat, means, compute_mode="donot_use_mm_for_euclid_dist")
            mu = distance.mean(0) if normaliser == "mean" else distance.square().mean(0).sqrt()
            assert torch.allclose(head.means, means, atol=1e-5)
            assert torch.allclose(head.mean_distance, mu, rtol=1e-4)
            assert torch.allclose(head(features), -distance, atol=1e-4)
        assert torch.equal(net(x)[-1], backbone(x))
    assert count_macs(net, x[:2]).exits == (3 * 4 * 64, 3 * 4 * 64, 3 * 8 * 16)


# --- combine


def pair():
    """A class-mean and a trained network over the same stages."""
    torch.manual_seed(1)
    stages = nn.ModuleList(
        [nn.Linear(2, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 2)]
    ).eval()
    x, y = torch.randn(30, 2), torch.arange(30) % 2
    heads = [LinearExit(4, 2), LinearExit(4, 2)]
    for head in heads:
        nn.init.normal_(head.linear.weight, std=2.0)
    return fit(stages, [(x, y)]), EarlyExitNetwork(stages, heads).eval(), x, y


def test_a_sample_leaves_when_either_exit_lets_it_go():
    means, trained, x, labels = pair()
    both = e2cm.combine(means, trained)
    rule, logits = e2cm.rule(both), collect(both, [(x, labels)])[0]
    # class means, trained, class means, trained: each lets about a third go
    thresholds = [rule.score(j, logits[j]).score.quantile(0.7).item() + 1e-4 for j in range(4)]
    outcome = predict(both, x, e2cm.rule(both, thresholds))

    mean_rule, trained_rule = e2cm.rule(means, thresholds[::2]), Confidence(thresholds[1::2])
    a, b = collect(means, [(x, labels)])[0], collect(trained, [(x, labels)])[0]
    left = set()
    for i in range(len(x)):
        expected = (4, b[2, i].argmax().item())
        for j in (1, 0):
            for number, rule, logits in ((2 * j + 1, trained_rule, b), (2 * j, mean_rule, a)):
                if rule(j, logits[j, i : i + 1]).leave:
                    expected = (number, logits[j, i].argmax().item())
        left.add(expected[0])
        assert (outcome.exit_index[i].item(), outcome.prediction[i].item()) == expected
    assert left == {0, 1, 2, 3, 4}, "every exit must be used, or the test shows little"


def test_between_two_exits_of_a_stage_nothing_is_computed():
    means, trained, x, _ = pair()
    both, apart = e2cm.combine(means, trained), count_macs(trained, x)
    costs = count_macs(both, x)
    assert costs.stages == (apart.stages[0], 0, apart.stages[1], 0, apart.stages[2])
    assert costs.exits == (2 * 4, 4 * 2, 2 * 4, 4 * 2)
    assert costs.backbone == apart.backbone


def test_only_networks_over_the_same_stages_combine():
    means, trained, *_ = pair()
    other = EarlyExitNetwork([nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2)], trained.exits)
    fewer = EarlyExitNetwork(trained.stages[:2], trained.exits[:1])
    for network in (other, fewer):
        with pytest.raises(ValueError, match="one split"):
            e2cm.combine(means, network)


# --- bad input


def test_training_mode_is_refused_wherever_it_hides(unchanged):
    stages = nn.ModuleList(
        [nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4)), nn.Linear(4, 2)]
    ).eval()
    for part in (stages[0], stages[0][1]):
        stages.eval()
        part.train()
        with unchanged(stages), pytest.raises(ValueError, match="training mode"):
            fit(stages)


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([], "no batch"),
        ([(X, torch.zeros(4, dtype=torch.int64))], r"no sample of class \[1\]"),
        ([(X, Y + 1)], r"0\.\.1, got 1\.\.2"),
        ([(X * float("nan"), Y)], "NaN"),
        ([(X[:0], Y[:0])], "at least one"),
    ],
)
def test_bad_batches(batches, words, unchanged):
    stages = two_stages()
    with unchanged(stages), pytest.raises(ValueError, match=words):
        fit(stages, batches)


@pytest.mark.parametrize("normaliser", ["mean", "rms"])
def test_features_that_are_all_the_same_are_refused_by_stage(normaliser):
    dead = nn.Sequential(nn.Linear(2, 3), nn.Threshold(1e9, 0))
    batches, stages = [(torch.randn(4, 2), torch.tensor([0, 1, 0, 1]))], [nn.Identity(), dead]
    with pytest.raises(ValueError, match="features of stage 1 are the same for every sample"):
        fit(nn.ModuleList([*stages, nn.Linear(3, 2)]).eval(), batches, normaliser=normaliser)


def test_an_iterator_is_not_enough_for_two_passes():
    with pytest.raises(ValueError, match="no iterator"):
        fit(batches=iter([(X, Y)]))
    assert fit(batches=iter([(X, Y)]), normaliser="rms").exits[0].means.tolist() == [[2], [12]]


def test_unknown_normaliser():
    with pytest.raises(ValueError, match="'mean' or 'rms'"):
        fit(normaliser="median")


# --- whitened class means


def grid_stages():
    """Features of 2 channels on 4 × 4 places, then of 3 numbers, then logits; nothing to train."""
    torch.manual_seed(3)
    maps = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU())
    flat = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    return nn.ModuleList([maps, flat, nn.Linear(3, 4)]).eval()


def labelled(count=240):
    noise = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    labels = torch.arange(count) % 4
    return noise + 0.3 * labels[:, None, None, None], labels


def whitened(batches=None, *, stages=None, **options):
    """Whitened exits on the small stages, by default with a grid of 2 × 2."""
    stages = grid_stages() if stages is None else stages
    batches = [labelled()] if batches is None else batches
    return e2cm.fit_whitened(stages, batches, **{"num_classes": 4, "grid": 2} | options)


@pytest.mark.parametrize("shrinkage", [0.01, 0.3, 1.0])
def test_whitened_exits_are_scikit_learns_linear_discriminants(shrinkage):
    """In uneven batches; both exits, the first on a grid of 2 × 2 averages.

    The classes are equally frequent, as the prior says.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    stages, (x, y) = grid_stages(), labelled()
    batches = list(zip(x.split(90), y.split(90), strict=True))
    net = whitened(batches, stages=stages, shrinkage=shrinkage)
    with torch.no_grad():
        logits, features = net(x), stages[0](x)
        for z, seen in zip(logits, (pool(features, grid=2), stages[1](features)), strict=False):
            seen = seen.double().numpy()
            oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
            expected = torch.as_tensor(oracle.fit(seen, y.numpy()).predict_proba(seen))
            torch.testing.assert_close(z.double().softmax(1), expected, rtol=1e-3, atol=1e-5)


X4, Y4 = labelled()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        *(({"shrinkage": bad}, "shrinkage") for bad in (0.0, -0.1, 1.5, float("nan"))),
        ({"batches": []}, "no batch"),
        ({"batches": [(torch.zeros_like(X4), Y4)]}, "do not vary"),
        ({"num_classes": 5}, "no sample of class"),
        ({"stages": grid_stages().train()}, "training mode"),
    ],
)
def test_whitening_refuses_what_it_cannot_measure(options, words):
    with pytest.raises(ValueError, match=words):
        whitened(**options)
