"""The AWGN channel of chapter 6, against hand-computed numbers and against theory."""

import math

import pytest
import torch

from eenotes.gaussian import map_detector
from eenotes_book.ch06_language.channel import awgn, detect, minimum_distance, q, union_bound


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


def within_monte_carlo(rate, expected, count=200_000, sigmas=4):
    return abs(rate - expected) < sigmas * math.sqrt(expected * (1 - expected) / count)


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


# --- bad input


def test_sending_nothing():
    assert awgn(torch.eye(3), torch.zeros(0, dtype=torch.int64), n0=1.0).shape == (0, 3)


@pytest.mark.parametrize("n0", [0.0, -1.0, math.nan, math.inf])
def test_noise_has_to_be_positive(n0):
    for call in (
        lambda: awgn(torch.eye(2), torch.tensor([0]), n0=n0),
        lambda: union_bound(torch.eye(2), n0=n0),
    ):
        with pytest.raises(ValueError, match=r"n0=.* must be in \(0, inf\)"):
            call()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: awgn(torch.tensor([[math.nan]]), torch.tensor([0]), n0=1.0), "finite matrix"),
        (lambda: awgn(torch.eye(2), torch.tensor([2]), n0=1.0), r"whole numbers in 0\.\.1"),
        (lambda: awgn(torch.eye(2), torch.tensor([True]), n0=1.0), r"whole numbers in 0\.\.1"),
        (lambda: union_bound(torch.zeros(2, 2), n0=1.0), "different places"),
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
