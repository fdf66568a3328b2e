"""CBT for plain classification: a small network with trained exits on scikit-learn's digits."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from eenotes.costs import count_macs
from eenotes.inference import collect
from eenotes.methods import cbt
from eenotes_book import cbt_budgets, networks, scale
from eenotes_book.data import vision


@dataclass(frozen=True)
class _Digits:
    """The network and its training, the same at every scale."""

    data: str = "digits"
    train: int = 1100
    val: int = 337
    depth: int = 20
    width: int = 16
    exits: tuple[str, ...] = ("group1.0", "group1.2", "group2.0", "group2.2", "group3.0")
    epochs: int = 8
    batch_size: int = 64
    learning_rate: float = 0.1


def classification(*, alpha: float, beta: float, budget: float) -> pd.DataFrame:
    """Single and class thresholds on the digits: ``rule``, ``relative cost`` and ``accuracy``."""
    s = _Digits()
    data = vision.load(s.data, train=s.train, val=s.val, test=360)
    _, net = networks.resnet_with_exits(data, s)
    networks.train_or_load(net, data, s)
    costs = count_macs(net, data.test.tensors[0][:1].to(scale.device()))
    num_classes = len(data.classes)

    def answers() -> Iterator[tuple[list[Tensor], Tensor]]:
        with torch.inference_mode():
            for images, labels in vision.batches(data.train):
                yield net(images.to(scale.device())), labels.to(scale.device())

    found = cbt.statistics(answers(), num_classes=num_classes)
    val, test = (
        cbt_budgets.validation(*collect(net, vision.batches(split)), costs)
        for split in (data.val, data.test)
    )
    single = cbt_budgets.single_for_budget(val, budget=budget)
    classes = cbt_budgets.scale_for_budget(found, val, budget=budget)
    rules = {
        f"single {beta}": torch.full((num_classes,), beta),
        f"CBT [{alpha}, {beta}]": found.thresholds(alpha=alpha, beta=beta),
        f"single for cost {budget}": single.thresholds,
        f"CBT for cost {budget}": classes.thresholds,
    }
    rows = []
    for name, thresholds in rules.items():
        table = thresholds.expand(net.num_exits - 1, -1)
        prediction, _ = test.outcome(table)
        accuracy = (prediction == test.labels).cpu().double().mean().item()
        rows.append({"rule": name, "relative cost": test.cost(table), "accuracy": accuracy})
    return pd.DataFrame(rows)
