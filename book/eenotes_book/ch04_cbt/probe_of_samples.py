"""The part of chapter 4's probe without images: thresholds for drawn logits, and ties."""

import torch

from eenotes.costs import Costs
from eenotes.methods import cbt
from eenotes.rules import Confidence, PerClass
from eenotes_book import cbt_budgets, probes
from eenotes_book.models import segmentation
from eenotes_book.probes import digest


def plain_samples() -> dict[str, object]:
    """Thresholds for samples that are no pixels: drawn logits ``(J, N, K)`` of known difficulty."""
    generator = torch.Generator().manual_seed(4)
    J, N, K = 3, 240, 5
    labels = torch.randint(K - 1, (N,), generator=generator)  # the last class never occurs
    ease = torch.tensor([3.0, 2.0, 1.0, 1.5, 1.0])[labels]
    signal = torch.nn.functional.one_hot(labels, K) * ease[:, None]
    noise = [1.5 * torch.randn(N, K, generator=generator) for _ in range(J)]
    logits = torch.stack([(1 + j) * signal + noise[j] for j in range(J)])
    halves = [(list(logits[:, :100]), labels[:100]), (list(logits[:, 100:]), labels[100:])]
    with probes.default_dtype(torch.float32):  # that of class means
        found = cbt.statistics(halves, num_classes=K, ignore_index=3)
    v = cbt_budgets.validation(logits, labels, Costs((4, 3, 5), (1, 2)))
    choices = {
        "single": cbt_budgets.single_for_budget(v, budget=0.75),
        "cbt": cbt_budgets.scale_for_budget(found, v, budget=0.75),
        "cbt_ns": cbt_budgets.scale_for_budget(found, v, budget=0.75, shared=False),
        "priced": cbt_budgets.priced_for_budget(v, budget=0.75),
        "priced_exits": cbt_budgets.priced_for_budget(v, budget=0.75, per_class=False),
    }
    shown = {
        f"plain.{name}": [*digest(100 * c.thresholds), 100 * c.score] for name, c in choices.items()
    }
    return shown | {
        "plain.margins": digest(100 * found.margins()),
        "plain.price": choices["priced"].price,
        "plain.priced_fixed": digest(100 * cbt_budgets.priced(v, price=0.3)),
        "plain.loss": digest(1000 * cbt_budgets.iou_loss(v)),
    }


def ties() -> dict[str, object]:
    """Who leaves when a confidence is exactly the threshold: two equal logits, threshold 0.5."""
    half, even = torch.full((2,), 0.5), torch.zeros(3, 1, 2)
    v = cbt_budgets.validation(even, torch.zeros(1, dtype=torch.int64), Costs((1, 1, 1), (0, 0)))
    active = segmentation.still_active([torch.zeros(1, 2, 1, 1)], torch.full((1,), 0.5))
    return {
        "tie.validation": cbt_budgets.exit_index(v, half),
        "tie.rules": [float(rule(0, even[0]).leave) for rule in (Confidence(0.5), PerClass(half))],
        "tie.unfinished": float(active[0]),
    }
