"""Data sets as users have them: the right result, or one sentence before anything happens."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from eenotes import (
    Confidence,
    EarlyExitNetwork,
    LinearExit,
    collect,
    count_macs,
    linear_exits,
    predict,
    predict_stream,
    split,
    training,
)
from eenotes.methods import cbt, e2cm, eeprune, pruning_schedule, scoring

COUNT = 24
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randint(256, (COUNT, 3, 6, 6), generator=GENERATOR, dtype=torch.uint8)
LABELS = torch.arange(COUNT) % 3


class Items(Dataset):
    def __init__(self, item):
        self.item = item

    def __len__(self):
        return COUNT

    def __getitem__(self, row):
        return self.item(row)


def net():
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        last = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        return EarlyExitNetwork([first, last], [LinearExit(4, 3)]).eval()


def trained(dataset):
    fresh = net()
    training.fit(fresh, dataset, loss=training.joint_loss, epochs=1, batch_size=8)
    return torch.cat([p.detach().flatten() for p in fresh.parameters()])


def collected(dataset):
    return collect(net(), DataLoader(dataset, 8))[0]


def class_means(dataset):
    found = e2cm.fit(net().stages, DataLoader(dataset, 8), num_classes=3)
    return torch.cat([found.exits[0].means.flatten(), found.exits[0].mean_distance])


def whitened(dataset):
    found = e2cm.fit_whitened(net().stages, DataLoader(dataset, 8), num_classes=3)
    return found.exits[0].linear.weight.detach()


def observed(dataset):
    return eeprune.observe(net(), dataset, batch_size=8).early_truth


USES = [trained, collected, class_means, whitened, observed]


def image(row, dtype=torch.float32):
    return (IMAGES[row].float() / 255).to(dtype)


@pytest.fixture(scope="module")
def expected():
    plain = Items(lambda row: (image(row), LABELS[row]))
    return {use: use(plain) for use in USES}


GOOD = {
    "labels of Python": lambda row: (image(row), row % 3),
    "labels of NumPy": lambda row: (image(row), np.int64(row % 3)),
    "arrays": lambda row: (image(row).numpy(), np.array(row % 3)),
    "int32 labels": lambda row: (image(row), LABELS[row].int()),
    "uint8 labels": lambda row: (image(row), np.uint8(row % 3)),
    "double images": lambda row: (image(row, torch.float64), row % 3),
    "not contiguous": lambda row: (
        image(row).permute(2, 1, 0).contiguous().permute(2, 1, 0),
        row % 3,
    ),
    "lists": lambda row: [image(row), row % 3],
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", GOOD)
def test_the_same_samples_give_the_same_result(use, name, expected):
    assert torch.allclose(use(Items(GOOD[name])), expected[use], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_images_are_read_in_full_precision(use, dtype):
    halves = Items(lambda row: (image(row, dtype), row % 3))
    rounded = Items(lambda row: (image(row, dtype).float(), row % 3))
    assert torch.equal(use(halves), use(rounded))


BAD = {
    "dictionaries": (lambda row: {"x": image(row), "y": row % 3}, TypeError, "a pair of tensors"),
    "triples": (lambda row: (image(row), row % 3, row), TypeError, "a pair of tensors"),
    "one-hot": (lambda row: (image(row), torch.eye(3).long()[row % 3]), ValueError, "label"),
    "too large": (lambda row: (image(row), row % 3 + 5), ValueError, r"0\.\.2, got 5\.\.7"),
    "floats": (lambda row: (image(row), float(row % 3)), TypeError, "whole numbers"),
    "integer images": (lambda row: (IMAGES[row], row % 3), TypeError, r"\.float\(\) / 255"),
    "channels last": (
        lambda row: (image(row).permute(1, 2, 0), row % 3),
        ValueError,
        "channels first",
    ),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", BAD)
def test_others_are_refused_in_one_sentence(use, name):
    item, error, words = BAD[name]
    if use is collected and name in ("too large", "floats"):
        pytest.skip("collect only hands labels on: open sets have others")
    with pytest.raises(error, match=words):
        use(Items(item))


@pytest.mark.parametrize("use", [scoring.stable_labels, lambda data: list(scoring.in_order(data))])
def test_scores_refuse_dictionaries_and_triples(use):
    for name in ("dictionaries", "triples"):
        with pytest.raises(TypeError, match="a pair of tensors"):
            use(Items(BAD[name][0]))


@pytest.mark.parametrize("labels", [np.array([0, 1]), torch.tensor([0.0, 1.0]), [0, 1]])
def test_statistics_of_probabilities_refuse_labels_that_are_no_whole_tensor(labels):
    with pytest.raises(TypeError, match="whole numbers"):
        cbt.statistics([([torch.randn(2, 3)], labels)], num_classes=3)


# --- losses


@pytest.mark.parametrize(
    "loss", [training.joint_loss, training.exits_loss, pruning_schedule.last_exit_loss]
)
def test_ignored_labels_and_probabilities_by_hand(loss):
    logits = [torch.tensor([[0.0, math.log(3)], [5.0, -7.0]])] * 2
    values = [
        loss(lambda x: logits, (torch.zeros(2, 1), y))
        for y in (torch.tensor([1, -100]), torch.tensor([1, -100], dtype=torch.int16))
    ]
    assert [v.item() for v in values] == pytest.approx([math.log(4 / 3)] * 2)
    shares = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    own = -(shares * logits[0].log_softmax(1)).sum(1).mean()
    assert torch.allclose(loss(lambda x: logits, (torch.zeros(2, 1), shares)), own)
    with pytest.raises(ValueError, match="every label of the batch is -100"):
        loss(lambda x: logits, (torch.zeros(2, 1), torch.tensor([-100, -100])))


def test_a_refused_data_set_leaves_the_network_as_it_was():
    fresh, before = net(), copy.deepcopy(net().state_dict())
    with pytest.raises(ValueError, match=r"0\.\.2"):
        training.fit(
            fresh, Items(BAD["too large"][0]), loss=training.joint_loss, epochs=1, batch_size=8
        )
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())


# --- every entrance


def stages_of(net, x):
    return split(nn.Sequential(*net.stages), at=["0"], example=x)[0](x.float())


def trained_on(net, x):
    data = TensorDataset(x, torch.arange(len(x)) % 2)
    training.fit(net, data, loss=training.joint_loss, epochs=1, batch_size=3)
    return net.stages[1].weight.detach()


def pairs(x):
    return [(x, torch.arange(len(x)) % 2)]


ENTRANCES = {
    "predict": lambda net, x: predict(net, x, Confidence(0.6)).confidence,
    "stream": lambda net, x: predict_stream(net, [x], Confidence(0.6), batch_size=2).confidence,
    "stream, one batch": lambda net, x: (
        predict_stream(net, [x], Confidence(0.6), batch_size=99).confidence
    ),
    "collect": lambda net, x: collect(net, pairs(x))[0],
    "split": stages_of,
    "exits": lambda net, x: torch.tensor(
        linear_exits(net.stages, x, num_classes=2)[0].linear.in_features
    ),
    "count": lambda net, x: torch.tensor(count_macs(net, x).stages),
    "means": lambda net, x: e2cm.fit(net.stages, pairs(x), num_classes=2).exits[0].means,
    "whitened": lambda net, x: (
        e2cm.fit_whitened(net.stages, pairs(x), num_classes=2).exits[0].linear.bias.detach()
    ),
    "fit": trained_on,
}


def two_layers(first=None):
    torch.manual_seed(0)
    first = nn.Linear(4, 5) if first is None else first
    return EarlyExitNetwork([first, nn.Linear(5, 2)], [nn.Linear(5, 2)]).eval()


@pytest.mark.parametrize("use", ENTRANCES.values(), ids=ENTRANCES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_floats_of_another_precision_are_read_in_the_network_s(use, dtype):
    x = torch.linspace(-1, 1, 24).cos().reshape(6, 4).to(dtype)
    assert torch.equal(use(two_layers(), x), use(two_layers(), x.float()))


@pytest.mark.parametrize("use", ENTRANCES.values(), ids=ENTRANCES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_no_entrance_takes_numbers_that_are_no_floats(use, dtype):
    with pytest.raises(TypeError, match=r"fails on inputs of torch.*: make floats of them"):
        use(two_layers(), torch.ones(6, 4).to(dtype))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 5)

    def forward(self, x):
        return self.table(x).mean(1)


@pytest.mark.parametrize("use", ENTRANCES.values(), ids=ENTRANCES)
@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (torch.ones(6, 4), TypeError, "its embedding takes whole numbers"),
        (torch.ones(6, 4, dtype=torch.int16), TypeError, r"of torch.int16: .* as ids\.long"),
        (torch.full((6, 4), 9), ValueError, r"from 9 to 9: its embedding knows 0\.\.8"),
        (-torch.ones(6, 4).long(), ValueError, r"from -1 to -1"),
    ],
)
def test_an_embedding_takes_its_own_numbers(use, x, error, words):
    with pytest.raises(error, match=words):
        use(two_layers(Tokens()), x)
