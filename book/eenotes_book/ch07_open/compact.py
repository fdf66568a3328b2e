"""Chapter 7: what the thesis leaves for later, and a first experiment on each of its six questions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor

from eenotes.costs import count_macs
from eenotes.exits import ClassMeanExit, pool
from eenotes.inference import collect
from eenotes.methods import e2cm
from eenotes.network import EarlyExitNetwork
from eenotes.thresholds import evaluate, thresholds_for_budgets
from eenotes_book.ch07_open.networks import Bench, device_of, features, last_features
from eenotes_book.data import vision


def quantise(x: Tensor, *, bits: int, step: Tensor | None = None) -> Tensor:
    r"""Round each row ``x[i]`` to the levels $0, \pm a, \pm 2a, \dots, \pm(2^{b-1}-1)\,a$; one bit:
    to $\pm a$ (7.4).

    Args:
        x: ``(N, *shape)``.
        bits: b, from 1 to 16.
        step: $a$, one per row, ``(N, 1)``; by default `best_step`.

    Raises:
        ValueError: another number of bits, or values that are not finite.
    """
    step = best_step(x, bits=bits) if step is None else step
    rows, most = x.flatten(1), 2 ** (bits - 1) - 1
    if bits == 1:
        return torch.where(rows < 0, -step, step).view_as(x)
    return ((rows / step).round().clamp(-most, most) * step).view_as(x)


def best_step(x: Tensor, *, bits: int) -> Tensor:
    """The step of each row ``x[i]``, ``(N, 1)``: the one of eight candidates that leaves the least
    squared error.

    Few levels are better spent on the middle than on the largest value.  With one bit the best is
    the mean magnitude.

    Raises:
        ValueError: as `quantise`.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 16:
        raise ValueError(f"bits={bits!r} must be a whole number from 1 to 16")
    if not x.isfinite().all():
        raise ValueError("a value is not finite: there is no step that reaches it")
    rows = x.detach().flatten(1)
    if bits == 1:
        return rows.abs().mean(1, keepdim=True)
    widest = (rows.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)).clamp_min(
        torch.finfo(rows.dtype).tiny
    )
    steps = torch.stack([share * widest for share in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)])
    errors = torch.stack(
        [
            (quantise(rows, bits=bits, step=step) - rows).square().sum(1, keepdim=True)
            for step in steps
        ]
    )
    return steps.gather(0, errors.argmin(0, keepdim=True))[0]


class CompactExit(ClassMeanExit):
    """A class-mean exit that looks at pooled features and keeps its means in few bits.

    Pooling is linear (7.3): the mean of pooled features is the pooled mean, and no new pass over
    the data is needed for it.  What is rounded is each mean's offset from the centre of all; the
    centre itself is kept in 8 bits.

    Args:
        means: ``(K, C, H, W)``.
        grid: average each feature map to grid × grid cells; a map that is smaller keeps its size.
        bits: per number of an offset; 32: nothing is rounded.
        mean_distance: ``(K,)``, as in `ClassMeanExit`.

    Raises:
        ValueError: means of another shape, a grid below 1, or as `quantise`.
    """

    def __init__(self, means: Tensor, *, grid: int, bits: int, mean_distance: Tensor | None = None):
        if means.ndim != 4 or grid < 1:
            raise ValueError(
                f"need class means (K, C, H, W) and a grid of at least 1, got {tuple(means.shape)} and {grid}"
            )
        grid = min(grid, *means.shape[2:])
        small = pool(means, grid=grid)
        if bits != 32:
            centre = small.mean(0, keepdim=True)
            small = quantise(centre, bits=8) + quantise(small - centre, bits=bits)
        super().__init__(small, mean_distance)
        self.grid, self.bits = grid, bits

    @property
    def stored_bits(self) -> int:
        """Memory: the offsets, the centre, and per class its μ, squared norm and step in 32 bits
        each.
        """
        K, D = self.offsets.shape
        return K * D * self.bits + (0 if self.bits == 32 else 8 * D) + 3 * 32 * K

    def forward(self, features: Tensor) -> Tensor:
        """``(B, C, H, W)`` → ``(B, K)``."""
        return super().forward(pool(features, grid=self.grid))


def compact(b: Bench, *, grid: int, bits: int) -> EarlyExitNetwork:
    """E²CM with a `CompactExit` after every stage but the last; μ is measured anew on the training
    images.
    """
    seen = _seen(b, "train")
    exits = []
    for x, head in zip(seen.features, b.class_means.exits, strict=True):
        means = head.means.view(-1, *x.shape[1:])
        mean_distance = -CompactExit(means, grid=grid, bits=bits)(x).mean(0)
        exits.append(CompactExit(means, grid=grid, bits=bits, mean_distance=mean_distance))
    return EarlyExitNetwork(b.net.stages, exits).to(device_of(b.net)).eval()


def compact_table(
    b: Bench, *, grids: Sequence[int], bits: Sequence[int], budget: float, draws: int = 150
) -> pd.DataFrame:
    """Every grid with every number of bits: ``seed``, ``bytes`` and ``macs`` of all exit tests together, ``exits`` (mean accuracy of the
    early exits alone) and, with thresholds chosen on validation for the budget, ``accuracy`` and ``relative_cost`` on test."""
    rows, sample = [], b.data.test.tensors[0][:1].to(device_of(b.net))
    for grid in grids:
        for width in bits:
            net = compact(b, grid=grid, bits=width)
            costs = count_macs(net, sample)
            val, test = (_seen(b, split).logits(net) for split in ("val", "test"))
            rule = _thresholds(
                val, _seen(b, "val").labels, e2cm.rule(net), costs, budget=budget, draws=draws
            )
            labels = _seen(b, "test").labels
            size = {
                "bytes": sum(head.stored_bits for head in net.exits) / 8,
                "macs": sum(costs.exits),
            }
            alone = (test[:-1].argmax(2) == labels).double().mean().item()
            found = evaluate(test, labels, rule, costs)
            rows.append(
                {"seed": b.seed, "grid": grid, "bits": width, **size, "exits": alone, **found}
            )
    return pd.DataFrame(rows).drop(columns="left")


def rule_for_budget(net: EarlyExitNetwork, data: vision.Vision, *, budget: float, draws: int = 250):
    """The E²CM rule whose thresholds are the most accurate on validation among those that keep the
    budget.
    """
    costs = count_macs(net, data.test.tensors[0][:1].to(device_of(net)))
    return _thresholds(
        *collect(net, vision.batches(data.val)), e2cm.rule(net), costs, budget=budget, draws=draws
    )


def _thresholds(logits: Tensor, labels: Tensor, rule, costs, *, budget: float, draws: int):
    chosen = thresholds_for_budgets(logits, labels, rule, costs, draws=draws, budgets=[budget])
    return replace(rule, thresholds=chosen.thresholds[0])


@dataclass
class _Seen:
    """A split as the stages see it: what stands before each early exit, and the last exit's logits."""

    features: list[Tensor]
    last: Tensor
    labels: Tensor

    @torch.no_grad()
    def logits(self, net: EarlyExitNetwork) -> Tensor:
        return torch.stack(
            [*(head(x) for head, x in zip(net.exits, self.features, strict=True)), self.last]
        )


def _seen(b: Bench, split: str) -> _Seen:
    kept = b.__dict__.setdefault("_kept", {})
    if split not in kept:
        x, y = getattr(b.data, split).tensors
        kept[split] = _Seen(features(b.net, x), last_features(b.net, x), y.to(device_of(b.net)))
    return kept[split]
