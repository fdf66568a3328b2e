"""Training an early exit of a language model: the exit alone, or everything."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from eenotes import training
from eenotes.language.batches import IGNORED, Batch, read
from eenotes.language.evaluation import collect_own, evaluate, score
from eenotes.language.exits import ExitModel


def lm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the next token: logits ``(B, T, V)``, labels ``(B, T)``, -100 left out.

    Raises:
        ValueError: every label but a row's first is ignored.
    """
    labels = labels[:, 1:].flatten()
    if not (labels != IGNORED).any():
        raise ValueError("every label of the batch is ignored (-100) or padding: it has no loss")
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels)


def train(
    model: ExitModel,
    batch: Batch,
    *,
    freeze: bool,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    held_out: Batch,
    features: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
) -> list[dict[str, float]]:
    """Train the exit alone, or everything, with AdamW at a constant learning rate.

    Text ``batch`` and ``held_out`` are ``(N, T)``, see `eenotes.language.batches`.  With ``freeze``
    the exit's linear layer is trained, on features that are computed once (or given, from
    `eenotes.language.evaluation.collect_own`), otherwise all weights, on the mean of both losses.
    Without epochs the model is only evaluated; it is left in evaluation mode.

    Returns:
        One row per epoch, the first before any training: ``epoch``, and the numbers of
        `eenotes.language.evaluation.evaluate`.

    Raises:
        ValueError: no text or label to learn from, features of another text, a loss that is not
            finite, or what `eenotes.language.batches.read` raises.
    """
    vocabulary = model.exit_head.linear.out_features
    ids, labels = read(batch, model.model, vocabulary=vocabulary)
    tested = read(held_out, model.model, vocabulary=vocabulary)
    if not len(ids) or not len(tested[0]) or epochs < 0 or batch_size < 1:
        given = f"{len(ids)}, {len(tested[0])}, {batch_size}"
        raise ValueError(f"need text, text to evaluate on and a batch size: got {given}")
    learnt = (labels[:, 1:] != IGNORED).any(1)
    if not learnt.any():
        raise ValueError("every label is ignored (-100) or padding: there is nothing to learn")
    ids, labels = ids[learnt], labels[learnt]
    model.to(training.accelerator().device)
    scored = _scorer(model, rows(*tested, 32), freeze=freeze)
    if not epochs:
        model.eval()
        return [{"epoch": 0, **scored()}]
    history = []

    def record(epoch: int) -> None:
        history.append({"epoch": epoch, **scored()})

    part, data, loss = model, TensorDataset(ids, labels), _both_losses
    if freeze:
        found = collect_own(model, rows(ids, labels, 32)) if features is None else features
        data = TensorDataset(*_in_rows(*found, labels[:, 1:]))
        part, loss = model.exit_head.linear, _head_loss
    training.fit(
        FullPrecision(part),
        data,
        loss=loss,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=partial(training.adamw, lr=learning_rate, weight_decay=0.01),
        schedule=training.constant_rate,
        on_samples={epoch * len(ids): partial(record, epoch) for epoch in range(epochs + 1)},
        first_epoch=1,
        seed=seed,
        title="training the exit" if freeze else "training exit and model",
    )
    model.eval()
    return history


def rows(ids: Tensor, labels: Tensor, size: int) -> list[dict[str, Tensor]]:
    """What `read` gave, ``(N, T)`` each, as batches of at most ``size`` rows."""
    parts = zip(ids.split(size), labels.split(size), strict=True)
    return [{"input_ids": i, "attention_mask": torch.ones_like(i), "labels": y} for i, y in parts]


def _in_rows(features: Tensor, next_labels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Features in the rows of their labels ``(N, T-1)``: a step then sees as much text as ever."""
    kept = labels != IGNORED
    if not torch.equal(labels[kept], next_labels.to(labels.device)):
        counts = f"{len(next_labels)} next tokens are given, of the text {int(kept.sum())} others"
        raise ValueError(f"features of {counts}: collect them on the same text")
    rows = features.new_zeros(*labels.shape, features.shape[1])
    rows[kept.to(rows.device)] = features
    return rows, labels


def _scorer(
    model: ExitModel, held_out: Sequence[Batch], *, freeze: bool
) -> Callable[[], dict[str, float]]:
    """`evaluate` on held-out text; frozen, what stays is computed only once."""
    if not freeze:
        return partial(evaluate, model, held_out)
    features, labels = collect_own(model, held_out)
    first, linear = evaluate(model, held_out), model.exit_head.linear

    def scored() -> dict[str, float]:
        found = score(features, labels, (linear.weight, linear.bias))
        return first | {f"exit_{what}": value for what, value in found.items()}

    return scored


def _head_loss(linear: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    features, labels = batch
    return nn.functional.cross_entropy(linear(features.flatten(0, 1)).float(), labels.flatten())


def _both_losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    ids, labels = batch
    return sum(0.5 * lm_loss(logits, labels) for logits in model(ids))


class FullPrecision(nn.Module):
    """A module without autocast on the CPU.

    Converting a small model's numbers to bfloat16 takes longer there than multiplying them.
    """

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, *inputs, **named):
        on_cpu = next(self.inner.parameters()).device.type == "cpu"
        with torch.autocast("cpu", enabled=False) if on_cpu else nullcontext():
            return self.inner(*inputs, **named)
