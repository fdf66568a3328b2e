"""Chapter 2's study: claims from numbers by hand, separability by hand."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot
from torch.utils.data import TensorDataset

from eenotes.costs import Costs
from eenotes.methods import e2cm
from eenotes.rules import Confidence
from eenotes.thresholds import evaluate
from eenotes_book import records
from eenotes_book.ch02_e2cm import at_costs, claims, thesis_costs
from eenotes_book.ch02_e2cm.separability import separability
from eenotes_book.data.recorded import Recorded


def clustered(seed):
    rows = [{"budget": 0.5, "accuracy": 0.6, "relative_cost": 0.4}]
    return {"accuracy": 0.6 + 0.001 * seed, "points": [*rows, {**rows[0], "budget": 0.9}]}


def published(of, over, at, difference):
    """A lead that wobbles by a tenth of a point between the tenths of the images."""
    tenths = [difference + 0.001 * (-1) ** i for i in range(10)]
    return {"of": of, "over": over, "at": at, "tenths": tenths}


@pytest.mark.parametrize(
    ("backbone", "words"), [(0.93, ("holds", "fails", "fails")), (0.9, ("not testable here",) * 3)]
)
def test_claims_on_published_networks_are_judged_over_tenths_of_the_images(backbone, words):
    leads = [
        published(at_costs.WHITENED, "SDN, one epoch", None, 0.03),
        published("E²CM", "SDN, one epoch", None, -0.02),
        published("E²CM", at_costs.BACKBONE, 0.36, -0.3),
    ]
    record = records.Record("02-e2cm", data={}, seeds=[0])
    claims.claim_all(record, {"published": {"resnet56": {"backbone": backbone, "leads": leads}}})
    assert tuple(row["verdict"] for row in record.claims) == words
    assert all("tenths of the test images" in row["statement"] for row in record.claims)


def trained(seed, accuracy, last=0.93):
    """A run that keeps three budgets, the last of which is not of the comparison."""
    rows = [{"budget": b, "accuracy": accuracy + 0.001 * seed} for b in (0.3, 0.5, 0.9)]
    rows[2]["accuracy"] = 0.0
    return {"seed": seed, "exits": [0.5, last], "points": rows}


def test_trained_exits_are_judged_over_seeds_that_both_have():
    runs = {
        "whitened": [trained(seed, 0.8) for seed in range(6)],
        "sdn1": [trained(seed, 0.75 - 0.01 * seed) for seed in range(5)],
        "sdn": [trained(0, 0.79)],
        "branchynet1": [],
    }
    record = records.Record("02-e2cm", data={}, seeds=[0])
    claims.claim_all(record, {"trained": {"resnet56": runs}})
    first, second = record.claims
    assert (first["verdict"], first["n"], first["ours"]) == ("holds", 5, pytest.approx(0.07))
    assert (second["verdict"], second["ours"]) == ("one run", pytest.approx(0.01))
    assert "E²CM, whitened is not behind SDN;" in second["statement"]


@pytest.mark.parametrize(("count", "word"), [(5, "holds"), (1, "one run")])
def test_clusterings_are_judged_over_seeds(count, word):
    numbers = {"clustering": {"digits": [clustered(seed) for seed in range(count)]}}
    record = records.Record("02-e2cm", data={}, seeds=list(range(count)))
    claims.claim_all(record, numbers)
    (row,) = (row for row in record.claims if "40 % less computation" in row["statement"])
    assert row["verdict"] == word


def two_halves(J=3, N=400, K=4):
    """A recorded run whose exits grow better."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(K, (N,), generator=generator)
    noise = torch.randn(J, N, K, generator=generator)
    logits = noise + torch.tensor([1.0, 2.0, 4.0])[:, None, None] * one_hot(labels, K)
    return Recorded(logits, labels, Costs((1, 10, 10), (0, 1)), Confidence(1.0), {"method": "x"})


def test_every_image_is_reported_with_the_thresholds_of_the_other_half():
    run = two_halves()
    found = at_costs.report(run)
    first, second = slice(0, 200), slice(200, 400)
    for part, thresholds in zip((second, first), found.thresholds, strict=True):
        for i, vector in enumerate(thresholds):
            given = (run.logits[:, part], run.labels[part])
            numbers = evaluate(*given, Confidence(vector), run.costs)
            assert found.right[i, part].mean() == pytest.approx(numbers["accuracy"])
            assert found.cost[i, part].mean() == pytest.approx(numbers["relative_cost"])


def test_the_likeliest_noise_is_that_of_the_data():
    """Noise of variance 1/2 = N₀/2 in each direction: N₀ = 1."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (4000,), generator=generator)
    means = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    x = means[labels] + 0.5**0.5 * torch.randn(4000, 2, generator=generator)
    run = Recorded(-torch.cdist(x, means)[None].repeat(2, 1, 1), labels, None, None, {})
    (noise,) = at_costs.posterior_rule(run).noise
    assert noise == pytest.approx(1, rel=0.1)


def test_the_thesis_counts_a_convolution_of_three_by_three_too_dear():
    assert [thesis_costs.operations(k) for k in (1, 3)] == [1, 89]
    table = thesis_costs.shares("ResNet-152")
    assert len(table) == 51 and table.macs.is_monotonic_increasing
    assert (table.thesis >= table.macs).all() and table.macs.iloc[-1] > 0.999


def test_separability_by_hand():
    """Classes at 0 ± 1 and 10 ± 1: δ = 10, σ = 1; the classifier doubles everything."""
    x = torch.tensor([[-1.0], [1.0], [9.0], [11.0]])
    y = torch.tensor([0, 0, 1, 1])
    double = nn.Linear(1, 2, bias=False).eval()
    double.weight.data = torch.tensor([[2.0], [0.0]])

    bench = SimpleNamespace(
        class_means=e2cm.fit([nn.Identity().eval(), double], [(x, y)], num_classes=2),
        backbone=SimpleNamespace(exit_points=["stem"]),
        data=SimpleNamespace(train=TensorDataset(x, y), classes=["a", "b"]),
    )
    expected = pd.DataFrame({"stem": [10 / 11] * 2, "classifier": [10 / 11] * 2}, index=["a", "b"])
    pd.testing.assert_frame_equal(separability(bench), expected, rtol=1e-4)
