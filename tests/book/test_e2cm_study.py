"""Chapter 2's study: claims from numbers by hand, separability by hand."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from eenotes.methods import e2cm
from eenotes_book import records
from eenotes_book.ch02_e2cm import claims, experiment
from eenotes_book.ch02_e2cm.separability import separability


def points(*accuracies):
    cost = {"relative_cost": 0.5, "overhead": 0.1}
    return [
        {"budget": budget, "accuracy": accuracy, **cost}
        for budget, accuracy in zip((0.3, 0.6), accuracies, strict=False)
    ]


def compared(seed):
    """Whitened class means lead SDN by 3 points on average, E²CM trails it by 1."""
    wobble = 0.001 * seed
    own = points(0.83 + wobble, 0.93 + wobble)
    return {
        "seed": seed,
        "backbone": 0.9,
        "one epoch": {
            "E²CM": points(0.79, 0.89 + wobble),
            experiment.WHITENED: own,
            "SDN": points(0.80, 0.90 + wobble),
            "BranchyNet": points(0.80),  # keeps the small budget only
        },
        "unlimited": {
            "SDN": points(0.9, 0.9),
            "E²CM + SDN": points(0.9, 0.9),
            experiment.WHITENED: own,
        },
    }


def clustered(seed):
    rows = [{"budget": 0.5, "accuracy": 0.6, "relative_cost": 0.4}]
    return {"accuracy": 0.6 + 0.001 * seed, "points": [*rows, {**rows[0], "budget": 0.9}]}


@pytest.mark.parametrize(
    ("count", "ahead", "behind"), [(5, "holds", "fails"), (1, "one run", "one run")]
)
def test_claims_are_judged_by_leads_over_the_budgets(count, ahead, behind):
    numbers = {
        "comparison": {"digits": [compared(seed) for seed in range(count)]},
        "clustering": {"digits": [clustered(seed) for seed in range(count)]},
    }
    record = records.Record("02-e2cm", data={}, seeds=list(range(count)))
    claims.claim_all(record, numbers)

    def verdict(words):
        (row,) = (row for row in record.claims if words in row["statement"])
        return row["verdict"]

    assert verdict("whitened is ahead of SDN") == ahead
    assert verdict("one epoch: E²CM is ahead of SDN") == behind
    assert verdict("40 % less computation") == ahead
    assert verdict("E²CM keeps the backbone's accuracy") == ahead
    assert claims.leads([compared(0)], "one epoch", "SDN", "BranchyNet") == [0.0]


def test_a_budget_that_one_run_cannot_keep_is_left_out_of_the_table():
    runs = [compared(0), compared(1)]
    runs[1]["one epoch"]["SDN"] = points(0.82)
    table = experiment.table_of(runs, "one epoch", "SDN")
    assert table.budget.tolist() == [0.3]
    assert table.accuracy.tolist() == [pytest.approx(0.81)]


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
