"""Exact tests of a risk, against sums over all that can be drawn."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from eenotes.risk_tests import p_values

levels = st.floats(0.02, 0.6)
sizes = st.integers(2, 25)


def everything(N):
    """All counts of losses of -1, 0 and 1 among N: ``(M, 3)``."""
    return torch.tensor([[a, N - a - b, b] for a in range(N + 1) for b in range(N + 1 - a)])


def by_adding(minus, plus, N):
    """The distribution of the sum of N independent losses, ``(2N + 1,)``, from -N on."""
    found = np.ones(1)
    for _ in range(N):
        found = np.convolve(found, [minus, 1 - minus - plus, plus])
    return found


def is_valid(p, chances):
    """P(p ≤ δ) ≤ δ for every δ."""
    order = p.argsort()
    return (chances[order].cumsum() <= p[order] + 1e-9).all()


def test_losses_of_0_and_1_have_the_tail_of_clopper_and_pearson():
    for risk in ("disagreement", "error"):
        (p,) = p_values(torch.tensor([[0, 480, 20]]), risk=risk, level=0.06)
        assert p.item() == pytest.approx(stats.binom.cdf(20, 500, 0.06))
    bound = stats.beta.ppf(0.9, 21, 480)
    (p,) = p_values(torch.tensor([[0, 480, 20]]), risk="error", level=bound)
    assert p.item() == pytest.approx(0.1)


@given(N=sizes, level=levels, share=st.floats(0, 1))
def test_losses_of_0_and_1_are_valid_and_exact(N, level, share):
    counts = torch.tensor([[0, N - n, n] for n in range(N + 1)])
    p = p_values(counts, risk="error", level=level).numpy()
    worse = level + share * (1 - level)
    assert is_valid(p, stats.binom.pmf(range(N + 1), N, worse))
    at_level = stats.binom.pmf(range(N + 1), N, level)
    assert at_level.cumsum() == pytest.approx(p)


@given(N=sizes, level=levels, more=st.floats(0, 1), noise=st.floats(0, 1))
def test_three_losses_are_valid_whatever_their_shares(N, level, more, noise):
    risk = level + more * (1 - level)
    minus = noise * (1 - risk) / 2
    counts = everything(N)
    p = p_values(counts, risk="lost accuracy", level=level).numpy()
    shares = [minus, max(1 - risk - 2 * minus, 0), minus + risk]
    assert is_valid(p, stats.multinomial.pmf(counts.numpy(), N, shares))


@pytest.mark.parametrize("q", [0.05, 0.2])
def test_three_losses_are_valid_and_not_far_from_exact(q):
    """With 1,000 samples a promise at .1 is made wrongly in .05 to .1 of all draws."""
    N, level, delta = 1000, 0.03, 0.1
    generator = np.random.default_rng(0)
    shares = [(q - level) / 2, 1 - q, (q + level) / 2]
    counts = torch.from_numpy(generator.multinomial(N, shares, size=2000))
    p = p_values(counts, risk="lost accuracy", level=level)
    assert 0.05 < (p <= delta).double().mean() < delta + 2 * (0.09 / 2000) ** 0.5


@given(minus=st.integers(0, 12), plus=st.integers(0, 12), level=levels)
def test_the_tail_of_three_losses_is_that_of_the_sum(minus, plus, level):
    N = 80
    counts = torch.tensor([[minus, N - minus - plus, plus]])
    p = p_values(counts, risk="lost accuracy", level=level).item()
    q = stats.beta.ppf(0.999, minus + plus + 1, N - minus - plus)
    assume(level <= q <= (1 + level**2) / 2 and plus - minus + 1 <= (N - 1) * level)
    for noise in (1.0, 0.8, 0.3):  # the largest share of losses that are not 0 is the worst
        other = max(noise * q, level)
        tail = by_adding((other - level) / 2, (other + level) / 2, N)[: N + plus - minus + 1].sum()
        assert tail + 0.001 <= p + 1e-12
        if noise == 1:
            assert tail + 0.001 == pytest.approx(p, rel=1e-9)


@given(minus=st.integers(0, 40), plus=st.integers(0, 40), level=st.floats(0.005, 0.2))
def test_more_losses_and_a_lower_level_never_help(minus, plus, level):
    def p(minus, plus, level):
        counts = torch.tensor([[minus, 600 - minus - plus, plus]])
        return p_values(counts, risk="lost accuracy", level=level).item() - 1e-12

    assert p(minus, plus, level) <= p(minus, plus + 1, level) + 1e-9
    assert p(minus + 1, plus, level) <= p(minus, plus, level) + 1e-9
    assert p(minus, plus, 1.3 * level) <= p(minus, plus, level) + 1e-9


def test_three_losses_see_that_nothing_is_lost():
    counts = torch.tensor([[100, 4790, 110], [100, 4750, 150]])
    p = p_values(counts, risk="lost accuracy", level=0.01)
    assert p[0] < 0.02 and p[1] > 0.4


def test_what_cannot_be_tested_is_refused():
    counts = torch.tensor([[1, 8, 1]])
    with pytest.raises(ValueError, match="losses of -1 are not possible for the risk 'error'"):
        p_values(counts, risk="error", level=0.1)
    with pytest.raises(ValueError, match="risk='loss' must be 'disagreement', 'error' or"):
        p_values(counts, risk="loss", level=0.1)
