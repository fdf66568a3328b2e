"""Training an early exit of a language model: the exit alone, or everything."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn
from torch.utils.data import TensorDataset

from eenotes import training
from eenotes.language.evaluation import collect, evaluate, score
from eenotes.language.exits import ExitModel, FullPrecision, check_ids


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
    features: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
) -> list[dict[str, float]]:
    """Train the exit alone, or everything, with AdamW at a constant learning rate.

    Args:
        model: from `eenotes.language.exits.attach`, initialised; trained in place and left in
            evaluation mode.
        ids: text to train on, ``(N, T)``.
        freeze: train only the exit's linear layer, on features that are computed once; otherwise
            all weights, on the mean of the exit's and the final head's loss.
        epochs: passes over the text; 0 only evaluates.
        batch_size: rows of ``ids`` per step.
        learning_rate: AdamW's.
        held_out: text to evaluate on, ``(N, T)``.
        features: for ``freeze``, from `eenotes.language.evaluation.collect` on ``ids``, if they are
            at hand.
        seed: of the order of the samples.

    Returns:
        One row per epoch, the first (epoch 0) before any training: ``epoch``, and the numbers of
        `eenotes.language.evaluation.evaluate`.

    Raises:
        ValueError: no text, or a loss that is not finite.
    """
    if not len(ids) or not len(held_out) or epochs < 0 or batch_size < 1:
        raise ValueError(
            "need text, text to evaluate on and a batch size of at least 1: "
            f"got {len(ids)}, {len(held_out)}, {batch_size}"
        )
    check_ids(ids, model.exit_head.linear.out_features)
    model.to(training.accelerator().device)
    scored, history = _scorer(model, held_out.split(32), freeze=freeze), []

    def record(epoch: int) -> None:
        history.append({"epoch": epoch, **scored()})

    if not epochs:
        record(0)
        model.eval()
        return history
    part, data, loss = model, TensorDataset(ids), _both_losses
    if freeze:
        found = collect(model, ids.split(32)) if features is None else features
        # a step sees as much text as without freezing
        rows = [tensor.unflatten(0, (len(ids), -1)) for tensor in found]
        part, data, loss = model.exit_head.linear, TensorDataset(*rows), _head_loss
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


def _scorer(
    model: ExitModel, held_out: Sequence[Tensor], *, freeze: bool
) -> Callable[[], dict[str, float]]:
    """`evaluate` on held-out text; frozen, what stays is computed only once."""
    if not freeze:
        return lambda: evaluate(model, held_out)
    features, labels = collect(model, held_out)
    first, linear = evaluate(model, held_out), model.exit_head.linear

    def scored() -> dict[str, float]:
        found = score(features, labels, (linear.weight, linear.bias))
        return first | {f"exit_{what}": value for what, value in found.items()}

    return scored


def _head_loss(linear: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    features, labels = batch
    return nn.functional.cross_entropy(linear(features.flatten(0, 1)).float(), labels.flatten())


def _both_losses(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
    (ids,) = batch
    return sum(0.5 * lm_loss(logits, ids) for logits in model(ids))
