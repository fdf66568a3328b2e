r"""The complexity gap, a score of training samples without training (Ki, Choi and Chung, 2023)."""

import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Dataset

from eenotes.methods.sample_selection import Scores
from eenotes.methods.scoring import in_order, stable_labels
from eenotes_book.ch05_eeprune.recipe import Recipe

_REPEATS = 4  # draws from the other classes, over which the scores are averaged
_LARGEST = 1000  # samples of a class handled together: a matrix of twice the size is inverted
_RIDGE = 1e-6  # on the kernel's diagonal: two equal samples would make it singular


def complexity_gap(dataset: Dataset, recipe: Recipe | None = None, *, seed: int = 0) -> Scores:
    """CG-score (Ki, Choi and Chung, 2023), without training.

    The score says how much simpler the labels become for a wide network when a sample is left out.
    Each class is set against as many samples drawn from the other classes, four times; the scores
    are averaged.  A class of more than a thousand samples is handled in parts.

    Args:
        dataset: of ``(x, y)``; x is flattened.
        recipe: not used.
        seed: of the drawing.

    Raises:
        ValueError: fewer than two classes, or a sample that is zero everywhere, whose direction is
            not defined.
    """
    start = time.perf_counter()
    labels = stable_labels(dataset)
    if len(labels.unique()) < 2:
        raise ValueError(
            "the complexity gap sets a class against the others: there is only one class"
        )
    x = torch.cat([x.flatten(1).double() for x, _ in in_order(dataset)])
    norms = x.norm(dim=1, keepdim=True)
    if (norms == 0).any():
        raise ValueError(
            f"{int((norms == 0).sum())} samples are zero everywhere: their direction is not defined"
        )
    x = x / norms
    total = torch.zeros(len(labels), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(_REPEATS):
        for own, others in _duels(labels, generator):
            together = torch.cat([own, others])
            signs = torch.cat([torch.ones(len(own)), -torch.ones(len(others))]).double()
            gaps = complexity_gaps(arc_cosine_kernel(x[together]), signs, ridge=_RIDGE)
            total[own] += gaps[: len(own)]
    return Scores("Complexity gap", total / _REPEATS, labels, 0, time.perf_counter() - start)


def arc_cosine_kernel(x: Tensor) -> Tensor:
    r"""The kernel of a very wide network (5.3), for rows of length 1: ``(N, D)`` → ``(N, N)``.

    $H_{ab} = x_a^\top x_b\, (\pi - \arccos x_a^\top x_b) / 2\pi$, and ½ on the diagonal.
    """
    cosine = (x @ x.T).clamp(-1, 1)
    kernel = cosine * (math.pi - cosine.arccos()) / (2 * math.pi)
    return kernel.fill_diagonal_(0.5)


def complexity_gaps(kernel: Tensor, signs: Tensor, *, ridge: float = 0.0) -> Tensor:
    r"""$y^\top H^{-1} y$ minus the same without sample a, for every a (5.4), by (5.5):

    $(H^{-1}y)_a^2 / (H^{-1})_{aa}$.

    One inversion instead of N: the block inverse of H (its Schur complement) contains the inverse
    of H without row and column a.

    Args:
        kernel: H, ``(N, N)``, symmetric and positive definite.
        signs: y, ``(N,)``, −1 or 1.
        ridge: added to the diagonal.
    """
    inverse = torch.cholesky_inverse(
        torch.linalg.cholesky(kernel + ridge * torch.eye(len(kernel), dtype=kernel.dtype))
    )
    return (inverse @ signs).square() / inverse.diagonal()


def _duels(labels: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of one class, and as many rows of the others (or all of them)."""
    for k in labels.unique().tolist():
        own, others = (rows.nonzero().squeeze(1) for rows in (labels == k, labels != k))
        shuffled = own[torch.randperm(len(own), generator=generator)]
        for part in shuffled.tensor_split(-(-len(own) // _LARGEST)):
            yield part, others[torch.randperm(len(others), generator=generator)[: len(part)]]
