r"""Scores of training samples: EEPrune, random, EL2N, Forgetting and selection via proxy.

A score is called as ``score(dataset, recipe, *, seed)`` and returns
`eenotes.methods.sample_selection.Scores`: the higher, the more a sample is worth keeping.
`complexity_gap` has the same signature.  EEPrune's rivals are read at the last exit of networks.
"""

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from eenotes import training
from eenotes.methods.eeprune import NAMES, Variant, importance, observe
from eenotes.methods.sample_selection import Scores
from eenotes.methods.scoring import measure, stable_labels
from eenotes_book.ch05_eeprune.recipe import Recipe


def eeprune(
    dataset: Dataset,
    recipe: Recipe,
    *,
    seed: int = 0,
    exit_index: int | None = None,
    variant: Variant = "hard",
) -> Scores:
    """EEPrune, by a network with early exits that is trained for a few epochs.

    ``exit_index`` and ``variant`` are those of `eenotes.methods.eeprune.prune`.
    """
    start = time.perf_counter()
    labels = stable_labels(dataset)
    net = recipe.train(dataset, seed=seed, title="EEPrune")
    seen = observe(net, dataset, exit_index=exit_index, batch_size=recipe.batch_size)
    values = importance(seen, variant=variant)
    samples_seen = (recipe.epochs + 1) * len(labels)
    return Scores(NAMES[variant], values, labels, samples_seen, time.perf_counter() - start)


def random(dataset: Dataset, recipe: Recipe | None = None, *, seed: int = 0) -> Scores:
    """Numbers drawn from [0, 1), the score without an opinion; `recipe` is not used."""
    start = time.perf_counter()
    labels = stable_labels(dataset)
    values = torch.rand(
        len(labels), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return Scores("Random", values, labels, 0, time.perf_counter() - start)


def el2n(dataset: Dataset, recipe: Recipe, *, seed: int = 0, networks: int = 10) -> Scores:
    r"""EL2N (Paul et al., 2021): $\lVert p - y \rVert_2$ early in training, averaged over networks.

    Args:
        dataset: of ``(x, y)``.
        recipe: a few epochs.
        seed: networks use the seeds ``seed · networks``, ``seed · networks + 1``, ...
        networks: how many to average over; the paper takes ten.

    Raises:
        ValueError: no network, or as `stable_labels`.
    """
    if networks < 1:
        raise ValueError(f"networks={networks} must be at least 1")
    start = time.perf_counter()
    labels = stable_labels(dataset)
    total = torch.zeros(len(labels), dtype=torch.float64)
    for i in range(networks):
        net = recipe.train(dataset, seed=seed * networks + i, title="EL2N")
        total += measure(
            net,
            dataset,
            lambda logits, y: error_norm(logits[-1].softmax(1), y),
            batch_size=recipe.batch_size,
        )
    seen = networks * (recipe.epochs + 1) * len(labels)
    return Scores("EL2N", total / networks, labels, seen, time.perf_counter() - start)


def forgetting(dataset: Dataset, recipe: Recipe, *, seed: int = 0) -> Scores:
    """Forgetting (Toneva et al., 2019), over one training.

    The score is how often a sample that was right is wrong when it comes up again.

    Args:
        dataset: of ``(x, y)``.
        recipe: a whole training.
        seed: of the network and its training.

    Raises:
        RuntimeError: with several processes, of which each would see a part of the history only.
    """
    if training.accelerator().num_processes > 1:
        raise RuntimeError("forgetting needs each sample's whole history: run it in one process")
    start = time.perf_counter()
    labels = stable_labels(dataset)
    history = _History(len(labels), recipe.epochs)
    recipe.train(_Numbered(dataset), seed=seed, loss=history, title="Forgetting")
    values = forgetting_events(history.right.cpu())
    seen = recipe.epochs * len(labels)
    return Scores("Forgetting", values, labels, seen, time.perf_counter() - start)


def svp(dataset: Dataset, recipe: Recipe, *, seed: int = 0) -> Scores:
    """Selection via proxy (Coleman et al., 2020): the entropy, in nats, of a small network.

    Args:
        dataset: of ``(x, y)``.
        recipe: builds a network smaller than the one to be trained later.
        seed: of the proxy.
    """
    start = time.perf_counter()
    labels = stable_labels(dataset)
    proxy = recipe.train(dataset, seed=seed, title="SVP")
    values = measure(
        proxy, dataset, lambda logits, y: entropy(logits[-1]), batch_size=recipe.batch_size
    )
    return Scores(
        "SVP", values, labels, (recipe.epochs + 1) * len(labels), time.perf_counter() - start
    )


def error_norm(probabilities: Tensor, labels: Tensor) -> Tensor:
    r"""$\lVert p - y \rVert_2$ with y one-hot.

    ``(N, K)`` and ``(N,)`` → ``(N,)``, from 0 (sure and right) to √2 (sure and wrong).
    """
    truth = nn.functional.one_hot(labels.long(), probabilities.shape[1])
    return (probabilities - truth).norm(dim=1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax of logits, ``(N, K)`` → ``(N,)``, in nats."""
    return torch.distributions.Categorical(logits=logits).entropy()


def forgetting_events(right: Tensor) -> Tensor:
    """How often right is followed by wrong, for every sample.

    A sample that was never right counts as forgotten every time.

    Args:
        right: ``(E, N)`` bool: whether sample n was right at its e-th presentation.

    Returns:
        ``(N,)``, float64: 0 to E-1, and E for what was never learned.

    Raises:
        ValueError: another shape, no presentation, or no booleans.
    """
    if right.ndim != 2 or right.dtype != torch.bool or not len(right):
        raise ValueError(
            "need a history (E, N) of booleans, "
            f"got {right.dtype} of the shape {tuple(right.shape)}"
        )
    events = (right[:-1] & ~right[1:]).sum(0)
    return torch.where(right.any(0), events, len(right)).double()


class _Numbered(Dataset):
    """``(x, y, row)``."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> tuple:
        return (*self.dataset[row][:2], row)


@dataclass
class _History:
    """Cross-entropy of the last exit, which notes which sample was right at which presentation."""

    samples: int
    epochs: int
    right: Tensor = field(init=False)
    times: Tensor = field(init=False)

    def __post_init__(self):
        device = training.accelerator().device
        self.right = torch.zeros(self.epochs, self.samples, dtype=torch.bool, device=device)
        self.times = torch.zeros(self.samples, dtype=torch.int64, device=device)

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        x, y, rows = batch
        logits = model(x)[-1]
        self.right[self.times[rows], rows] = logits.detach().argmax(1) == y
        self.times[rows] += 1
        return nn.functional.cross_entropy(logits, y)
