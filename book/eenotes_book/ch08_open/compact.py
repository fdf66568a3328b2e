"""Question 2, smaller class means: pooled to a few cells, and kept in few bits."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from eenotes.costs import Costs, count_macs
from eenotes.exits import ClassMeanExit, pool
from eenotes.inference import collect
from eenotes.methods import e2cm
from eenotes.network import EarlyExitNetwork
from eenotes.rules import ClassMeanConfidence
from eenotes.thresholds import evaluate, thresholds_for_budgets
from eenotes_book.ch08_open.networks import TrainedNetwork, device_of
from eenotes_book.data import vision


def quantise(x: Tensor, *, bits: int, step: Tensor | None = None) -> Tensor:
    r"""Round each row ``x[i]`` to b bits (8.4).

    The levels are $0, \pm a, \pm 2a, \dots, \pm(2^{b-1}-1)\,a$; for one bit they are $\pm a$.

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
    """The step of each row ``x[i]``, ``(N, 1)``: of eight candidates the one with the least error.

    The error is the sum of squares.  Few levels are better spent on the middle than on the largest
    value.  With one bit the best is the mean magnitude.

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
    widest = rows.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    widest = widest.clamp_min(torch.finfo(rows.dtype).tiny)
    steps = torch.stack([share * widest for share in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)])
    rounded = torch.stack([quantise(rows, bits=bits, step=step) for step in steps])
    errors = (rounded - rows).square().sum(2, keepdim=True)
    return steps.gather(0, errors.argmin(0, keepdim=True))[0]


class CompactExit(ClassMeanExit):
    """A class-mean exit that looks at pooled features and keeps its means in few bits.

    Pooling is linear (8.3): the mean of pooled features is the pooled mean, and no new pass over
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
                "need class means (K, C, H, W) and a grid of at least 1, "
                f"got {tuple(means.shape)} and {grid}"
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
        """Memory: the offsets, the centre, and per class three numbers in 32 bits each.

        These are its μ, its squared norm and its step.
        """
        K, D = self.offsets.shape
        return K * D * self.bits + (0 if self.bits == 32 else 8 * D) + 3 * 32 * K

    def forward(self, features: Tensor) -> Tensor:
        """``(B, C, H, W)`` → ``(B, K)``."""
        return super().forward(pool(features, grid=self.grid))


def compact(network: TrainedNetwork, *, grid: int, bits: int) -> EarlyExitNetwork:
    """E²CM with a `CompactExit` after every stage but the last.

    Its μ are measured anew on the training images.
    """
    exits = []
    features = network.seen("train").features
    for x, head in zip(features, network.class_means.exits, strict=True):
        means = head.means.view(-1, *x.shape[1:])
        mean_distance = -CompactExit(means, grid=grid, bits=bits)(x).mean(0)
        exits.append(CompactExit(means, grid=grid, bits=bits, mean_distance=mean_distance))
    net = network.net
    return EarlyExitNetwork(net.stages, exits).to(device_of(net)).eval()


def compact_table(
    network: TrainedNetwork, *, grids: Sequence[int], bits: Sequence[int], budget: float
) -> pd.DataFrame:
    """Every grid with every number of bits, one row each.

    Args:
        network: the stages.
        grids: cells per side of a pooled feature map.
        bits: per number of a class mean.
        budget: the thresholds keep it on validation.

    Returns:
        ``seed``, ``grid``, ``bits``; ``bytes`` and ``macs`` of all exits together; ``exits``, the
        mean accuracy of the early exits alone; on test ``accuracy``, ``relative_cost``
        and ``overhead``.
    """
    rows = []
    val, test = network.seen("val"), network.seen("test")
    image = network.data.test.tensors[0][:1].to(device_of(network.net))
    for grid in grids:
        for width in bits:
            net = compact(network, grid=grid, bits=width)
            costs = count_macs(net, image)
            rule = e2cm.rule(net)
            rule = _within(budget, val.logits(net), val.labels, rule, costs)
            logits = test.logits(net)
            found = evaluate(logits, test.labels, rule, costs)
            rows.append(
                {
                    "seed": network.seed,
                    "grid": grid,
                    "bits": width,
                    "bytes": sum(head.stored_bits for head in net.exits) / 8,
                    "macs": sum(costs.exits),
                    "exits": (logits[:-1].argmax(2) == test.labels).cpu().double().mean().item(),
                    "accuracy": found["accuracy"],
                    "relative_cost": found["relative_cost"],
                    "overhead": found["overhead"],
                }
            )
    return pd.DataFrame(rows)


def rule_for_budget(
    net: EarlyExitNetwork, data: vision.Vision, *, budget: float
) -> ClassMeanConfidence:
    """The E²CM rule with the most accurate thresholds on validation that keep the budget."""
    costs = count_macs(net, data.test.tensors[0][:1].to(device_of(net)))
    logits, labels = collect(net, vision.batches(data.val))
    return _within(budget, logits, labels, e2cm.rule(net), costs)


def _within(
    budget: float, logits: Tensor, labels: Tensor, rule: ClassMeanConfidence, costs: Costs
) -> ClassMeanConfidence:
    chosen = thresholds_for_budgets(logits, labels, rule, costs, budgets=[budget])
    return replace(rule, thresholds=chosen.thresholds[0])
