"""Batches of text: token numbers with attention mask and labels, read in one way everywhere.

A batch is token numbers ``(B, T)``; a pair of them and labels, each that of its own position; or a
mapping with ``input_ids`` and perhaps ``attention_mask`` and ``labels``, as in transformers.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

IGNORED = -100  # the label that transformers' losses leave out

Batch = Tensor | tuple[Tensor, Tensor] | Mapping[str, Tensor]


def read(batch: Batch, model: nn.Module, *, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Token numbers without padding before or between them, and their labels, ``(B, T)`` each.

    Pads go to the end of their row, where nothing that counts attends to them; their label is
    `IGNORED`.  Without a mask, a run of ``config.pad_token_id`` at either end of a row is padding,
    unless its labels are not ignored, or the same token ends texts.

    Raises:
        TypeError: another kind of batch.
        ValueError: token numbers or labels that the head does not know, or parts of other shapes.
    """
    ids, mask, labels = _parts(batch)
    _check_ids(ids, vocabulary)
    for name, part in (("attention_mask", mask), ("labels", labels)):
        if part is not None and part.shape != ids.shape:
            raise ValueError(f"{name} must be like the tokens, {ids.shape}, got {part.shape}")
    if labels is not None:
        _check_ids(labels.masked_fill(labels == IGNORED, 0), vocabulary)
    real = ~_pads(ids, labels, model.config) if mask is None else mask.to(ids.device) != 0
    labels = ids if labels is None else labels.to(ids.device)
    if real.all():
        return ids, labels
    order = (~real).to(torch.uint8).argsort(dim=1, stable=True)
    labels = labels.masked_fill(~real, IGNORED)
    return ids.gather(1, order), labels.gather(1, order)


def align(values: Tensor, labels: Tensor, *, target: str = "next") -> tuple[Tensor, Tensor]:
    """Positions ``(N, D)`` of ``(B, T, D)`` and their classes ``(N,)``, `IGNORED` ones left out.

    The class of a position is the ``"next"`` token, or that of the ``"input"``.
    """
    if target == "next":
        values, labels = values[:, :-1], labels[:, 1:]
    kept = labels != IGNORED
    return values[kept], labels[kept]


def _check_ids(ids: Tensor, vocabulary: int) -> None:
    """Refuse token numbers that are not whole numbers ``(B, T)`` below the size of the head."""
    if ids.ndim != 2 or ids.is_floating_point():
        raise ValueError(f"token numbers must be whole, (B, T), got {ids.dtype} {tuple(ids.shape)}")
    if ids.numel() and (ids.min() < 0 or ids.max() >= vocabulary):
        found = f"{int(ids.min())}..{int(ids.max())}"
        raise ValueError(f"token numbers {found}, the head {vocabulary} tokens: another tokenizer?")


def _parts(batch: Batch) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Token numbers, mask and labels; ``None`` for what is not there."""
    if isinstance(batch, Mapping) and "input_ids" in batch:
        parts = batch["input_ids"], batch.get("attention_mask"), batch.get("labels")
    elif isinstance(batch, tuple | list) and len(batch) == 2:
        parts = batch[0], None, batch[1]
    else:
        parts = batch, None, None
    if not isinstance(parts[0], Tensor) or not all(isinstance(p, Tensor | None) for p in parts):
        raise TypeError(
            "a batch must be a tensor of token numbers, a pair of it and labels, or a mapping of "
            f"tensors with input_ids, attention_mask and labels; got {type(batch).__name__}"
        )
    return parts


def _pads(ids: Tensor, labels: Tensor | None, config) -> Tensor:
    """Where a row begins or ends in the model's pad, ``(B, T)``."""
    pad, end = (getattr(config, f"{name}_token_id", None) for name in ("pad", "eos"))
    if pad is None or pad in (end if isinstance(end, list | tuple) else [end]):
        return torch.zeros_like(ids, dtype=torch.bool)
    is_pad = ids == pad
    if labels is not None:
        is_pad &= labels.to(ids.device) == IGNORED
    after = is_pad.flip(1).cumprod(1).flip(1)
    return (is_pad.cumprod(1) + after) > 0
