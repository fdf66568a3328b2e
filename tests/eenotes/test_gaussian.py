"""The MAP detector and the linear discriminant, by hand and against the density."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eenotes.exits import ClassMeanExit
from eenotes.gaussian import linear_discriminant, map_detector


def log_density(received, signals, *, n0):
    """ln p(r | s_m), (6.4): ``(N, D)`` and ``(M, D)`` → ``(N, M)``."""
    normal = torch.distributions.Normal(signals, math.sqrt(n0 / 2))
    return normal.log_prob(received[:, None]).sum(-1)


def detect(received, weight, bias):
    return (received @ weight.T + bias).argmax(1)


def random_prior(count, generator):
    prior = torch.rand(count, generator=generator, dtype=torch.float64) + 0.01
    return prior / prior.sum()


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


# --- properties


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
    assert torch.equal(detect(received, *map_detector(signals, n0=1.0)), nearest)


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


@pytest.mark.parametrize(
    ("call", "words"),
    [
        *[
            (lambda n0=n0: map_detector(torch.eye(2), n0=n0), r"n0=.* must be in \(0, inf\)")
            for n0 in (0.0, -1.0, math.nan, math.inf)
        ],
        *[
            (
                lambda p=p: map_detector(torch.eye(2), n0=1.0, prior=torch.tensor(p)),
                "2 probabilities of sum 1",
            )
            for p in ([0.5, 0.6], [1.5, -0.5], [1.0])
        ],
        (lambda: map_detector(torch.tensor([[math.nan]]), n0=1.0), "finite matrix"),
        (lambda: linear_discriminant(torch.eye(2), torch.zeros(2, 2)), "not positive definite"),
        (
            lambda: linear_discriminant(torch.eye(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])),
            "not symmetric",
        ),
        (lambda: linear_discriminant(torch.eye(2), torch.eye(3)), "must be 2 × 2"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
