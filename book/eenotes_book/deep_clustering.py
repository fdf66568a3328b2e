r"""Deep embedded clustering (DEC: Xie, Girshick and Farhadi, 2016): classes found without labels.

An encoder learns a short code of each sample: first as half of a denoising autoencoder, then by
sharpening its own soft clusters.  The clusters play the role of labels: their class means at the
encoder's earlier layers make early exits (`eenotes.methods.e2cm`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from eenotes import training

# how far `_distort` moves an affine map: zoom, slant, shift across; slant, zoom, shift along
_REACH = ((2 / 3, 2.0, 1.0), (4 / 3, 2 / 3, 1.0))
_LOWER = "lower the recipe's refine_rate"


@dataclass(frozen=True)
class Recipe:
    """How a clustering is trained.

    Raises:
        ValueError: if there are no steps, or none from target to target.
    """

    epochs: int  #: of pre-training
    steps: int  #: of refinement, at most
    widths: Sequence[int] = (500, 500, 2000, 10)  #: of the encoder's layers; the last: the code's
    batch_size: int = 256  #: in pre-training and in refinement
    learning_rate: float = 3e-3  #: the peak of pre-training
    refine_rate: float = 1e-3  #: of refinement, constant
    update_interval: int = 100  #: steps from one target distribution to the next
    tolerance: float = 1e-3  #: the end: no larger share changed cluster between two targets
    distortion: float = 0.0  #: how far square images are bent, see `fit`; 0: not at all

    def __post_init__(self):
        if self.update_interval < 1 or self.steps < 1:
            raise ValueError(
                "need at least one step, and one from target to target, got "
                f"steps={self.steps}, update_interval={self.update_interval}"
            )


@dataclass(frozen=True)
class Clustering:
    """What `fit` found."""

    encoder: nn.Sequential  #: from samples ``(B, D)`` to codes ``(B, C)``, in evaluation mode
    centroids: Tensor  #: ``(K, C)``
    assignments: Tensor  #: ``(N,)`` int64, the nearest centroid of each sample's code
    changed: tuple[float, ...]  #: the share that changed cluster from one target to the next


def fit(x: Tensor, recipe: Recipe, *, num_clusters: int, seed: int = 0) -> Clustering:
    r"""Pre-train an autoencoder, run k-means on its codes, refine encoder and centroids together.

    Pre-training restores samples of which a fifth of the pixels is blanked.  It trains all layers
    at once: with Adam the greedy training of the paper, layer by layer, is not needed.

    Refinement minimises $\mathrm{KL}(P \Vert Q)$.  $Q$ is `soft_assignment`, $P$ is its
    `target_distribution`, brought up to date every ``update_interval`` steps.

    With a ``distortion`` both train on bent images (Guo et al., 2018), and $P$ on the images as
    they are.  An image is shifted by up to ``distortion`` of half its side, zoomed by two thirds of
    that, and slanted, the way handwriting leans, by up to twice that sideways and 4/3 of it
    upwards.  At 0.3: 4 of 28 pixels, a fifth, and 31 and 22 degrees.

    Args:
        x: ``(N, D)``, float, on the device to train on; D = side² for images to distort.
        recipe: of both trainings.
        num_clusters: K.
        seed: of everything that is drawn; the generators outside stay as they were.

    Raises:
        TypeError: the samples are not floats.
        ValueError: ``x`` is not ``(N, D)`` or not finite, there are fewer samples than clusters,
            images to distort are not square, or the refinement diverges.
    """
    _check(x, num_clusters)
    encoder = _pretrained(x, recipe, seed=seed)
    centroids = _first_centroids(_codes(encoder, x), num_clusters=num_clusters, seed=seed)
    return _refined(encoder, centroids, x, recipe, seed=seed)


def autoencoder(
    num_inputs: int, widths: Sequence[int], *, seed: int = 0
) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder, mirror images of each other: linear layers with ReLUs between them.

    The encoder's children are named ``"0"`` (it evens out shift and scale of each sample), ``"1"``
    (linear), ``"2"`` (ReLU), ...; every even name but the first is a ReLU, where `eenotes.split`
    can cut.

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
        raise ValueError(f"every layer needs at least one unit, got {num_inputs} and {widths}")
    sizes = [num_inputs, *widths]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(_UnitPower(), *_chain(sizes)), nn.Sequential(*_chain(sizes[::-1]))


def soft_assignment(codes: Tensor, centroids: Tensor) -> Tensor:
    r"""Student's t with one degree of freedom (eq. 1 of the paper).

    $q_{ik} \propto (1 + \lVert z_i - c_k\rVert^2)^{-1}$: codes ``(N, C)`` and centroids ``(K, C)``
    → ``(N, K)``; rows sum to 1.

    Raises:
        ValueError: shapes that do not match.
    """
    if codes.ndim != 2 or centroids.ndim != 2 or codes.shape[1] != centroids.shape[1]:
        raise ValueError(
            "codes (N, C) and centroids (K, C) do not match: "
            f"{tuple(codes.shape)} and {tuple(centroids.shape)}"
        )
    q = 1 / (1 + (codes.float()[:, None] - centroids).square().sum(2))
    return q / q.sum(1, keepdim=True)


def target_distribution(q: Tensor) -> Tensor:
    r"""The sharpened assignments (2.8), ``(N, K)``; rows sum to 1.

    $\hat q_{ik} \propto q_{ik}^2 / \sum_i q_{ik}$ (eq. 3 of the paper).  The square trusts the
    confident samples; the division keeps large clusters from swallowing small ones.
    """
    p = q.square() / q.sum(0)
    return p / p.sum(1, keepdim=True)


def clustering_accuracy(assignments: Tensor, labels: Tensor) -> float:
    """The share of samples in the right cluster, for the best matching of clusters and classes.

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
            f"need one label per assignment, got {tuple(assignments.shape)} assignments, "
            f"{tuple(labels.shape)} labels"
        )
    if any(v.is_floating_point() or v.dtype == torch.bool for v in (assignments, labels)):
        raise TypeError("assignments and labels must be whole numbers")
    if min(assignments.min(), labels.min()) < 0:
        raise ValueError("assignments and labels must not be negative")
    size = 1 + int(max(assignments.max(), labels.max()))
    pairs = torch.bincount(assignments.long() * size + labels.long(), minlength=size**2)
    pairs = pairs.view(size, size)
    clusters, classes = linear_sum_assignment(pairs.numpy(), maximize=True)
    return pairs[clusters, classes].sum().item() / len(labels)


class _UnitPower(nn.Module):
    r"""Shift each sample's minimum to 0 and scale its mean square to 1, as DEC's authors do.

    ``(B, D)`` → ``(B, D)`` with $\frac1D\lVert x\rVert^2 = 1$.  Whatever shift and scale a sample
    came with, the result is the same; a constant one becomes all zeros.  Without it k-means tells
    much ink from little ink: it splits the zeros and merges the fours with the nines.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.amin(1, keepdim=True)
        return x / x.square().mean(1, keepdim=True).sqrt().clamp_min(1e-6)


def _pretrained(x: Tensor, recipe: Recipe, *, seed: int) -> nn.Sequential:
    """The encoder of an autoencoder that learned to restore samples."""
    encoder, decoder = autoencoder(x.shape[1], recipe.widths, seed=seed)
    clean = _UnitPower()(x)
    training.fit(
        nn.Sequential(nn.Dropout(0.2), encoder, decoder),
        TensorDataset(clean, clean),
        loss=_restoration_loss,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        optimizer=partial(torch.optim.Adam, lr=recipe.learning_rate, betas=(0.9, 0.99), fused=True),
        augment=partial(_distort, amount=recipe.distortion) if recipe.distortion else None,
        seed=seed,
        title="autoencoder",
    )
    return encoder.to(x.device).eval()


def _first_centroids(codes: Tensor, *, num_clusters: int, seed: int) -> Tensor:
    """The centroids, ``(K, C)``, of k-means on codes ``(N, C)``: the best of ten runs."""
    from sklearn.cluster import KMeans

    found = KMeans(num_clusters, n_init=10, random_state=seed).fit(codes.cpu().numpy())
    return torch.as_tensor(found.cluster_centers_, dtype=torch.float32, device=codes.device)


def _refined(
    encoder: nn.Sequential, centroids: Tensor, x: Tensor, recipe: Recipe, *, seed: int
) -> Clustering:
    """Move codes and centroids so that the soft clusters become sharper."""
    centroids = nn.Parameter(centroids)
    optimizer = torch.optim.Adam([*encoder.parameters(), centroids], recipe.refine_rate, fused=True)
    generator = torch.Generator(x.device).manual_seed(seed)
    half = torch.autocast(x.device.type, torch.bfloat16, enabled=training.precision() == "bf16")
    clean, assignments, changed = _UnitPower()(x), None, []
    for step in training.progress_bar(range(recipe.steps), "refinement"):
        if step % recipe.update_interval == 0:
            with torch.no_grad(), half:
                q = soft_assignment(_codes(encoder, clean), centroids)
            if not q.isfinite().all():
                raise ValueError(f"refinement diverged before step {step}: {_LOWER}")
            target, previous, assignments = target_distribution(q), assignments, q.argmax(1)
            if previous is not None:
                changed.append((assignments != previous).float().mean().item())
                if changed[-1] <= recipe.tolerance:
                    break
        rows = torch.randint(len(x), (recipe.batch_size,), generator=generator, device=x.device)
        batch = clean[rows]
        if recipe.distortion:
            batch = _distort(batch, generator, amount=recipe.distortion)
        with half:
            codes = encoder(batch)
        q = soft_assignment(codes.float(), centroids)
        F.kl_div(q.log(), target[rows], reduction="batchmean").backward()
        optimizer.step()
        optimizer.zero_grad()
    q = soft_assignment(_codes(encoder, x), centroids.detach())
    if not q.isfinite().all():
        raise ValueError(f"refinement diverged before step {recipe.steps}: {_LOWER}")
    return Clustering(encoder, centroids.detach(), q.argmax(1), tuple(changed))


@torch.no_grad()
def _codes(encoder: nn.Sequential, x: Tensor) -> Tensor:
    """Codes ``(N, C)``, float32, of samples ``(N, D)``."""
    return torch.cat([encoder(part).float() for part in x.split(4096)])


def _distort(x: Tensor, generator: torch.Generator, *, amount: float) -> Tensor:
    """A random affine map of each square image ``(B, D)``; outside of the image all is 0."""
    side = isqrt(x.shape[1])
    if side**2 != x.shape[1] or not 0 <= amount < 1:
        raise ValueError(
            f"need square images and an amount in [0, 1), got {x.shape[1]} pixels and {amount}"
        )
    noise = 2 * torch.rand(len(x), 2, 3, generator=generator, device=x.device) - 1
    maps = torch.eye(2, 3, device=x.device) + amount * noise * noise.new_tensor(_REACH)
    grid = F.affine_grid(maps, [len(x), 1, side, side], align_corners=False)
    return F.grid_sample(x.view(-1, 1, side, side), grid, align_corners=False).flatten(1)


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


def _check(x: Tensor, num_clusters: int) -> None:
    if not x.is_floating_point():
        raise TypeError(f"samples must be floats, got {x.dtype}")
    if x.ndim != 2:
        raise ValueError(f"samples must be (N, D), got {tuple(x.shape)}: flatten(1) images")
    if not 1 <= num_clusters <= len(x):
        raise ValueError(f"cannot make {num_clusters} clusters of {len(x)} samples")
    if bad := (~x.isfinite().all(1)).sum().item():
        raise ValueError(f"{bad} of {len(x)} samples are not finite")
