"""Trained networks of chapter 2: their convolutions, exits, class means and comparison, by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from eenotes import split
from eenotes.costs import Costs
from eenotes.rules import Confidence
from eenotes_book.ch02_e2cm import (
    imagenet_stem,
    neural_collapse,
    published_exits,
    published_study,
    recorded_means,
)
from eenotes_book.data import recorded, vision
from eenotes_book.models import imagenet_resnet
from eenotes_book.models.resnet import CifarResNet

CLOSE = {"rtol": 1e-2, "atol": 1e-2}  # bfloat16 features, four digits


@pytest.mark.parametrize(
    ("kernel", "stride", "side"), [(1, 1, 4), (1, 2, 4), (3, 1, 1), (3, 2, 2), (3, 1, 4), (3, 2, 4)]
)
def test_a_product_is_the_convolution(kernel, stride, side):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 5, kernel, stride, padding=kernel // 2, bias=False))
    product = imagenet_resnet.as_products(copy.deepcopy(plain))
    assert type(product[0]) is imagenet_resnet.ProductConv2d
    x, found = torch.randn(2, 3, side, side), []
    for net in (plain, product):
        inputs = x.clone().requires_grad_()
        out = net(inputs)
        gradients = torch.autograd.grad(out.square().sum(), (inputs, net[0].weight))
        found.append((out, *gradients))
    for mine, expected in zip(*found, strict=True):
        assert torch.allclose(mine, expected, atol=1e-5)
    assert list(plain.state_dict()) == list(product.state_dict())


def test_resnet50_is_cut_after_its_blocks():
    backbone = imagenet_resnet.as_products(imagenet_resnet.resnet50()).eval()
    points = published_exits.thinned("resnet50", imagenet_resnet.exit_points(backbone))
    assert points == ["maxpool", "layer1.2", "layer2.2", "layer3.1", "layer3.4", "layer4.1"]
    x, stages = torch.randn(2, 3, 32, 32), split(backbone, at=points)
    shapes, features = [], x
    for stage in stages[:-1]:
        features = stage(features)
        shapes.append(tuple(features.shape[1:]))
    assert shapes[0] == (64, 8, 8) and shapes[-1] == (2048, 1, 1)
    assert torch.allclose(stages[-1](features), backbone(x), atol=1e-6)


def test_the_learning_rate_rises_stays_and_falls():
    rate = imagenet_stem.Trapezoid(epochs=10, warm_up=2, decay=4)
    shares = [rate(epoch / 10) for epoch in (0, 1, 2, 6, 8, 10)]
    assert shares == pytest.approx([0, 0.5, 1, 1, 0.5, 0])


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host of 60 images and a small network that was not trained."""
    torch.manual_seed(0)
    backbone = CifarResNet(20, width=4).eval()
    monkeypatch.setenv("EENOTES_CACHE", str(tmp_path))
    monkeypatch.setattr(imagenet_stem, "backbone", lambda *_: (backbone, backbone.exit_points))
    labels = torch.arange(60) % 10
    split_ = TensorDataset(torch.randn(60, 3, 8, 8) + labels[:, None, None, None] / 5, labels)
    scaling = torch.zeros(3), torch.ones(3)
    data = vision.Vision("toy", split_, split_, split_, tuple("0123456789"), *scaling)
    recipe = published_exits.Recipe(views=2, passes=1, batch_size=30, joint_epochs=1)
    return published_exits.Host("resnet20", data, recipe)


@pytest.mark.parametrize("method", published_exits.METHODS)
def test_trained_exits_come_back(host, method):
    before = [value.clone() for value in host.stages.state_dict().values()]
    logits = published_exits.logits_of(host, method, 1)
    assert logits.shape == (10, 60, 10) and published_exits.is_kept(host, method, 1)
    assert torch.equal(published_exits.logits_of(host, method, 1), logits)
    after = host.stages.state_dict().values()
    assert all(map(torch.equal, before, after)), "the backbone moved"
    _, last = host.test
    assert torch.allclose(logits[-1], last, atol=1e-5) == method.startswith("sdn")


def test_exits_on_pooled_features_are_the_exits_of_the_network(host):
    net = host.with_exits(host.stages, 3).eval()
    found = published_exits.PooledExits(net)(host.test[0])
    for mine, expected in zip(found, net(host.data.test.tensors[0]), strict=False):
        assert torch.allclose(mine, expected, atol=1e-5)
    with pytest.raises(ValueError, match="choose one of sdn1"):
        published_exits.logits_of(host, "e2cm", 0)


def test_neural_collapse_is_the_formula():
    torch.manual_seed(0)
    labels = torch.arange(300) % 3
    x = torch.randn(300, 6) + 2 * torch.randn(3, 6)[labels]
    batches, stages = [(x, labels)], [nn.Identity().eval(), nn.Identity().eval()]
    (row,) = neural_collapse.measure(stages, batches, batches, batches, num_classes=3)
    means = torch.stack([x[labels == k].mean(0) for k in range(3)])
    within = (x - means[labels]).T @ (x - means[labels]) / 300
    between = (means - means.mean(0)).T @ (means - means.mean(0)) / 3
    expected = torch.trace(within @ torch.linalg.pinv(between, rtol=1e-4)) / 3
    assert row["nc1"] == pytest.approx(expected.item(), abs=2e-4)
    nearest = torch.cdist(x, means).argmin(1)
    right = (nearest == labels).double().mean().item()
    assert row["nearest_mean"] == pytest.approx(right, abs=1e-4)


def test_class_means_and_their_spread_by_hand():
    torch.manual_seed(0)
    labels = torch.arange(240) % 4
    x = torch.randn(240, 5) + 2 * torch.randn(4, 5)[labels]
    batches, stages = [(x[:100], labels[:100]), (x[100:], labels[100:])], [nn.Identity().eval()]
    (row,) = recorded_means.measure(stages, batches, num_classes=4, plane=(2, 0, 3))
    means = torch.stack([x[labels == k].mean(0) for k in range(4)])
    spread = [(x[labels == k] - means[k]).square().sum(1).mean().sqrt() for k in range(4)]
    torch.testing.assert_close(torch.tensor(row["distances"]), torch.cdist(means, means), **CLOSE)
    torch.testing.assert_close(torch.tensor(row["spread"]), torch.stack(spread), **CLOSE)
    # the plane keeps the distances, and the variance along the line between two means
    flat, three = torch.tensor(row["means"]), means[[2, 0, 3]]
    torch.testing.assert_close(torch.cdist(flat, flat), torch.cdist(three, three), **CLOSE)
    along = torch.nn.functional.normalize(means[0] - means[2], dim=0)
    variance = ((x[labels == 2] - means[2]) @ along).square().mean()
    line = torch.nn.functional.normalize(flat[1] - flat[0], dim=0)
    torch.testing.assert_close(line @ torch.tensor(row["covariances"][0]) @ line, variance, **CLOSE)


def test_recorded_separability_is_the_formula():
    layer = recorded_means.recorded()["resnet56"]["layers"][0]
    table = recorded_means.separability("resnet56")
    distances = sorted(layer["distances"][3])  # of the cat: its own is 0
    assert table.loc["cat", "stem"] == pytest.approx(
        distances[1] / (distances[1] + layer["spread"][3])
    )
    assert table.shape == (10, 28) and list(table)[-2:] == ["26", "classifier"]


def test_thresholds_are_reported_on_the_other_half():
    torch.manual_seed(0)
    labels = torch.randint(0, 4, (400,))
    certain = 3 * torch.nn.functional.one_hot(labels, 4) + torch.randn(2, 400, 4)
    costs = Costs((1, 1), (0,))
    kwargs = {"seed": 2, "budgets": (0.5, 0.8, 1.0)}
    found = published_study.run(certain, labels, Confidence(1.0), costs, **kwargs)
    right = (certain.argmax(2) == labels).double().mean(1)
    assert found["exits"] == pytest.approx(right.tolist(), abs=1e-4)
    cheapest, _, dearest = found["points"]
    assert (cheapest["budget"], cheapest["relative_cost"]) == (0.5, 0.5)
    assert cheapest["accuracy"] == pytest.approx(right[0].item(), abs=1e-4)
    assert dearest["promised"] >= cheapest["promised"]


def test_thumbnails_are_of_the_recorded_samples():
    indices, images, facts = recorded.thumbnails()
    assert images.shape == (len(indices), 32, 32, 3) and images.dtype == torch.uint8
    run = recorded.load("resnet56", "whitened")
    score = run.rule.score(0, run.logits[0]).confidence[indices]
    leaves = torch.tensor(facts["exits"]) == 0
    assert torch.equal(score > facts["threshold"], leaves)
    assert "no licence" in facts["terms"]
    (cat,) = recorded.images_of(["cat"])
    assert any(torch.equal(cat, image) for image in images)
    with pytest.raises(ValueError, match="no image of lynx"):
        recorded.images_of(["cat", "lynx"])
