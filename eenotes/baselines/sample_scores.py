r"""Which training samples to keep: five scores behind one signature, and one way to select by them.

A score is called as ``score(dataset, recipe, *, seed)`` and returns `Scores`: the higher, the more
worth keeping.  EEPrune, in `eenotes.eeprune`, has the same signature.  What a score has cost goes
with it: the samples that networks were shown, and the seconds.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from eenotes import training
from eenotes._checks import require_eval
from eenotes.methods.sample_selection import Scores
from eenotes.network import EarlyExitNetwork


@dataclass(frozen=True)
class Recipe:
    """How a network for scoring is made and trained.

    Args:
        build: from a seed to an untrained `EarlyExitNetwork`.  One without early exits,
            ``EarlyExitNetwork([backbone], [])``, is a plain classifier; the scores of this module
            look at the last exit only.
        epochs: passes over the data set.
        batch_size: samples per step.
        optimizer: from parameters to an optimizer.
        augment: as in `eenotes.training.fit`.
    """

    build: Callable[[int], EarlyExitNetwork]
    epochs: int
    batch_size: int = 128
    optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer] = training.sgd
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None

    def network(self, seed: int) -> EarlyExitNetwork:
        """An untrained network; the generators outside stay as they were."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build(seed)

    def train(
        self,
        dataset: Dataset,
        *,
        seed: int,
        loss: training.Loss = training.joint_loss,
        title: str = "scoring",
    ) -> EarlyExitNetwork:
        """A network trained on the data set."""
        net = self.network(seed)
        options = {
            "batch_size": self.batch_size,
            "optimizer": self.optimizer,
            "augment": self.augment,
            "seed": seed,
            "title": title,
        }
        training.fit(net, dataset, loss=loss, epochs=self.epochs, **options)
        return net


def random(dataset: Dataset, recipe: Recipe | None = None, *, seed: int = 0) -> Scores:
    """No opinion: numbers drawn from [0, 1).  Costs nothing."""
    start, labels = time.perf_counter(), stable_labels(dataset)
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
    """
    _at_least_one(networks=networks)
    start, labels = time.perf_counter(), stable_labels(dataset)
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


def forgetting(dataset: Dataset, recipe: Recipe, *, seed: int = 0, networks: int = 1) -> Scores:
    """Forgetting (Toneva et al., 2019): how often a sample that was right is wrong when it comes up
    again in training.

    Args:
        dataset: of ``(x, y)``.
        recipe: a whole training.
        seed: networks use the seeds ``seed · networks``, ``seed · networks + 1``, ...
        networks: how many trainings to average over.

    Raises:
        RuntimeError: with several processes, of which each would see a part of the history only.
    """
    _at_least_one(networks=networks)
    if training.accelerator().num_processes > 1:
        raise RuntimeError("forgetting needs each sample's whole history: run it in one process")
    start, labels = time.perf_counter(), stable_labels(dataset)
    total = torch.zeros(len(labels), dtype=torch.float64)
    for i in range(networks):
        watch = _History(len(labels), recipe.epochs)
        recipe.train(_Numbered(dataset), seed=seed * networks + i, loss=watch, title="Forgetting")
        total += forgetting_events(watch.right.cpu())
    seen = networks * recipe.epochs * len(labels)
    return Scores("Forgetting", total / networks, labels, seen, time.perf_counter() - start)


def svp(dataset: Dataset, recipe: Recipe, *, seed: int = 0) -> Scores:
    """Selection via proxy (Coleman et al., 2020): the entropy, in nats, of what a small network,
    trained briefly, says of a sample.

    Args:
        dataset: of ``(x, y)``.
        recipe: builds a network smaller than the one to be trained later.
        seed: of the proxy.
    """
    start, labels = time.perf_counter(), stable_labels(dataset)
    proxy = recipe.train(dataset, seed=seed, title="SVP")
    values = measure(
        proxy, dataset, lambda logits, y: entropy(logits[-1]), batch_size=recipe.batch_size
    )
    return Scores(
        "SVP", values, labels, (recipe.epochs + 1) * len(labels), time.perf_counter() - start
    )


def complexity_gap(
    dataset: Dataset,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    repeats: int = 4,
    largest: int = 1000,
    ridge: float = 1e-6,
) -> Scores:
    """CG-score (Ki, Choi and Chung, 2023): how much simpler the labels become for a wide network
    when a sample is left out.  No training.

    Each class is set against as many samples drawn from the other classes; a class larger than
    ``largest`` in parts.

    Args:
        dataset: of ``(x, y)``; x is flattened.
        recipe: not used.
        seed: of the drawing.
        repeats: how many times to draw; the scores are averaged.
        largest: samples of one class that are handled together (a matrix of twice the size has to
            be inverted).
        ridge: added to the kernel's diagonal, or two equal samples would make it singular.

    Raises:
        ValueError: fewer than two classes, or a sample that is zero everywhere, whose direction is
            not defined.
    """
    _at_least_one(repeats=repeats, largest=largest)
    start, labels = time.perf_counter(), stable_labels(dataset)
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
    x, total = x / norms, torch.zeros(len(labels), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(repeats):
        for own, others in _duels(labels, largest, generator):
            together = torch.cat([own, others])
            signs = torch.cat([torch.ones(len(own)), -torch.ones(len(others))]).double()
            total[own] += complexity_gaps(arc_cosine_kernel(x[together]), signs, ridge=ridge)[
                : len(own)
            ]
    return Scores("Complexity gap", total / repeats, labels, 0, time.perf_counter() - start)


def error_norm(probabilities: Tensor, labels: Tensor) -> Tensor:
    r"""$\lVert p - y \rVert_2$ with y one-hot:

    ``(N, K)`` and ``(N,)`` → ``(N,)``, from 0 (sure and right) to √2 (sure and wrong).
    """
    return (probabilities - nn.functional.one_hot(labels.long(), probabilities.shape[1])).norm(
        dim=1
    )


def entropy(logits: Tensor) -> Tensor:
    """``(N, K)`` → ``(N,)``, in nats."""
    return torch.distributions.Categorical(logits=logits).entropy()


def forgetting_events(right: Tensor) -> Tensor:
    """How often right is followed by wrong; a sample that was never right counts as forgotten every
    time.

    Args:
        right: ``(E, N)`` bool: whether sample n was right at its e-th presentation.

    Returns:
        ``(N,)``, float64: 0 to E-1, and E for what was never learned.

    Raises:
        ValueError: another shape, no presentation, or no booleans.
    """
    if right.ndim != 2 or right.dtype != torch.bool or not len(right):
        raise ValueError(
            f"need a history (E, N) of booleans, got {right.dtype} of the shape {tuple(right.shape)}"
        )
    events = (right[:-1] & ~right[1:]).sum(0)
    return torch.where(right.any(0), events, len(right)).double()


def arc_cosine_kernel(x: Tensor) -> Tensor:
    r"""The kernel of a very wide network (5.3), for rows of length 1: ``(N, D)`` → ``(N, N)``.

    $H_{ab} = x_a^\top x_b\, (\pi - \arccos x_a^\top x_b) / 2\pi$, and ½ on the diagonal.
    """
    cosine = (x @ x.T).clamp(-1, 1)
    kernel = cosine * (math.pi - cosine.arccos()) / (2 * math.pi)
    return kernel.fill_diagonal_(0.5)


def complexity_gaps(kernel: Tensor, signs: Tensor, *, ridge: float = 0.0) -> Tensor:
    r"""$y^\top H^{-1} y$ minus the same without sample a, for every a (5.4):

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


def _duels(
    labels: Tensor, largest: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of one class, and as many rows of the others (or all of them)."""
    for k in labels.unique().tolist():
        own, others = (rows.nonzero().squeeze(1) for rows in (labels == k, labels != k))
        shuffled = own[torch.randperm(len(own), generator=generator)]
        for part in shuffled.tensor_split(-(-len(own) // largest)):
            yield part, others[torch.randperm(len(others), generator=generator)[: len(part)]]


def stable_labels(dataset: Dataset) -> Tensor:
    """The labels ``(N,)``, after making sure that ``dataset[i]`` is always the same sample: the
    scores are worth nothing otherwise.

    A data set other than a `TensorDataset` is read twice for that.

    Raises:
        TypeError: a loader or an iterable data set, which have no rows.
        ValueError: no samples, samples that are not finite, labels that are no whole numbers, or
            samples that differ between the two readings.
    """
    if isinstance(dataset, DataLoader | IterableDataset) or not (
        hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    ):
        raise TypeError(
            f"need a data set with rows, dataset[i] and len(dataset), got {type(dataset).__name__}; a loader's order changes"
        )
    if not len(dataset):
        raise ValueError("the data set is empty: there is nothing to score")
    (labels, sums), again = _fingerprint(dataset), None
    bad = (~sums.isfinite()).nonzero().flatten()
    if len(bad):
        raise ValueError(
            f"{len(bad)} samples hold NaN or infinite values (first: row {int(bad[0])}): there is nothing to score them by"
        )
    if not isinstance(dataset, TensorDataset):
        again = _fingerprint(dataset)
        changed = (labels != again[0]) | (sums != again[1])
        if changed.any():
            raise ValueError(
                f"{int(changed.sum())} of {len(labels)} rows changed between two readings (first: row {int(changed.nonzero()[0])}); "
                "dataset[i] must always be the same sample: fix the order, and give random transforms to the recipe's augment"
            )
    if labels.is_floating_point() or labels.ndim != 1 or labels.min() < 0:
        raise ValueError(
            f"labels must be one whole number per sample, from 0; got {labels.dtype} of the shape {tuple(labels.shape)}"
        )
    return labels


def in_order(dataset: Dataset, *, batch_size: int = 256) -> Iterable[tuple[Tensor, Tensor]]:
    """Batches ``(x, y)`` in the order of the data set."""
    if isinstance(dataset, TensorDataset):
        return zip(*(tensor.split(batch_size) for tensor in dataset.tensors[:2]), strict=True)
    return DataLoader(dataset, batch_size)


@torch.no_grad()
def measure(
    net: EarlyExitNetwork,
    dataset: Dataset,
    function: Callable[[list[Tensor], Tensor], Tensor],
    *,
    batch_size: int = 256,
) -> Tensor:
    """``function(logits of all exits, labels)``, batch by batch in the order of the data set;
    joined, in float64 on the CPU.

    Args:
        net: in evaluation mode.
        dataset: of ``(x, y)``.
        function: from J tensors ``(B, K)``, float64, and labels ``(B,)`` to ``(B, ...)``.
        batch_size: samples per forward pass.

    Raises:
        ValueError: a network in training mode.
    """
    require_eval(net.modules(), what="network", before="measure")
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    found = [
        function([z.double() for z in net(x.to(device))], y.to(device))
        for x, y in in_order(dataset, batch_size=batch_size)
    ]
    return torch.cat(found).double().cpu()


def _fingerprint(dataset: Dataset) -> tuple[Tensor, Tensor]:
    pairs = [(y, x.flatten(1).double().sum(1)) for x, y in in_order(dataset)]
    labels, sums = (torch.cat(parts).cpu() for parts in zip(*pairs, strict=True))
    return labels, sums


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
    """Cross-entropy of the last exit, which remembers who was right at which presentation."""

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


def _at_least_one(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name}={number} must be at least 1")


METHODS = {
    "Random": random,
    "EL2N": el2n,
    "Forgetting": forgetting,
    "SVP": svp,
    "Complexity gap": complexity_gap,
}
