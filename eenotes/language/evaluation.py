"""How good an exit of a language model is: next-token accuracy and perplexity.

`collect` and `evaluate` put together what all processes of ``torch.distributed`` were given.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from eenotes._processes import gathered
from eenotes.language.batches import Batch, align, read
from eenotes.language.exits import ExitModel, Linear
from eenotes.network import in_mode

_POSITIONS = 4096  # at once: each has V logits


def collect(model: ExitModel, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Features ``(N, D)`` and next tokens ``(N,)`` of all positions that have one, on the CPU.

    Batches are those of `eenotes.language.batches`; positions whose next label is -100 are left
    out.  Those of several processes come one process after the other.  The model's mode is put back
    afterwards.

    Raises:
        ValueError: no position in any process, or what `eenotes.language.batches.read` raises.
    """
    return _joined([pair for own in gathered(_observed(model, batches)) for pair in own])


def collect_own(model: ExitModel, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """What `collect` gives, ``(N, D)`` and ``(N,)``, of the batches of this process alone."""
    return _joined(_observed(model, batches))


@torch.no_grad()
def _observed(model: ExitModel, batches: Iterable[Batch]) -> list[tuple[Tensor, Tensor]]:
    pairs, head = [], model.exit_head.linear
    with in_mode(model):
        for batch in batches:
            ids, labels = read(batch, model.model, vocabulary=head.out_features)
            features = model.features(ids.to(head.weight.device)).cpu()
            pairs.append(align(features, labels.cpu()))
    return pairs


def _joined(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    _require_positions(sum(len(labels) for _, labels in pairs))
    features, labels = zip(*pairs, strict=True)
    return torch.cat(features), torch.cat(labels)


@torch.no_grad()
def accuracy(features: Tensor, labels: Tensor, head: Linear) -> float:
    """Next-token accuracy of a head on features ``(N, D)`` with labels ``(N,)``."""
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
def evaluate(model: ExitModel, batches: Iterable[Batch]) -> dict[str, float]:
    """Next-token accuracy and perplexity of exit and final head, on batches as in `collect`.

    Returns:
        ``exit_accuracy``, ``exit_perplexity``, ``final_accuracy``, ``final_perplexity``.

    Raises:
        ValueError: as `collect`.
    """
    totals, head = torch.zeros(2, 2, dtype=torch.float64), model.exit_head.linear
    count = 0
    with in_mode(model):
        for batch in batches:
            parts = read(batch, model.model, vocabulary=head.out_features)
            ids, labels = (part.to(head.weight.device) for part in parts)
            for row, logits in zip(totals, model(ids), strict=True):
                row += _right_and_loss(*align(logits, labels))
            count += len(align(labels, labels)[1])
    totals, count = (sum(of_all) for of_all in zip(*gathered((totals, count)), strict=True))
    _require_positions(count)
    named = zip(("exit", "final"), totals, strict=True)
    return {
        f"{name}_{what}": value for name, row in named for what, value in _rates(row, count).items()
    }


def _require_positions(count: int) -> None:
    if not count:
        raise ValueError("no batch has a label that is neither ignored (-100) nor padding")


def _right_and_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """How many are right, and the summed cross-entropy, ``(2,)``."""
    loss = nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
    return torch.stack([(logits.argmax(1) == labels).sum(), loss]).cpu().double()


def _rates(sums: Tensor, count: int) -> dict[str, float]:
    right, loss = (sums / count).tolist()
    # a random head's perplexity can leave the range of a float
    return {"accuracy": right, "perplexity": math.exp(min(loss, 50))}
