"""The harness of chapter 5: what a fresh network learns from some rows of the training set.

It is the same for every method: a network from scratch, equally many samples seen, the same
schedule, the same seeds.
"""

from torch import Tensor

from eenotes import training
from eenotes.inference import collect
from eenotes_book.ch05_eeprune.bench import Bench
from eenotes_book.data import vision
from eenotes_book.data.passes import Passes

SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)  # of the budget, at which the test accuracy is measured


def train_on(b: Bench, rows: Tensor, *, title: str = "training") -> dict:
    """Train a plain network from scratch on some rows ``(n,)`` for the bench's budget.

    Returns:
        ``kept``, ``seen`` (training samples) and ``accuracy`` (test) at each of `SHARES`.
    """
    length = b.s.budget * len(b.labels)
    seen = [round(share * length) for share in SHARES]
    recipe = b.recipe(1)
    net, accuracies = recipe.network(b.seed), []

    def measure() -> None:
        logits, labels = collect(net, vision.batches(b.data.test, size=500))
        accuracies.append((logits[-1].argmax(1) == labels).cpu().double().mean().item())

    training.fit(
        net,
        Passes(b.data.train, rows, length),
        loss=training.joint_loss,
        epochs=1,
        batch_size=recipe.batch_size,
        optimizer=recipe.optimizer,
        augment=recipe.augment,
        on_samples=dict.fromkeys(seen, measure),
        seed=b.seed,
        title=title,
    )
    return {"kept": len(rows), "seen": seen, "accuracy": accuracies}
