"""The AWGN channel and its MAP detector, against hand-computed numbers and against theory."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eenotes.exits import ClassMeanExit
from eenotes.gaussian import (
    awgn,
    detect,
    linear_discriminant,
    map_detector,
    minimum_distance,
    q,
    union_bound,
)


def send(signals, *, n0, count, prior=None, seed=0):
    """(messages, received) of many transmissions."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.ones(len(signals)) if prior is None else prior
    messages = torch.multinomial(weights, count, replacement=True, generator=generator)
    return messages, awgn(signals, messages, n0=n0, generator=generator)


def error_rate(signals, *, n0, count=200_000, prior=None, assumed=None, seed=0):
    messages, received = send(signals, n0=n0, count=count, prior=prior, seed=seed)
    detector = map_detector(signals, n0=n0, prior=prior if assumed is None else assumed)
    return (detect(received, *detector) != messages).double().mean().item()


def log_density(received, signals, *, n0):
    """ln p(r | s_m), (6.4): ``(N, D)`` and ``(M, D)`` → ``(N, M)``."""
    normal = torch.distributions.Normal(signals, math.sqrt(n0 / 2))
    return normal.log_prob(received[:, None]).sum(-1)


def random_prior(count, generator):
    prior = torch.rand(count, generator=generator, dtype=torch.float64) + 0.01
    return prior / prior.sum()


def within_monte_carlo(rate, expected, count=200_000, sigmas=4):
    return abs(rate - expected) < sigmas * math.sqrt(expected * (1 - expected) / count)


# --- by hand


def test_weight_and_bias_by_hand():
    weight, bias = map_detector(
        torch.tensor([[3.0, 4.0], [1.0, 0.0]]), n0=2.0, prior=torch.tensor([0.25, 0.75])
    )
    assert torch.equal(weight, torch.tensor([[3.0, 4.0], [1.0, 0.0]]))
    torch.testing.assert_close(bias, torch.tensor([math.log(0.25) - 12.5, math.log(0.75) - 0.5]))


def test_the_weight_is_a_copy():
    signals = torch.eye(2)
    map_detector(signals, n0=1.0)[0].zero_()
    assert torch.equal(signals, torch.eye(2))


def test_q_by_hand():
    assert q(0.0).item() == 0.5
    assert q(1.6448536).item() == pytest.approx(0.05, abs=1e-7)
    assert q(-1.0).item() + q(1.0).item() == pytest.approx(1.0)


# --- theory


def test_noise_has_variance_n0_over_2_in_every_dimension():
    received = awgn(
        torch.zeros(1, 3),
        torch.zeros(100_000, dtype=torch.int64),
        n0=3.0,
        generator=torch.Generator().manual_seed(1),
    )
    torch.testing.assert_close(received.var(0), torch.full((3,), 1.5), rtol=0.03, atol=0)
    assert torch.corrcoef(received.T).fill_diagonal_(0).abs().max() < 0.02


@pytest.mark.parametrize("n0", [0.5, 1.0, 3.0])
def test_antipodal_signals_err_with_q_of_root_2e_over_n0(n0):
    energy = 1.0
    rate = error_rate(torch.tensor([[energy**0.5, 0.0], [-(energy**0.5), 0.0]]), n0=n0)
    assert within_monte_carlo(rate, q(math.sqrt(2 * energy / n0)).item())


def test_unequal_priors_err_less_and_as_the_pairwise_formula_says():
    signals, prior = torch.tensor([[1.0], [-1.0]]), torch.tensor([0.9, 0.1])
    n0 = 2 / 0.990356**2  # Q(√(2/N₀)) = .161
    rate = error_rate(signals, n0=n0, prior=prior)
    assert within_monte_carlo(rate, union_bound(signals, n0=n0, prior=prior))
    assert q(math.sqrt(2 / n0)).item() == pytest.approx(0.161, abs=1e-3)
    assert rate == pytest.approx(0.071, abs=2e-3)


@pytest.mark.parametrize("prior", [None, [0.4, 0.3, 0.2, 0.05, 0.05]])
def test_union_bound_holds_and_is_tight_at_high_energy(prior):
    angle = torch.arange(5) * 2 * math.pi / 5
    signals = torch.stack([angle.cos(), angle.sin()], 1)
    prior = None if prior is None else torch.tensor(prior)
    for n0, tight in [(2.0, False), (0.5, False), (0.15, True)]:
        bound, rate = (each(signals, n0=n0, prior=prior) for each in (union_bound, error_rate))
        assert rate <= bound + 4 * math.sqrt(rate / 200_000)
        assert not tight or rate > 0.8 * bound


def test_union_bound_of_two_signals_is_exact():
    assert union_bound(torch.tensor([[1.0], [-1.0]]), n0=1.0) == pytest.approx(
        q(math.sqrt(2)).item()
    )


def test_no_detector_beats_map():
    """A wrong prior, or a wrong scale of the prior's weight, costs errors."""
    torch.manual_seed(0)
    signals, prior = torch.randn(4, 2), torch.tensor([0.7, 0.1, 0.1, 0.1])
    messages, received = send(signals, n0=2.0, count=100_000, prior=prior)

    def rate(weight, bias):
        return (detect(received, weight, bias) != messages).double().mean().item()

    best = rate(*map_detector(signals, n0=2.0, prior=prior))
    others = [
        minimum_distance(signals),
        map_detector(signals, n0=0.2, prior=prior),
        map_detector(signals, n0=8.0, prior=prior),
    ]
    assert all(rate(*other) > best + 0.005 for other in others)


# --- properties


@given(
    st.integers(1, 6), st.integers(1, 5), st.floats(0.05, 20), st.booleans(), st.integers(0, 10_000)
)
def test_the_linear_form_decides_as_the_density_form(count, width, n0, equal, seed):
    generator = torch.Generator().manual_seed(seed)
    signals, received = (
        torch.randn(n, width, generator=generator, dtype=torch.float64) for n in (count, 30)
    )
    prior = torch.ones(count).double() / count if equal else random_prior(count, generator)
    by_density = (log_density(received, signals, n0=n0) + prior.log()).argmax(1)
    assert torch.equal(detect(received, *map_detector(signals, n0=n0, prior=prior)), by_density)


@given(st.integers(2, 6), st.floats(0.05, 20), st.integers(0, 10_000))
def test_scaled_logits_are_the_log_posterior(count, n0, seed):
    generator = torch.Generator().manual_seed(seed)
    signals, received = (
        torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (count, 10)
    )
    prior = random_prior(count, generator)
    weight, bias = map_detector(signals, n0=n0, prior=prior)
    joint = log_density(received, signals, n0=n0) + prior.log()
    torch.testing.assert_close(
        (2 / n0 * (received @ weight.T + bias)).log_softmax(1), joint.log_softmax(1)
    )


@given(st.integers(1, 8), st.integers(1, 6), st.integers(0, 10_000))
def test_e2cm_is_the_equal_prior_case(count, width, seed):
    """The class-mean exit of chapter 2 and the minimum-distance detector decide alike."""
    generator = torch.Generator().manual_seed(seed)
    signals, received = (torch.randn(n, width, generator=generator) for n in (count, 50))
    nearest = ClassMeanExit(signals)(received).argmax(1)
    assert torch.equal(detect(received, *minimum_distance(signals)), nearest)


@given(st.floats(0.05, 20), st.integers(0, 10_000))
def test_white_noise_makes_the_discriminant_the_map_detector(n0, seed):
    generator = torch.Generator().manual_seed(seed)
    signals = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    prior, white = random_prior(4, generator), 0.5 * n0 * torch.eye(3, dtype=torch.float64)
    expected = map_detector(signals, n0=n0, prior=prior)
    for found, each in zip(linear_discriminant(signals, white, prior=prior), expected, strict=True):
        torch.testing.assert_close(found, each * 2 / n0)


def test_the_discriminant_is_minimum_distance_after_whitening():
    torch.manual_seed(0)
    means, received = (torch.randn(n, 3, dtype=torch.float64) for n in (5, 40))
    root = torch.randn(3, 3, dtype=torch.float64)
    covariance = root @ root.T + 0.1 * torch.eye(3, dtype=torch.float64)
    whiten = torch.linalg.inv(torch.linalg.cholesky(covariance)).T
    nearest = torch.cdist(received @ whiten, means @ whiten).argmin(1)
    assert torch.equal(detect(received, *linear_discriminant(means, covariance)), nearest)


# --- degenerate, bad


def test_a_single_message_is_always_decided():
    assert detect(torch.randn(7, 2), *map_detector(torch.zeros(1, 2), n0=1.0)).tolist() == [0] * 7


def test_a_message_of_probability_zero_is_never_decided():
    weight, bias = map_detector(torch.eye(2), n0=1.0, prior=torch.tensor([1.0, 0.0]))
    assert detect(torch.tensor([[0.0, 9.0]]), weight, bias).tolist() == [0]


def test_sending_nothing():
    assert awgn(torch.eye(3), torch.zeros(0, dtype=torch.int64), n0=1.0).shape == (0, 3)


@pytest.mark.parametrize("n0", [0.0, -1.0, math.nan, math.inf])
def test_noise_has_to_be_positive(n0):
    for call in (
        lambda: map_detector(torch.eye(2), n0=n0),
        lambda: awgn(torch.eye(2), torch.tensor([0]), n0=n0),
        lambda: union_bound(torch.eye(2), n0=n0),
    ):
        with pytest.raises(ValueError, match="n0 must be a positive number"):
            call()


@pytest.mark.parametrize("prior", [[0.5, 0.6], [1.5, -0.5], [1.0]])
def test_a_prior_is_a_distribution(prior):
    with pytest.raises(ValueError, match="2 probabilities of sum 1"):
        map_detector(torch.eye(2), n0=1.0, prior=torch.tensor(prior))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: map_detector(torch.tensor([[math.nan]]), n0=1.0), "finite matrix"),
        (lambda: awgn(torch.eye(2), torch.tensor([2]), n0=1.0), r"whole numbers in 0\.\.1"),
        (lambda: awgn(torch.eye(2), torch.tensor([True]), n0=1.0), r"whole numbers in 0\.\.1"),
        (lambda: union_bound(torch.zeros(2, 2), n0=1.0), "different places"),
        (lambda: linear_discriminant(torch.eye(2), torch.zeros(2, 2)), "not positive definite"),
        (
            lambda: linear_discriminant(torch.eye(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])),
            "not symmetric",
        ),
        (lambda: linear_discriminant(torch.eye(2), torch.eye(3)), "must be 2 × 2"),
        *(
            (lambda bad=bad: detect(bad, torch.eye(2), torch.zeros(2)), r"\(N, 2\), without NaN")
            for bad in (torch.zeros(4, 1), torch.zeros(2), torch.full((1, 2), math.nan))
        ),
    ],
)
def test_other_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_messages_may_be_of_any_whole_type():
    sent = awgn(torch.eye(2), torch.tensor([1, 0, 1], dtype=torch.uint8), n0=1e-12)
    assert sent.round().tolist() == [[0, 1], [1, 0], [0, 1]]
