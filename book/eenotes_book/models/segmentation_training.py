"""Losses of segmentation networks with exits: plain, by class, and with finished places masked.

`masked_loss` trains a network to live with the values that are filled in where places are
finished (see `eenotes_book.models.segmentation`).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eenotes_book.models.segmentation import unfinished

LEAST_STOP = 0.85  # training masks places that are surer than a number between this and 1


def exits_loss(
    model: nn.Module, batch: tuple[Tensor, Tensor], *, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy averaged over all exits, on images ``(B, 3, H, W)`` with labels ``(B, H, W)``,
    mirrored at random.

    An exit's place answers for all the pixels of its cell, so its target is the share of each class
    among those that have one.

    Args:
        model: images → logits ``(B, K, h, w)`` of every exit.
        batch: images and labels; a label outside 0..K-1 is ignored.
        weights: ``(K,)``, what a pixel of each class counts; by default all count alike.
    """
    images, labels = _mirrored(batch)
    logits = model(images)
    target = _targets(labels, logits[0], weights)
    return torch.stack([_cross_entropy(z, target) for z in logits]).mean()


def masked_loss(
    model: nn.Module, batch: tuple[Tensor, Tensor], *, weights: Tensor | None = None
) -> Tensor:
    """`exits_loss` of a network that sees in training what ``segment`` lets it see: finished
    places, filled in.

    Half of the images are masked, each with one threshold for all classes, drawn between
    `LEAST_STOP` and 1; a place that is finished counts in no later exit's loss.  The other half is
    as ever, so that the network remains good where nothing stops.

    Args:
        model: a `SegmentationNetwork`, or what accelerate makes of it.
        batch: images ``(B, 3, H, W)`` and labels ``(B, H, W)``.
        weights: ``(K,)``, as for `exits_loss`.
    """
    images, labels = _mirrored(batch)
    stop, plain = torch.rand(2, len(images), device=images.device)
    stop = torch.where(plain < 0.5, 1.0, LEAST_STOP + (1 - LEAST_STOP) * stop)
    logits = model(images, stop=stop)
    target = _targets(labels, logits[0], weights)
    asked = [None, *unfinished(logits[:-1], stop)]
    losses = [
        _cross_entropy(z, target if mask is None else target * mask[:, None])
        for z, mask in zip(logits, asked, strict=True)
    ]
    return torch.stack(losses).mean()


def _mirrored(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    images, labels = batch
    mirrored = torch.rand(len(images), device=images.device) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    return images, torch.where(mirrored[:, None, None], labels.flip(-1), labels)


def _targets(labels: Tensor, logits: Tensor, weights: Tensor | None) -> Tensor:
    """What each place should say, ``(B, K, h, w)``: the share of each class in its cell, weighted;
    together 1.
    """
    K, size = logits.shape[1], logits.shape[2:]
    target = F.adaptive_avg_pool2d(torch.stack([labels == k for k in range(K)], 1).float(), size)
    if weights is not None:
        target = target * weights.to(target.device)[:, None, None]
    return target / target.sum().clamp_min(1e-9)


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return -(logits.float().log_softmax(1) * target).sum()


def class_weights(labels: Iterable[Tensor], *, num_classes: int) -> Tensor:
    r"""Weights ``(K,)`` for `exits_loss` that let rare classes count:

    $w_k \propto f_k^{-1/4}$, with $\sum_k f_k w_k = 1$.

    $f_k$ is the share of class k among the pixels that have a class.  A mean over classes, such as
    mean IoU, asks as much of a pole as of the road; cross-entropy over pixels does not.  Weights
    $1/f_k$ would, at the price of confidences that no longer say how often they are right; the
    fourth root is a compromise, chosen on CamVid's validation images.

    Args:
        labels: label maps, of any shape ``(...)``; a label outside 0..K-1 is ignored.
        num_classes: K.

    Raises:
        ValueError: if no pixel has a class.
    """
    counts = torch.zeros(num_classes, dtype=torch.float64)
    for part in labels:
        counts += (
            part[(part >= 0) & (part < num_classes)]
            .flatten()
            .long()
            .bincount(minlength=num_classes)
            .cpu()
        )
    if not counts.any():
        raise ValueError(f"no pixel has a label in 0..{num_classes - 1}: there is nothing to weigh")
    share = counts / counts.sum()
    # a class that never occurs has no pixel to weigh
    weights = share.clamp_min(share[share > 0].min()) ** -0.25
    return (weights / (share * weights).sum()).float()
