"""Summaries in the probe of chapter 1: a few numbers for each of its tables."""

from collections.abc import Iterable

import pandas as pd
import torch
from torch import Tensor


def later_more(values: Tensor) -> float:
    """The mean of ``(N,)`` values, in which later ones weigh more: their order counts."""
    weights = torch.linspace(1, 3, len(values), dtype=torch.float64)
    return (weights @ values.double() / len(values)).item()


def summary(table: pd.DataFrame) -> list[float]:
    """The length of a table, and of each column of numbers a mean; later rows weigh more."""
    columns = table.select_dtypes("number")
    means = [later_more(torch.tensor(columns[name].tolist())) for name in columns]
    return [len(table), *means]


def mean_of(rows: Iterable[Iterable[float]]) -> Tensor:
    """The mean of rows of numbers."""
    return torch.tensor([list(row) for row in rows], dtype=torch.float64).mean(0)
