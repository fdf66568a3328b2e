r"""The race at epoch 0: many class-mean heads from one product of features and class means.

Every head is a log posterior $\ln P_v + \frac1f\,\ell_v(r)$ with a log likelihood ℓ and a factor f
on N₀, so that one product $r \cdot A(M_v - c)$ serves all factors and all kinds of `KINDS`.  Tokens
without statistics get the copied head's weight, as in `eenotes.language.initialisation`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from eenotes.language.initialisation import ALPHAS
from eenotes.language.token_statistics import Statistics

FACTORS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # times the plug-in N₀
KINDS = {
    "identity": ("plain", "corrected", "shrunken", "predictive"),
    "whitened": ("plain", "shrunken"),
}
_MIXED = (8.0, 16.0, 32.0)  # factors of the mixtures
_POSITIONS = 128  # at once: each has V logits
_SHRINKAGE = 1e-4

Head = tuple[str, str, float, float]  # metric, kind, factor, α


def class_mean(metric: str, kind: str = "plain", factor: float = 1.0) -> Head:
    """The name of a head of class means alone."""
    return metric, kind, factor, 1.0


def candidates() -> list[Head]:
    """What is chosen from on validation text."""
    alone = [
        class_mean(metric, kind, factor)
        for metric, kinds in KINDS.items()
        for kind, factor in product(kinds, FACTORS)
        if kind != "corrected"  # it only shows what a norm alone does
    ]
    return alone + [("identity", "plain", *of) for of in product(_MIXED, ALPHAS)]


@dataclass(frozen=True)
class Metric:
    r"""What a metric A makes of class statistics: all that the heads need, for V' seen tokens.

    With the prior $M_v \sim N(c, \tau^2 A^{-1})$ the mean of a token's estimated mean is shrunk by
    $w_v = n_v / (n_v + \kappa)$, $\kappa = \sigma^2 / \tau^2$ (6.20), and the variance of what is
    predicted is $\sigma^2 s_v$ with $s_v = 1 + 1 / (n_v + \kappa)$ (6.21).
    """

    weight: Tensor  #: ``(V', D)``, $A (M_v - c)$
    centre: Tensor  #: ``(D,)``, c: the mean of all features
    matrix: Tensor | None  #: ``(D, D)``, A; ``None``: the identity
    slopes: dict[str, Tensor]  #: of every kind, ``(V',)``: what the product is multiplied by
    offsets: dict[str, Tensor]  #: the same: what is added
    surprise: Tensor  #: ``(V',)``, $1 - 1/s_v$: the part of a distance that tells nothing
    n0: float  #: plug-in
    kappa: float

    @classmethod
    def of(cls, found: Statistics, *, whiten: bool) -> "Metric":
        """The metric of white noise, or of noise with the covariance within the classes."""
        seen, n0, D = found.seen, found.plug_in_n0(), found.class_means.shape[1]
        counts, means = found.counts[seen].double(), found.class_means[seen].double()
        centre = counts @ means / counts.sum()
        matrix = None
        if whiten:
            matrix = torch.linalg.inv(found.noise_covariance(2.0, shrinkage=_SHRINKAGE))
        weight = means - centre if matrix is None else (means - centre) @ matrix
        spread = (weight * (means - centre)).sum(1)
        lifted = centre if matrix is None else matrix @ centre
        # Dτ² is what the squared distances have above Dσ²/n_v
        tau = (spread / D - n0 / 2 / counts).mean().clamp_min(1e-9)
        kappa = float(n0 / 2 / tau)
        shrink, widen = counts / (counts + kappa), 1 + 1 / (counts + kappa)
        cross, square = weight @ centre, centre @ lifted
        norms = spread + 2 * cross + square
        shrunken = shrink.square() * spread + 2 * shrink * cross + square
        one = torch.ones_like(counts)
        slopes = {"plain": one, "corrected": one, "shrunken": shrink, "predictive": shrink / widen}
        away = 2 * shrink * cross + shrink.square() * spread  # of r - c from the shrunken mean
        offsets = {
            "plain": -norms / n0,
            "corrected": (D * n0 / 2 / counts - norms) / n0,
            "shrunken": -shrunken / n0,
            "predictive": -away / widen / n0 - D / 2 * widen.log(),
        }
        return cls(
            weight.float(),
            centre.float(),
            None if matrix is None else matrix.float(),
            {kind: (2 / n0 * slope).float() for kind, slope in slopes.items()},
            {kind: offset.float() for kind, offset in offsets.items()},
            (1 - 1 / widen).float(),
            n0,
            kappa,
        )

    def log_likelihoods(self, x: Tensor, kinds: Iterable[str]) -> dict[str, tuple[Tensor, Tensor]]:
        """ℓ ``(N, V')`` of every kind, up to the second part ``(N,)`` that is added to a row."""
        dots, lifted = x @ self.weight.T, x if self.matrix is None else x @ self.matrix
        common = 2 / self.n0 * (lifted @ self.centre)
        found = {}
        for kind in kinds:
            values, row = torch.addcmul(self.offsets[kind], dots, self.slopes[kind]), common
            if kind == "predictive":
                # ‖r - c‖² in this metric, of which a token with few positions sees only a part
                off = x - self.centre
                away = off if self.matrix is None else off @ self.matrix
                distance = (off * away).sum(1) / self.n0
                values.addr_(distance, self.surprise)
                row = ((x * lifted).sum(1) / self.n0) - distance
            found[kind] = values, row
        return found


class Racer:
    """The heads that follow from one set of statistics, and where each is right."""

    def __init__(self, found: Statistics):
        seen = found.seen.cpu()
        self.seen, self.index = seen, seen.nonzero().flatten()
        self.column = torch.full((len(seen),), -1).masked_scatter(seen, torch.arange(len(self)))
        self.log_prior = found.prior.log()[seen].float()
        self.floor = float(found.prior[~seen].log()[:1].sum()) if not seen.all() else 0.0
        self.unseen = torch.zeros(len(seen)).masked_fill(seen, -torch.inf)
        self.metrics = {
            name: Metric.of(found, whiten=name == "whitened") for name in ("identity", "whitened")
        }
        self.tokens = int(found.counts.sum())

    def __len__(self) -> int:
        return len(self.index)

    def right(
        self, x: Tensor, labels: Tensor, copied: Tensor, heads: Sequence[Head]
    ) -> dict[Head, Tensor]:
        """Where each head names the label, ``(N,)``; ``copied (N, V)`` are the copied logits."""
        rest = (copied + self.unseen).amax(1)  # the best of the tokens without statistics
        label = copied.gather(1, labels[:, None]).squeeze(1)
        column, known = self.column[labels].clamp_min(0)[:, None], self.column[labels] >= 0
        found, copies = {}, None
        for name, metric in self.metrics.items():
            mine = [head for head in heads if head[0] == name]
            likelihoods = metric.log_likelihoods(x, {head[1] for head in mine})
            for head in mine:
                _, kind, factor, alpha = head
                values, row = likelihoods[kind]
                logits = torch.add(self.log_prior, values, alpha=1 / factor)
                row, other, own = row / factor, rest + self.floor, label + self.floor
                if alpha < 1:  # α N₀/2 times the log posterior plus 1 - α times the copy
                    copies = copied[:, self.index] if copies is None else copies
                    share = alpha * factor * metric.n0 / 2 / (1 - alpha)
                    logits = torch.add(copies, logits, alpha=share)
                    row = share * row
                    other = (1 + share) * rest + share * self.floor
                    own = (1 + share) * label + share * self.floor
                best = torch.maximum(logits.amax(1) + row, other)
                mark = torch.where(known, logits.gather(1, column).squeeze(1) + row, own)
                found[head] = mark >= best
        return found


@torch.no_grad()
def count_right(
    features: Tensor,
    labels: Tensor,
    groups: Tensor,
    *,
    copied_weight: Tensor,
    racers: dict[str, tuple["Racer", Sequence[Head]]],
) -> dict[str, dict[Head | str, Tensor]]:
    """How many labels of each group the copied head and the heads of every racer name.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)``.
        groups: ``(N, G)``, which groups of positions a position belongs to.
        copied_weight: ``(V, D)``; the copied head has no bias.
        racers: name → the statistics and which of their heads are counted.

    Returns:
        For ``"copy"`` and every racer: head → ``(G,)`` int64.
    """
    found: dict = {name: {} for name in ("copy", *racers)}
    parts = (part.split(_POSITIONS) for part in (features, labels, groups))
    for x, y, group in zip(*parts, strict=True):
        copied = x @ copied_weight.T
        right = {"copy": {"copy": copied.gather(1, y[:, None])[:, 0] >= copied.amax(1)}}
        for name, (racer, heads) in racers.items():
            right[name] = racer.right(x, y, copied, heads)
        for name, of_heads in right.items():
            for head, marks in of_heads.items():
                count = (marks[:, None] & group).sum(0)
                found[name][head] = found[name].get(head, 0) + count
    return found
