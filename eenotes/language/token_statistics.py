r"""Class statistics of an exit's features, with the tokens as classes, from one pass over a text.

Class means $M_v$ (6.15), the prior $P_v$ (6.16) and the noise $\hat N_0$ (6.17) are all that
class-aware initialisation needs.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from eenotes._checks import require_eval, require_one_of
from eenotes.class_statistics import ClassMeans, ClassMoments, Moments
from eenotes.language.batches import Batch, align, read
from eenotes.language.exits import ExitModel
from eenotes.network import for_doubles

Target = Literal["next", "input"]


@dataclass(frozen=True)
class Statistics:
    """What one pass over a text gives, summed over the processes of ``torch.distributed``."""

    class_means: Tensor  #: ``(V, D)``; zeros for tokens that were never seen
    counts: Tensor  #: ``(V,)``: how often each token was the class of a position
    scatter: float  #: summed squared distance of all features from the mean of their class
    covariance: Tensor | None = None  #: ``(D, D)``, within the classes; its trace is scatter / n

    @property
    def seen(self) -> Tensor:
        """``(V,)``: whether a token occurred at all."""
        return self.counts > 0

    @property
    def prior(self) -> Tensor:
        r"""``(V,)``, in double precision, also for unseen tokens.

        $P_v = (n_v + \frac12) / (n + \frac12 V)$ (6.16).
        """
        counts = for_doubles(self.counts).double() + 0.5
        return counts / counts.sum()

    def plug_in_n0(self) -> float:
        r"""$\hat N_0 = 2\hat\sigma^2$ (6.17), with the variance within the classes per dimension.

        $\hat\sigma^2 = \bigl(\sum_i \lVert r_i\rVert^2 - \sum_v n_v \lVert M_v\rVert^2\bigr) /
        \bigl((n - V_{\text{seen}}) D\bigr)$.

        Raises:
            ValueError: no token occurs twice: there is no variance within a class then.
        """
        degrees = int(self.counts.sum() - self.seen.sum())
        if degrees < 1:
            raise ValueError("no token occurs twice: give more text to estimate the noise, or n0")
        return 2 * max(self.scatter / degrees, 1e-12) / self.class_means.shape[1]

    def shrunken(self) -> "Statistics":
        r"""These statistics with means shrunken towards the mean $c$ of all features (6.20).

        $c + \frac{n_v}{n_v + \kappa} (M_v - c)$ is what is expected of a token's true mean, given
        its estimate, if true means vary around $c$ by $\tau^2$ per dimension; $\kappa =
        \sigma^2/\tau^2$, and $\tau^2$ is what $\lVert M_v - c\rVert^2/D$ has above $\sigma^2/n_v$,
        by which an estimated mean is too long (6.19).

        Raises:
            ValueError: as `plug_in_n0`.
        """
        counts, means = self.counts.double()[:, None], self.class_means.double()
        centre, variance = (counts * means).sum(0) / counts.sum(), self.plug_in_n0() / 2
        seen, off = self.seen, means - centre
        between = (off[seen].square().mean(1) - variance / counts[seen, 0]).mean().clamp_min(0)
        shares = counts * between / (counts * between + variance)
        shrunken = torch.where(seen[:, None], centre + shares * off, 0.0)
        return replace(self, class_means=shrunken.to(self.class_means))

    def noise_covariance(self, n0: float, *, shrinkage: float) -> Tensor:
        r"""The covariance within the classes at the strength $N_0$, ``(D, D)``, in float64.

        $\frac{N_0}{2} \bigl(\Sigma / \overline{\sigma^2} + \frac{\lambda}{1-\lambda} I\bigr)$ with
        $\overline{\sigma^2}$ and λ as in `eenotes.class_statistics.Moments.shrunk`.

        Raises:
            ValueError: `statistics` did not estimate the covariance.
        """
        if self.covariance is None:
            raise ValueError("the covariance is missing: call statistics(..., covariance=True)")
        shrunk = Moments(self.class_means, self.counts, self.covariance).shrunk(shrinkage)
        return shrunk * (n0 / 2 / self.covariance.diagonal().mean() / (1 - shrinkage))


@torch.no_grad()
def statistics(
    model: ExitModel, batches: Iterable[Batch], *, target: Target = "next", covariance: bool = False
) -> Statistics:
    r"""Class means of the exit's features in one pass (6.15).

    $M_v = \frac{1}{|S_v|}\sum_{i \in S_v} r_i$ over the positions $S_v$ of class $v$, in batches
    ``(B, T)`` (see `eenotes.language.batches`) whose rows are texts of their own.  The class of a
    position is the ``"next"`` token, which the exit shall detect, or that of the ``"input"``.
    Memory: one V × D array; with ``covariance``, for a whitened head, in double precision and D × D
    more.

    Raises:
        ValueError: no text, unknown token numbers or ``target``, or a model in training mode.
    """
    require_one_of(get_args(Target), target=target)
    # dropout would be averaged into the class means
    require_eval(model.modules(), what="model", before="statistics")
    head = model.exit_head.linear
    device = head.weight.device
    sums = (ClassMoments if covariance else ClassMeans)(head.out_features)
    for batch in batches:
        ids, labels = read(batch, model.model, vocabulary=head.out_features)
        features = model.features(ids.to(device))
        features, labels = align(features, labels.to(device), target=target)
        if len(labels):
            sums.update(features, labels)
    if covariance:
        moments = sums.compute()
        scatter = float(moments.covariance.trace() * moments.counts.sum())
        means = moments.means.float().to(device)
        return Statistics(means, moments.counts.to(device), scatter, moments.covariance)
    found = sums.summed()
    means = found.sums / found.counts.clamp_min(1)[:, None]
    explained = (found.counts.double() * means.double().square().sum(1)).sum()
    scatter = float(found.squares - explained)
    return Statistics(means.to(device), found.counts.to(device), scatter)
