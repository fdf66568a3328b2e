"""Losses that train the segmentation networks, and the weights of the classes in them."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eenotes_book.models.segmentation import still_active

_LEAST_STOP = 0.85  # training masks places that are surer than a number between this and 1
_PART = 2 / 3  # of height and width: what is cut out of an image in training
_SIZES = (2 / 3, 3 / 2)  # of the image before that, relative to its own


def exits_loss(
    model: nn.Module, batch: tuple[Tensor, Tensor], *, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy averaged over all exits, on images that are mirrored at random.

    An exit's place stands for all the pixels of its cell, so its target is the share of each class
    among those that have one.

    Args:
        model: images → logits ``(B, K, h, w)`` of every exit.
        batch: images ``(B, 3, H, W)`` and labels ``(B, H, W)``; a label outside 0..K-1 is ignored.
        weights: ``(K,)``, the weight of a pixel of each class; by default all are 1.
    """
    images, labels = _mirrored(batch)
    logits = model(images)
    target = _targets(labels, logits[0], weights)
    return torch.stack([_cross_entropy(z, target) for z in logits]).mean()


def masked_loss(
    model: nn.Module, batch: tuple[Tensor, Tensor], *, weights: Tensor | None = None
) -> Tensor:
    """`exits_loss` on `varied` images, with finished places filled in as ``segment`` fills them in.

    Half of the images are masked, each with one threshold for all classes, drawn between .85 and 1;
    a place that is finished counts in no later exit's loss.  The other half is seen whole, so that
    the network remains good where nothing stops.

    Args:
        model: a `SegmentationNetwork` or `TokenViT`, or what accelerate makes of it.
        batch: images ``(B, 3, H, W)`` and labels ``(B, H, W)``.
        weights: ``(K,)``, as for `exits_loss`.
    """
    images, labels = varied(batch)
    stop, plain = torch.rand(2, len(images), device=images.device)
    stop = torch.where(plain < 0.5, 1.0, _LEAST_STOP + (1 - _LEAST_STOP) * stop)
    logits = model(images, stop=stop)
    target = _targets(labels, logits[0], weights)
    active = [None, *still_active(logits[:-1], stop)]  # before each exit
    losses = [
        _cross_entropy(z, target if mask is None else target * mask[:, None])
        for z, mask in zip(logits, active, strict=True)
    ]
    return torch.stack(losses).mean()


def _mirrored(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    images, labels = batch
    mirrored = torch.rand(len(images), device=images.device) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    return images, torch.where(mirrored[:, None, None], labels.flip(-1), labels)


def varied(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Parts of images, and their labels: mirrored, enlarged or reduced, and cut out, at random.

    A part has two thirds of the image's height and width, as near as multiples of eight come, and
    shows between all of the image and a good sixth of it.

    Args:
        batch: images ``(B, 3, H, W)`` and labels ``(B, H, W)``.

    Returns:
        Images ``(B, 3, H', W')`` and int64 labels ``(B, H', W')``.
    """
    images, labels = batch
    B, size = len(images), [max(8 * round(n * _PART / 8), min(n, 8)) for n in images.shape[2:]]
    mirrored, scale, *shift = torch.rand(4, B, device=images.device)
    low, high = _SIZES
    seen = _PART / (low * (high / low) ** scale)  # of height and width
    place = torch.zeros(B, 2, 3, device=images.device)
    place[:, 0, 0] = torch.where(mirrored < 0.5, -seen, seen)
    place[:, 1, 1] = seen
    place[:, :, 2] = torch.stack([(1 - seen) * (2 * part - 1) for part in shift], 1)
    grid = F.affine_grid(place.to(images.dtype), [B, 1, *size], align_corners=False)
    shown = F.grid_sample(labels[:, None].to(images.dtype), grid, "nearest", align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return images, shown[:, 0].round().long()


def _targets(labels: Tensor, logits: Tensor, weights: Tensor | None) -> Tensor:
    """The target of each place, ``(B, K, h, w)``: the weighted share of each class in its cell.

    All targets together add up to 1.
    """
    K, size = logits.shape[1], logits.shape[2:]
    target = F.adaptive_avg_pool2d(torch.stack([labels == k for k in range(K)], 1).float(), size)
    if weights is not None:
        target = target * weights.to(target.device)[:, None, None]
    return target / target.sum().clamp_min(1e-9)


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return -(logits.float().log_softmax(1) * target).sum()


def class_weights(labels: Iterable[Tensor], *, num_classes: int) -> Tensor:
    r"""Weights ``(K,)`` for `exits_loss` with which rare classes count more.

    $w_k \propto f_k^{-1/4}$, with $\sum_k f_k w_k = 1$, where $f_k$ is the share of class k among
    the pixels that have a class.  In a mean over classes, such as mean IoU, a pole counts as much
    as the road; in cross-entropy over pixels it does not.  Weights
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
        inside = part[(part >= 0) & (part < num_classes)].flatten().long()
        counts += inside.bincount(minlength=num_classes).cpu()
    if not counts.any():
        raise ValueError(f"no pixel has a label in 0..{num_classes - 1}: there is nothing to weigh")
    share = counts / counts.sum()
    # a class that never occurs has no pixel to weigh
    weights = share.clamp_min(share[share > 0].min()) ** -0.25
    return (weights / (share * weights).sum()).float()
