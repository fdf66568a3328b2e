"""Data sets as users have them: the right result, or one sentence before anything happens."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from eenotes import EarlyExitNetwork, LinearExit, collect, training
from eenotes.methods import cbt, e2cm, eeprune, scoring
from eenotes_book import pruning_schedule

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
