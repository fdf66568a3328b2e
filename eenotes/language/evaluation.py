"""How good an exit of a language model is: next-token accuracy and perplexity."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from eenotes.language.exits import ExitModel, Linear, align, check_ids
from eenotes.network import in_mode

_POSITIONS = 4096  # at once: each has V logits


@torch.no_grad()
def collect(model: ExitModel, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Features and next tokens of all positions that have a next token.

    Args:
        model: from `eenotes.language.exits.attach`; its mode is put back afterwards.
        batches: token numbers ``(B, T)``.

    Returns:
        ``(N, D)`` and ``(N,)``, on the CPU.

    Raises:
        ValueError: no batch, or token numbers that the head does not know.
    """
    pairs = []
    with in_mode(model):
        for ids in batches:
            check_ids(ids, model.exit_head.linear.out_features)
            ids = ids.to(model.exit_head.linear.weight.device)
            pairs.append([tensor.cpu() for tensor in align(model.features(ids), ids)])
    if not pairs:
        raise ValueError("no batch: there is nothing to collect")
    features, labels = zip(*pairs, strict=True)
    return torch.cat(features), torch.cat(labels)


@torch.no_grad()
def accuracy(features: Tensor, labels: Tensor, head: Linear) -> float:
    """Next-token accuracy of a linear head.

    Args:
        features: ``(N, D)``, from `collect`.
        labels: ``(N,)``.
        head: weight ``(V, D)`` and bias ``(V,)``.
    """
    weight, bias = (tensor.to(features) for tensor in head)
    right = [
        (torch.addmm(bias, x, weight.T).argmax(1) == y).sum()
        for x, y in zip(features.split(_POSITIONS), labels.split(_POSITIONS), strict=True)
    ]
    return (torch.stack(right).sum() / len(labels)).item()


@torch.no_grad()
def score(features: Tensor, labels: Tensor, head: Linear) -> dict[str, float]:
    """``accuracy`` and ``perplexity`` of a linear head, computed on the head's device.

    Features ``(N, D)``, labels ``(N,)`` and head are those of `accuracy`.
    """
    weight, bias = head
    sums = torch.zeros(2, dtype=torch.float64)
    for x, y in zip(features.split(_POSITIONS), labels.split(_POSITIONS), strict=True):
        logits = nn.functional.linear(x.to(weight.device), weight, bias)
        sums += _right_and_loss(logits, y.to(weight.device))
    return _rates(sums, len(labels))


@torch.no_grad()
def evaluate(model: ExitModel, batches: Iterable[Tensor]) -> dict[str, float]:
    """Next-token accuracy and perplexity of the exit and of the final head.

    Args:
        model: from `eenotes.language.exits.attach`; its mode is put back afterwards.
        batches: token numbers ``(B, T)``.

    Returns:
        ``exit_accuracy``, ``exit_perplexity``, ``final_accuracy``, ``final_perplexity``.

    Raises:
        ValueError: no batch.
    """
    totals, count = torch.zeros(2, 2, dtype=torch.float64), 0
    device = model.exit_head.linear.weight.device
    with in_mode(model):
        for ids in batches:
            ids = ids.to(device)
            for row, logits in zip(totals, model(ids), strict=True):
                logits, labels = align(logits, ids)
                row += _right_and_loss(logits, labels)
            count += len(labels)
    if not count:
        raise ValueError("no batch: there is nothing to evaluate")
    named = zip(("exit", "final"), totals, strict=True)
    return {
        f"{name}_{what}": value for name, row in named for what, value in _rates(row, count).items()
    }


def _right_and_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """How many are right, and the summed cross-entropy, ``(2,)``."""
    loss = nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
    return torch.stack([(logits.argmax(1) == labels).sum(), loss]).double().cpu()


def _rates(sums: Tensor, count: int) -> dict[str, float]:
    right, loss = (sums / count).tolist()
    # a random head's perplexity can leave the range of a float
    return {"accuracy": right, "perplexity": math.exp(min(loss, 50))}
