"""Summaries in the probe of chapter 8: a few numbers for each tensor or table."""

import pandas as pd
import torch
from torch import Tensor, nn

from eenotes.network import EarlyExitNetwork
from eenotes_book.ch08_open import networks

Found = dict[str, float | list[float] | Tensor]


@torch.no_grad()
def logits(net: EarlyExitNetwork, b: networks.TrainedNetwork) -> list[Tensor]:
    """The logits of every exit on the test images."""
    return net(b.data.test.tensors[0])


def losses(answers: list[Tensor] | Tensor, labels: Tensor) -> list[float]:
    """The cross-entropy of each exit."""
    return [nn.functional.cross_entropy(z, labels).item() for z in answers]


def norm(tensors) -> float:
    """The length of all numbers of several tensors together."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors]).norm().item()


def mean(values) -> float:
    """The mean of all numbers in a tensor, a column or a list."""
    if not isinstance(values, Tensor):
        values = torch.tensor([float(value) for value in values])
    return values.mean().item()


def flat(table: pd.DataFrame) -> list[float]:
    """All numbers of a table, row by row."""
    return table.to_numpy().flatten().tolist()


def place(values: Tensor) -> float:
    """A mean that depends on the order of the values."""
    values = values.double().flatten()
    return (values @ torch.linspace(1, 2, len(values)).to(values)).item() / len(values)
