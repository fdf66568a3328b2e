"""Batches of text: token numbers with attention mask and labels, read in one way everywhere.

A batch is token numbers ``(B, T)``; a pair of them and labels; or a mapping with ``input_ids``,
and with ``attention_mask`` or ``labels`` if there are such, as tokenizers and collators of
transformers give it.  Labels belong to the token at their own position, as in transformers.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

IGNORED = -100  # the label that transformers' losses leave out

Batch = Tensor | tuple[Tensor, Tensor] | Mapping[str, Tensor]


def read(batch: Batch, model: nn.Module, *, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Token numbers without padding before or between them, and their labels, ``(B, T)`` each.

    Pads go to the end of their row, where nothing that counts attends to them: so left, right and
    no padding give the same numbers.  Their label is `IGNORED`.  Without a mask, a run of
    ``config.pad_token_id`` at either end of a row is padding, unless its labels are not ignored, or
    the same token ends texts.

    Raises:
        TypeError: another kind of batch.
        ValueError: token numbers or labels that the head does not know, or parts of other shapes.
    """
    ids, mask, labels = _parts(batch)
    _check_ids(ids, vocabulary)
    for name, part in (("attention_mask", mask), ("labels", labels)):
        if part is not None and part.shape != ids.shape:
            raise ValueError(
                f"{name} must be like the tokens, {tuple(ids.shape)}, got {tuple(part.shape)}"
            )
    if labels is not None:
        _check_ids(labels.masked_fill(labels == IGNORED, 0), vocabulary)
    real = ~_pads(ids, labels, model.config) if mask is None else mask.to(ids.device) != 0
    labels = ids if labels is None else labels.to(ids.device)
    if real.all():
        return ids, labels
    order = (~real).to(torch.uint8).argsort(dim=1, stable=True)
    labels = labels.masked_fill(~real, IGNORED)
    return ids.gather(1, order), labels.gather(1, order)


def rows(ids: Tensor, labels: Tensor, size: int) -> list[dict[str, Tensor]]:
    """What `read` gave, ``(N, T)`` each, as batches of at most ``size`` rows."""
    names = ("input_ids", "attention_mask", "labels")
    parts = (part.split(size) for part in (ids, torch.ones_like(ids), labels))
    return [dict(zip(names, row, strict=True)) for row in zip(*parts, strict=True)]


def align(values: Tensor, labels: Tensor, *, target: str = "next") -> tuple[Tensor, Tensor]:
    """Positions ``(N, D)`` of ``(B, T, D)`` and their classes ``(N,)``, `IGNORED` ones left out.

    With the target ``"next"`` the class of a position is the token after it, with ``"input"`` its
    own.
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
        raise ValueError(
            f"the text has token numbers {int(ids.min())}..{int(ids.max())}, "
            f"the head {vocabulary} tokens: another tokenizer?"
        )


def _parts(batch: Batch) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Token numbers, mask and labels; ``None`` for what is not there."""
    if isinstance(batch, Mapping) and "input_ids" in batch:
        parts = batch["input_ids"], batch.get("attention_mask"), batch.get("labels")
    elif isinstance(batch, tuple | list) and len(batch) == 2:
        parts = batch[0], None, batch[1]
    else:
        parts = batch, None, None
    if not isinstance(parts[0], Tensor) or not all(
        part is None or isinstance(part, Tensor) for part in parts
    ):
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
    before = is_pad.long().cumprod(1)
    after = is_pad.flip(1).long().cumprod(1).flip(1)
    return (before + after) > 0
