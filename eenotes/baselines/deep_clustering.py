r"""Deep embedded clustering (DEC: Xie, Girshick and Farhadi, 2016): classes found without labels.

An encoder learns a short code of each sample, first as half of a denoising autoencoder, then by
sharpening its own soft clusters.  The clusters play the role of labels: their class means at the
encoder's earlier layers make early exits (`eenotes.methods.e2cm`).
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from eenotes import training

WIDTHS = (500, 500, 2000, 10)


# How far `distort` moves each number of an affine map: zoom, slant, shift across; slant, zoom,
# shift along.
_REACH = ((2 / 3, 2.0, 1.0), (4 / 3, 2 / 3, 1.0))


Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Clustering:
    """What `fit` found.

    ``encoder``: from samples ``(B, D)`` to codes ``(B, C)``, in evaluation mode.  ``centroids``:
    ``(K, C)``.  ``assignments``: ``(N,)`` int64, the nearest centroid of each sample's code.
    ``changed``: the share of samples that changed cluster from one target distribution to the next,
    in the order of training.
    """

    encoder: nn.Sequential
    centroids: Tensor
    assignments: Tensor
    changed: tuple[float, ...]


class UnitPower(nn.Module):
    r"""Shift each sample's minimum to 0 and scale its mean square to 1, $\frac1D\lVert x\rVert^2 =
    1$, as DEC's authors do.

    ``(B, D)`` → ``(B, D)``.  Whatever shift and scale a sample came with, the result is the same; a
    constant one becomes all zeros. Without it k-means tells much ink from little ink: it splits the
    zeros and merges the fours with the nines.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.amin(1, keepdim=True)
        return x / x.square().mean(1, keepdim=True).sqrt().clamp_min(1e-6)


def fit(
    x: Tensor,
    *,
    num_clusters: int,
    epochs: int,
    steps: int,
    widths: Sequence[int] = WIDTHS,
    batch_size: int = 256,
    learning_rate: float = 3e-3,
    refine_rate: float = 1e-3,
    update_interval: int = 100,
    tolerance: float = 1e-3,
    distortion: float = 0.0,
    seed: int = 0,
) -> Clustering:
    """Cluster samples: pre-train an autoencoder, k-means on its codes, then refine encoder and
    centroids together.

    Args:
        x: ``(N, D)``, float, on the device to train on.
        num_clusters: K.
        epochs: passes over the data in pre-training.
        steps: of refinement, at most.
        widths: of the encoder's layers after its input; the last is the length C of the code.
        batch_size: samples per step, in pre-training and in refinement.
        learning_rate: the peak of pre-training.
        refine_rate: the learning rate of refinement.
        update_interval: steps from one target distribution to the next.
        tolerance: refinement ends when no more than this share of the samples changed cluster
            between two targets.
        distortion: how far `distort` bends square images while the encoder learns; 0 for samples
            that are no images.
        seed: of everything that is drawn; the generators outside stay as they were.

    Raises:
        TypeError: the samples are not floats.
        ValueError: ``x`` is not ``(N, D)`` or not finite, there are fewer samples than clusters, or
            images to distort are not square.
    """
    _check(x, num_clusters)
    augment = partial(distort, amount=distortion) if distortion else None
    encoder = pretrain(
        x,
        epochs=epochs,
        widths=widths,
        batch_size=batch_size,
        learning_rate=learning_rate,
        augment=augment,
        seed=seed,
    )
    centroids = first_centroids(embed(encoder, x), num_clusters=num_clusters, seed=seed)
    return refine(
        encoder,
        centroids,
        x,
        steps=steps,
        batch_size=batch_size,
        learning_rate=refine_rate,
        update_interval=update_interval,
        tolerance=tolerance,
        augment=augment,
        seed=seed,
    )


def autoencoder(
    num_inputs: int, widths: Sequence[int] = WIDTHS, *, seed: int = 0
) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder, mirror images of each other: linear layers with a ReLU between any two.

    The encoder's children are named ``"0"`` (`UnitPower`), ``"1"`` (linear), ``"2"`` (ReLU), ...;
    every even name but the first is a ReLU, where `eenotes.split` can cut.

    Args:
        num_inputs: D.
        widths: of the encoder's layers after its input; the last is the length C of the code.
        seed: of the weights; the generators outside stay as they were.

    Returns:
        From samples ``(B, D)`` to codes ``(B, C)``, and back.

    Raises:
        ValueError: a layer without units.
    """
    if min(num_inputs, *widths) < 1:
        raise ValueError(
            f"every layer needs at least one unit, got {num_inputs} inputs and the widths {tuple(widths)}"
        )
    sizes = [num_inputs, *widths]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(UnitPower(), *_chain(sizes)), nn.Sequential(*_chain(sizes[::-1]))


def pretrain(
    x: Tensor,
    *,
    epochs: int,
    widths: Sequence[int] = WIDTHS,
    batch_size: int = 256,
    learning_rate: float = 3e-3,
    augment: Augment | None = None,
    seed: int = 0,
) -> nn.Sequential:
    """The encoder of an autoencoder that learned to restore samples ``(N, D)`` from distorted ones
    with a fifth of the pixels blanked.

    All layers at once: with Adam the greedy pre-training, layer by layer, of the paper is not
    needed.
    """
    _check(x, 1)
    encoder, decoder = autoencoder(x.shape[1], widths, seed=seed)
    clean = UnitPower()(x)
    training.fit(
        nn.Sequential(nn.Dropout(0.2), encoder, decoder),
        TensorDataset(clean, clean),
        loss=_restoration_loss,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=partial(torch.optim.Adam, lr=learning_rate, betas=(0.9, 0.99), fused=True),
        augment=augment,
        seed=seed,
        title="autoencoder",
    )
    return encoder.to(x.device).eval()


def first_centroids(codes: Tensor, *, num_clusters: int, seed: int = 0) -> Tensor:
    """The centroids, ``(K, C)``, of k-means on codes ``(N, C)``: the best of ten runs."""
    from sklearn.cluster import KMeans

    _check(codes, num_clusters)
    found = KMeans(num_clusters, n_init=10, random_state=seed).fit(codes.float().cpu().numpy())
    return torch.as_tensor(found.cluster_centers_, dtype=torch.float32, device=codes.device)


def refine(
    encoder: nn.Sequential,
    centroids: Tensor,
    x: Tensor,
    *,
    steps: int,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    update_interval: int = 100,
    tolerance: float = 1e-3,
    augment: Augment | None = None,
    seed: int = 0,
) -> Clustering:
    r"""Move codes and centroids so that the soft clusters become sharper: minimise $\mathrm{KL}(P
    \Vert Q)$.

    $Q$ is `soft_assignment`, of distorted samples if ``augment`` is given; $P$ is its
    `target_distribution` on the samples as they are, brought up to date every ``update_interval``
    steps (with distortions: Guo et al., 2018).  The encoder given stays as it is.

    Args:
        encoder: from `pretrain`.
        centroids: ``(K, C)``.
        x: samples ``(N, D)``.
        steps: at most.
        batch_size: samples per step.
        learning_rate: constant.
        update_interval: steps from one target distribution to the next.
        tolerance: the end, when no more than this share of the samples changed cluster between two
            targets.
        augment: from samples ``(B, D)`` and a generator to the samples to train on.
        seed: of the order of the samples.

    Raises:
        ValueError: samples that are not finite or do not fit the encoder, no steps, or a refinement
            that diverges.
    """
    _check(x, len(centroids))
    if update_interval < 1 or steps < 1:
        raise ValueError(
            f"need at least one step, and one from target to target, got steps={steps}, update_interval={update_interval}"
        )
    encoder, centroids = copy.deepcopy(encoder).eval(), nn.Parameter(centroids.clone())
    optimizer = torch.optim.Adam([*encoder.parameters(), centroids], learning_rate, fused=True)
    generator = torch.Generator(x.device).manual_seed(seed)
    clean, assignments, changed = UnitPower()(x), None, []
    for step in training.progress_bar(range(steps), "refinement"):
        if step % update_interval == 0:
            with torch.no_grad(), _autocast(x.device):
                q = soft_assignment(embed(encoder, clean), centroids)
            _check_converging(q, step, learning_rate)
            target, previous, assignments = target_distribution(q), assignments, q.argmax(1)
            if previous is not None:
                changed.append((assignments != previous).float().mean().item())
                if changed[-1] <= tolerance:
                    break
        rows = torch.randint(len(x), (batch_size,), generator=generator, device=x.device)
        batch = clean[rows] if augment is None else augment(clean[rows], generator)
        with _autocast(x.device):
            codes = encoder(batch)
        q = soft_assignment(codes.float(), centroids)
        F.kl_div(q.log(), target[rows], reduction="batchmean").backward()
        optimizer.step()
        optimizer.zero_grad()
    centroids = centroids.detach()
    q = soft_assignment(embed(encoder, x), centroids)
    _check_converging(q, steps, learning_rate)
    assignments = q.argmax(1)
    return Clustering(encoder.requires_grad_(True), centroids, assignments, tuple(changed))


def soft_assignment(codes: Tensor, centroids: Tensor) -> Tensor:
    r"""Student's t with one degree of freedom, $q_{ik} \propto (1 + \lVert z_i - c_k\rVert^2)^{-1}$
    (eq. 1 of the paper).

    Codes ``(N, C)`` and centroids ``(K, C)`` → ``(N, K)``; rows sum to 1.

    Raises:
        ValueError: shapes that do not match.
    """
    if codes.ndim != 2 or centroids.ndim != 2 or codes.shape[1] != centroids.shape[1]:
        raise ValueError(
            f"codes (N, C) and centroids (K, C) do not match: {tuple(codes.shape)} and {tuple(centroids.shape)}"
        )
    q = 1 / (1 + (codes.float()[:, None] - centroids).square().sum(2))
    return q / q.sum(1, keepdim=True)


def target_distribution(q: Tensor) -> Tensor:
    r"""The sharpened assignments (2.7), $\hat q_{ik} \propto q_{ik}^2 / \sum_i q_{ik}$ (eq. 3 of
    the paper): ``(N, K)``, rows sum to 1.

    The square trusts the confident samples; the division keeps large clusters from swallowing small
    ones.
    """
    p = q.square() / q.sum(0)
    return p / p.sum(1, keepdim=True)


@torch.no_grad()
def embed(encoder: nn.Sequential, x: Tensor) -> Tensor:
    """Codes ``(N, C)``, float32, of samples ``(N, D)``.

    Raises:
        ValueError: samples of another width than the encoder's.
    """
    width = next(layer.in_features for layer in encoder if isinstance(layer, nn.Linear))
    if x.ndim != 2 or x.shape[1] != width:
        raise ValueError(f"the encoder takes samples of shape (N, {width}), got {tuple(x.shape)}")
    return torch.cat([encoder(part).float() for part in x.split(4096)])


def distort(x: Tensor, generator: torch.Generator, *, amount: float) -> Tensor:
    """A random affine map of each square image ``(B, D)``, D = side²; what comes in from outside
    the image is 0.

    The image is shifted by up to ``amount`` of half its side, zoomed by two thirds of that, and
    slanted, the way handwriting leans, by up to twice ``amount`` sideways and 4/3 of it upwards.
    At 0.3: 4 of 28 pixels, a fifth, and 31 and 22 degrees.

    Raises:
        ValueError: D is not a square number, or ``amount`` is not in [0, 1).
    """
    side = isqrt(x.shape[1])
    if side**2 != x.shape[1] or not 0 <= amount < 1:
        raise ValueError(
            f"need square images and an amount in [0, 1), got {x.shape[1]} pixels and {amount}"
        )
    noise = 2 * torch.rand(len(x), 2, 3, generator=generator, device=x.device) - 1
    maps = torch.eye(2, 3, device=x.device) + amount * noise * noise.new_tensor(_REACH)
    grid = F.affine_grid(maps, [len(x), 1, side, side], align_corners=False)
    return F.grid_sample(x.view(-1, 1, side, side), grid, align_corners=False).flatten(1)


def clustering_accuracy(assignments: Tensor, labels: Tensor) -> float:
    """The share of samples whose cluster's class is their own, for the best one-to-one matching of
    clusters and classes.

    Args:
        assignments: ``(N,)``, integer, from 0.
        labels: ``(N,)``, integer, from 0.  There may be more classes than clusters or fewer; what
            has no partner counts as wrong.

    Raises:
        ValueError: different lengths, no samples, or negative numbers.
        TypeError: numbers that are not integers.
    """
    from scipy.optimize import linear_sum_assignment

    assignments, labels = torch.as_tensor(assignments).cpu(), torch.as_tensor(labels).cpu()
    if assignments.ndim != 1 or assignments.shape != labels.shape or len(labels) == 0:
        raise ValueError(
            f"need one label per assignment, got {tuple(assignments.shape)} assignments, {tuple(labels.shape)} labels"
        )
    if assignments.is_floating_point() or labels.is_floating_point():
        raise TypeError(
            f"assignments and labels must be integers, got {assignments.dtype} and {labels.dtype}"
        )
    if min(assignments.min(), labels.min()) < 0:
        raise ValueError("assignments and labels must not be negative")
    size = 1 + int(max(assignments.max(), labels.max()))
    together = torch.bincount(assignments.long() * size + labels.long(), minlength=size**2).view(
        size, size
    )
    clusters, classes = linear_sum_assignment(together.numpy(), maximize=True)
    return together[clusters, classes].sum().item() / len(labels)


def _chain(sizes: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in zip(sizes, sizes[1:], strict=False):
        linear = nn.Linear(before, after)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return layers[:-1]


def _restoration_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    distorted, clean = batch
    return F.mse_loss(model(distorted).float(), clean)


def _autocast(device: torch.device) -> AbstractContextManager:
    return torch.autocast(device.type, torch.bfloat16, enabled=training.precision() == "bf16")


def _check_converging(q: Tensor, step: int, learning_rate: float) -> None:
    if not q.isfinite().all():
        raise ValueError(
            f"refinement diverged before step {step}; lower the learning rate from {learning_rate}"
        )


def _check(x: Tensor, num_clusters: int) -> None:
    if not x.is_floating_point():
        raise TypeError(f"samples must be floats, got {x.dtype}")
    if x.ndim != 2:
        raise ValueError(
            f"samples must have the shape (N, D), got {tuple(x.shape)}; flatten(1) makes it of images"
        )
    if not 1 <= num_clusters <= len(x):
        raise ValueError(f"cannot make {num_clusters} clusters of {len(x)} samples")
    bad = (~x.isfinite().all(1)).sum().item()
    if bad:
        raise ValueError(f"{bad} of {len(x)} samples are not finite")
