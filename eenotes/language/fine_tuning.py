r"""Class-aware initialisation of early exits in language models (Görmez and Koyuncu; Görmez's
thesis, 2024).

An exit after some decoder sees a hidden vector and has to name the next token: a detector in a
noisy channel with one message per token of the vocabulary.  Its weights follow from class means and
token counts, without a gradient: `eenotes.detection.map_detector`. Works on any causal language
model of `transformers` that keeps its decoders in one list; nothing here imports `transformers`
itself. Equation numbers are those of chapter 6.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from eenotes import training
from eenotes.language.exits import ExitModel, FullPrecision, Linear, check_ids
from eenotes.language.initialisation import align
from eenotes.network import in_mode


@torch.no_grad()
def collect(model: ExitModel, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Features of all positions that have a next token, ``(N, D)``, and that token, ``(N,)``, of
    batches ``(B, T)``; on the CPU.

    Raises:
        ValueError: no batch, or token numbers that the head does not know.
    """
    pairs = []
    with in_mode(model):
        for ids in batches:
            check_ids(ids, model.exit_head.linear.out_features)
            ids = ids.to(model.exit_head.linear.weight.device)
            pairs.append([tensor.cpu() for tensor in align(model.features(ids), ids, "next")])
    if not pairs:
        raise ValueError("no batch: there is nothing to collect")
    features, labels = zip(*pairs, strict=True)
    return torch.cat(features), torch.cat(labels)


@torch.no_grad()
def accuracy(features: Tensor, labels: Tensor, head: Linear) -> float:
    """Next-token accuracy of a linear head on features ``(N, D)`` and labels ``(N,)``, as `collect`
    gives them.
    """
    weight, bias = (tensor.to(features) for tensor in head)
    right = [
        (torch.addmm(bias, x, weight.T).argmax(1) == y).sum()
        for x, y in zip(features.split(4096), labels.split(4096), strict=True)
    ]
    return (torch.stack(right).sum() / len(labels)).item()


@torch.no_grad()
def evaluate(model: ExitModel, batches: Iterable[Tensor]) -> dict[str, float]:
    """Next-token accuracy and perplexity of the exit and of the final head:

    ``exit_accuracy``, ``exit_perplexity``, ``final_…``.

    Args:
        model: from `attach`; its mode is put back afterwards.
        batches: token numbers ``(B, T)``.

    Raises:
        ValueError: no batch.
    """
    totals, count = torch.zeros(2, 2, dtype=torch.float64), 0
    device = model.exit_head.linear.weight.device
    with in_mode(model):
        for ids in batches:
            ids = ids.to(device)
            for row, logits in zip(totals, model(ids), strict=True):
                logits, labels = align(logits, ids, "next")
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
    # a random head's can leave the range of a float
    return {"accuracy": right, "perplexity": math.exp(min(loss, 50))}


def lm_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy of the next token: logits ``(B, T, V)``, ids ``(B, T)``."""
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


def train(
    model: ExitModel,
    ids: Tensor,
    *,
    freeze: bool,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    held_out: Tensor,
    weights: tuple[float, float] = (0.5, 0.5),
    features: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
) -> list[dict[str, float]]:
    """Train the exit alone, or everything; through `accelerate`, with AdamW and a learning rate
    that stays as it is.

    Args:
        model: from `attach`, initialised; trained in place and left in evaluation mode.
        ids: text to train on, ``(N, T)``.
        freeze: train only the exit's linear layer, on features that are computed once; otherwise
            all weights.
        epochs: passes over the text; 0 only evaluates.
        batch_size: rows of ``ids`` per step.
        learning_rate: AdamW's.
        held_out: text to evaluate on, ``(N, T)``.
        weights: of the exit's and the final head's loss, without freezing.
        features: for ``freeze``, from `collect` on ``ids``, if they are at hand.
        seed: of the order of the samples.

    Returns:
        One row per epoch, the first (epoch 0) before any training: `evaluate`'s numbers and
        ``epoch``.

    Raises:
        ValueError: no text, or a loss that is not finite.
    """
    if not len(ids) or not len(held_out) or epochs < 0 or batch_size < 1:
        raise ValueError(
            f"need text, text to evaluate on and a batch size of at least 1: got {len(ids)}, {len(held_out)}, {batch_size}"
        )
    check_ids(ids, model.exit_head.linear.out_features)
    accelerator = training.accelerator()
    model.to(accelerator.device)
    score = _scorer(model, held_out.split(32), freeze=freeze)
    history = [{"epoch": 0, **score()}]
    if epochs and freeze:
        found = collect(model, ids.split(32)) if features is None else features
        # a step sees as much text as without freezing
        rows = [tensor.unflatten(0, (len(ids), -1)) for tensor in found]
        module, data = model.exit_head.linear, torch.utils.data.TensorDataset(*rows)
        loss = _head_loss
    else:
        module, data, loss = model, torch.utils.data.TensorDataset(ids), _both_losses(weights)
    if epochs:
        module = FullPrecision(module)
        optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=0.01)
        loader = torch.utils.data.DataLoader(data, batch_size, shuffle=True)
        # The frame of eenotes.training.fit, whose loop has no place for an evaluation between two
        # epochs.
        with (
            training._own_randomness(seed),
            training._prepared(module, module, optimizer, loader) as (prepared, stepper, batches),
        ):
            for epoch in range(1, epochs + 1):
                module.train()
                batches.set_epoch(epoch)
                for batch in batches:
                    with accelerator.autocast():
                        value = loss(prepared, *batch)
                    if not value.isfinite():
                        raise ValueError(
                            f"the loss of epoch {epoch} is not finite; lower the learning rate"
                        )
                    accelerator.backward(value)
                    stepper.step()
                    stepper.zero_grad()
                history.append({"epoch": epoch, **score()})
    model.eval()
    return history


def _scorer(
    model: ExitModel, held_out: Sequence[Tensor], *, freeze: bool
) -> Callable[[], dict[str, float]]:
    """`evaluate` on held-out text; frozen, what does not change between epochs is computed only
    once.
    """
    if not freeze:
        return lambda: evaluate(model, held_out)
    (x, y), first, device = (
        collect(model, held_out),
        evaluate(model, held_out),
        model.exit_head.linear.weight.device,
    )

    @torch.no_grad()
    def score() -> dict[str, float]:
        pairs = zip(x.split(4096), y.split(4096), strict=True)
        sums = sum(
            _right_and_loss(model.exit_head.linear(a.to(device)), b.to(device)) for a, b in pairs
        )
        return first | {f"exit_{what}": value for what, value in _rates(sums, len(y)).items()}

    return score


def _head_loss(linear: nn.Linear, features: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(linear(features.flatten(0, 1)).float(), labels.flatten())


def _both_losses(weights: tuple[float, float]) -> Callable:
    def loss(model: ExitModel, ids: Tensor) -> Tensor:
        return sum(
            weight * lm_loss(logits, ids)
            for weight, logits in zip(weights, model(ids), strict=True)
        )

    return loss
