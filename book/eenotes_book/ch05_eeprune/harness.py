"""The harness of chapter 5: what a fresh network learns from the samples that a method keeps.

It is the same for every method: a network from scratch, equally many samples seen, the same
schedule, the same seeds.
"""

import hashlib
from collections.abc import Sequence
from functools import partial

from torch import Tensor, arange
from torch.utils.data import Dataset, TensorDataset

from eenotes import training
from eenotes.inference import collect
from eenotes.network import EarlyExitNetwork
from eenotes_book import cache
from eenotes_book.ch05_eeprune import REVISION
from eenotes_book.ch05_eeprune.bench import Bench
from eenotes_book.data import vision
from eenotes_book.data.passes import Passes

SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)  # of the budget, at which the test accuracy is measured
_RUNS_DEPEND_ON = ("train", "val", "test", "kind", "width", "batch_size", "learning_rate", "budget")


def train_on(b: Bench, rows: Tensor | None, *, what: str) -> dict:
    """Train a plain network from scratch on some rows, or on all, for the bench's budget.

    Returns:
        ``kept``, ``seen`` (training samples) and ``accuracy`` (test) at each of `SHARES`,
        ``seconds``.
    """
    rows = arange(len(b.labels)) if rows is None else rows
    facts = {name: getattr(b.s, name) for name in _RUNS_DEPEND_ON}
    facts |= {"data": b.data.name, "seed": b.seed, "what": what, "rows": _digest(rows)}
    compute = partial(_train_on, b, rows, what)
    return cache.step(f"{b.data.name}-{what}", compute, revision=REVISION, **facts)


def _train_on(b: Bench, rows: Tensor, what: str) -> dict:
    length = b.s.budget * len(b.labels)
    seen = [round(share * length) for share in SHARES]
    dataset = Passes(b.data.train, rows, length)
    accuracy = fit_and_measure(b.recipe(1).network(b.seed), b, dataset, seen, title=what)
    return {"kept": len(rows), "seen": seen, "accuracy": accuracy}


def fit_and_measure(
    net: EarlyExitNetwork, b: Bench, dataset: Dataset, seen: Sequence[int], *, title: str
) -> list[float]:
    """Train once through ``dataset``; the test accuracy after each of so many samples ``seen``."""
    accuracies = []

    def measure() -> None:
        accuracies.append(_accuracy(net, b.data.test))

    recipe = b.recipe(1)
    training.fit(
        net,
        dataset,
        loss=training.joint_loss,
        epochs=1,
        batch_size=recipe.batch_size,
        optimizer=recipe.optimizer,
        augment=recipe.augment,
        on_samples=dict.fromkeys(seen, measure),
        seed=b.seed,
        title=title,
    )
    return accuracies


def _accuracy(net: EarlyExitNetwork, dataset: TensorDataset) -> float:
    logits, labels = collect(net, vision.batches(dataset, size=500))
    return (logits[-1].argmax(1) == labels).double().mean().item()


def _digest(rows: Tensor) -> str:
    return hashlib.sha256(rows.sort().values.numpy().tobytes()).hexdigest()[:12]
