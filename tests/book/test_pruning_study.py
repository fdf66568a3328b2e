"""Chapter 3's experiment: its tables by hand, its budgets really equal, its verdicts undecided
where they must be.
"""

from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

from eenotes.methods import pruned_costs, pruning
from eenotes_book import networks
from eenotes_book.ch03_pruning import claims, experiment, figures
from eenotes_book.data import vision


def run_of(together, separately, *, accuracy=None, test=100):
    """A run over four layers: convolution, exit 1, convolution, classifier."""
    accuracy = accuracy or {
        "unpruned": [0.5, 0.9],
        "together": [0.5, 0.7],
        "separately": [0.4, 0.8],
    }
    return {
        "counts": {"test": test},
        "layers": {"kind": ["convolution", "linear", "convolution", "linear"]},
        "sparsity": {"together": together, "separately": separately},
        "accuracy": accuracy,
        "points": {},
    }


RUN = run_of(
    [[0.2, 0.0, 0.2, 0.1], [0.5, 0.1, 0.6, 0.2]], [[0.1, 0.2, 0.2, 0.1], [0.4, 0.6, 0.6, 0.2]]
)
OTHER = run_of(
    [[0.2, 0.0, 0.2, 0.1], [0.5, 0.3, 0.6, 0.2]],
    [[0.1, 0.2, 0.2, 0.1], [0.4, 0.6, 0.6, 0.2]],
    accuracy={"unpruned": [0.5, 0.9], "together": [0.7, 0.9], "separately": [0.4, 0.9]},
)


def test_tables_by_hand():
    assert claims.names(RUN) == ["1", "E1", "3", "E2"]
    one, two = claims.layer_table([RUN]), claims.layer_table([RUN, OTHER])
    assert one.difference.tolist() == pytest.approx([0.1, -0.5, 0, 0]) and one.spread.isna().all()
    assert two.difference.tolist() == pytest.approx([0.1, -0.4, 0, 0])
    assert two.spread.iloc[1] == pytest.approx(0.02**0.5)  # of -.5 and -.3
    by_round = claims.difference_by_round([RUN])
    assert by_round.loc[1].tolist() == pytest.approx([0.1, -0.2, 0, 0]) and list(
        by_round.columns
    ) == ["1", "E1", "3", "E2"]
    table = claims.accuracy_table([RUN, OTHER]).set_index(["approach", "exit"])
    assert table.accuracy["together", 1] == pytest.approx(0.6) and table.spread["unpruned", 2] == 0


def test_gains_and_their_verdicts():
    gains = claims.gains([RUN, OTHER])
    assert gains["early"] == pytest.approx([0.1, 0.3]) and gains["last"] == pytest.approx([-0.1, 0])
    assert gains["all"] == pytest.approx([0, 0.15])


@pytest.mark.parametrize(
    ("differences", "noise", "verdict"),
    [
        ([0.1], 0.05, True),
        ([-0.1], 0.05, False),
        ([0.04], 0.05, None),
        ([0.1, 0.1, 0.1], 0.5, True),  # several runs judge by their own spread
        ([0.1, 0.2, 0.3], 0.0, True),  # mean .2, two standard errors .115
        ([-0.1, 0.2, 0.3], 0.0, None),
        ([-0.1, -0.2, -0.3], 0.0, False),
    ],
)
def test_a_difference_is_decided_or_not(differences, noise, verdict):
    assert claims.decide(differences, noise=noise) is verdict
    words = claims.lead(differences, "A", "B", noise=noise)
    assert ("within the noise" in words) == (verdict is None)
    assert words.startswith("A" if sum(differences) > 0 else "B")


def test_noise_of_a_test_split():
    """Two standard deviations of the difference of two accuracies near .9 on 100 images: 2 sqrt(2 *
    .09 / 100).
    """
    assert claims.test_noise(RUN) == pytest.approx(2 * 0.0018**0.5)


def test_cuts_by_hand():
    """One to eight in the backbone, ten and twenty in the exits; half of each pool."""
    table = pd.DataFrame(
        {"magnitude": [1.0, 2, 3, 4, 5, 6, 7, 8, 10, 20], "part": ["backbone"] * 8 + ["exits"] * 2}
    )
    assert experiment.cuts(table, 0.5) == {
        "all": 5.5,
        "backbone": 4.5,
        "exits": 15.0,
        "exits in all": 0.0,
    }
    assert experiment.cuts(table, 0.95)["exits in all"] == 0.5


SWEEP = [
    {"sparsity": 0.5, "exits": 0.2, "early": 0.01, "last": -0.02},
    {"sparsity": 0.5, "exits": 0.5, "early": 0.05, "last": -0.02},
    {"sparsity": 0.9, "exits": 0.2, "early": -0.03, "last": 0.02},
    {"sparsity": 0.9, "exits": 0.9, "early": 0.15, "last": 0.0},
]


def test_sweep_tables_and_words():
    table = claims.sweep_table([SWEEP, SWEEP], "early")
    assert list(table.columns) == ["0.20", "as all"] and list(table.index) == ["0.50", "0.90"]
    assert table["as all"].tolist() == pytest.approx([0.05, 0.15])
    early, last = claims.sweep_verdict([SWEEP]).split(" At the last exit")
    assert (
        "at 2 of 2 rates" in early
        and "+10.0 points" in early
        and "1 of 2 when" in early
        and "80%" in early
        and "(-1.0 points)" in early
    )
    assert "at 0 of 2 rates" in last


@pytest.mark.parametrize(("early", "holds"), [((0.01, -0.03), True), ((0.04, 0.12), False)])
def test_the_claim_about_sparsity_follows_the_numbers(early, holds):
    rows = [
        row | {"early": value}
        for row, value in zip(SWEEP, (early[0], 0.05, early[1], 0.15), strict=True)
    ]
    record = SimpleNamespace(claim=lambda statement, **facts: found.append(facts))
    found = []
    claims.claim_sweep(record, [rows])
    assert found[0]["holds"] is holds and found[0]["ours"] == pytest.approx(1 - sum(early) / 0.2)
    no_gap = [row | {"early": -0.1} for row in SWEEP]
    claims.claim_sweep(record, [no_gap])
    assert found[1]["holds"] is None


def test_claims_turn_with_the_numbers():
    found = {}
    record = SimpleNamespace(
        claim=lambda statement, **facts: found.setdefault(statement.split(";")[0], facts),
        numbers={},
    )
    run = RUN | {"pools": {}, "macs": {}}
    claims.claim_all(record, [run])
    swapped = run | {
        "sparsity": {
            "together": run["sparsity"]["separately"],
            "separately": run["sparsity"]["together"],
        },
        "accuracy": run["accuracy"]
        | {"together": run["accuracy"]["separately"], "separately": run["accuracy"]["together"]},
    }
    first, found = found, {}
    claims.claim_all(record, [swapped])
    for statement in (
        "separate pruning leaves every linear exit sparser",
        "at the final exit separate pruning is ahead",
    ):
        assert first[statement]["ours"] == pytest.approx(-found[statement]["ours"], abs=1e-3)
    sparser = "separate pruning leaves every linear exit sparser"
    assert first[sparser]["holds"] is True and found[sparser]["holds"] is False


# --- the real thing


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A real but very small experiment."""
    patch = pytest.MonkeyPatch()
    patch.setenv("EENOTES_CACHE", str(tmp_path_factory.mktemp("cache")))
    torch.manual_seed(0)
    images, labels = torch.randn(60, 1, 8, 8), torch.arange(60) % 3
    parts = [TensorDataset(images[i : i + 20], labels[i : i + 20]) for i in (0, 20, 40)]
    data = vision.Vision("digits", *parts, ("a", "b", "c"), torch.zeros(1), torch.ones(1))
    s = SimpleNamespace(data="digits", train=20, val=20, test=20, depth=8, width=4, exits=["group1", "group2"], epochs=1, batch_size=10,
                        learning_rate=0.05, rate=0.4, rounds=2, samples=10, tune_batch=10, tune_learning_rate=0.02, watched=10,
                        draws=20, sweep=SimpleNamespace(rates=[0.4], exit_sparsity=[0.2], rounds=2, samples=10))  # fmt: skip
    _, net = networks.resnet_with_exits(data, s)
    yield experiment.Bench(data, net.eval(), s, 0)
    patch.undo()


def test_a_run_and_the_figures_it_feeds(bench):
    before = pruning.fingerprint(bench.net)
    nets = {
        name: experiment.both(bench, name) for name in (experiment.TOGETHER, experiment.SEPARATELY)
    }
    run = experiment.run(bench, nets)
    assert pruning.fingerprint(bench.net) == before
    assert run["macs"]["unpruned"] == 1 and run["macs"]["together"] < 1
    assert len(run["accuracy"]["together"]) == 3 and len(run["sparsity"]["together"]) == 2
    assert run["pools"]["separately"]["exits"] == pytest.approx(0.64, abs=0.02)
    costs = [row["relative_cost"] for row in run["points"]["together"]]
    assert max(costs) <= run["macs"]["together"] * 1.05  # in units of the unpruned backbone
    table = claims.layer_table([run])
    weights = experiment.magnitudes(bench.net)
    assert len(weights) == pruned_costs.sparsity_table(bench.net).weights.sum()
    for figure in (
        figures.magnitude_pools(weights, experiment.cuts(weights, 0.6), sparsity=0.6),
        figures.layer_sparsity(table),
        figures.layer_difference(table),
        figures.difference_map(claims.difference_by_round([run])),
        figures.accuracy_of_exits(
            claims.accuracy_table([run]), title="this run", thesis=claims.THESIS
        ),
        figures.pruned_trade(claims.curves([run], list(run["accuracy"]))),
        figures.sweep_maps(
            {
                "early": claims.sweep_table([SWEEP], "early"),
                "last": claims.sweep_table([SWEEP], "last"),
            }
        ),
    ):
        assert all(ax.has_data() for ax in figure.figure.axes)
        plt.close(figure.figure)


def test_the_heat_map_is_centred_at_zero():
    table = pd.DataFrame([[0.1, -0.5], [0.2, -0.3]], index=[1, 2], columns=["1", "E1"])
    low, high = figures.difference_map(table).collections[0].get_clim()
    assert (low, high) == (-0.5, 0.5)
    plt.close("all")


def test_everything_in_the_sweep_keeps_equally_many_weights(bench):
    rows = experiment.sweep(bench)
    assert [row["exits"] for row in rows] == [0.2, pytest.approx(0.64)]
    for row in rows:
        assert abs(row["kept"] - row["pool_kept"]) <= 4  # each round of each pool rounds once
    assert rows[0]["share"] > rows[1]["share"]


def test_deployment_measures_what_is_there(bench):
    pytest.importorskip("torch_pruning")
    net, _ = experiment.both(bench, experiment.TOGETHER)
    nets = {
        experiment.UNPRUNED: bench.net,
        experiment.TOGETHER: net,
        "channels": experiment.without_channels(bench),
    }
    table = experiment.deployment(bench, nets, batch_size=4, rounds=1)
    part = experiment.relative(table)
    assert (part.loc[experiment.UNPRUNED] == 1).all() and (table.seconds > 0).all()
    assert part.MACs[experiment.TOGETHER] == part.file[experiment.TOGETHER] == 1
    assert (
        part.weights[experiment.TOGETHER] == pytest.approx(0.36, abs=0.01)
        and part.gzip[experiment.TOGETHER] < 0.9
    )
    assert part.MACs["channels"] < 0.6 and table.parameters["channels"] == table.weights["channels"]
    assert figures.what_is_saved(part).has_data()
    plt.close("all")
