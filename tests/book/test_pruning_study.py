"""Chapter 3: its tables by hand, its budgets really equal, its claims turn with the numbers."""

import json
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from eenotes import training
from eenotes.exits import LinearExit
from eenotes.identity import fingerprint
from eenotes.methods import pruning
from eenotes.methods.pruning_schedule import Iteration
from eenotes.network import EarlyExitNetwork
from eenotes_book import networks, records, style
from eenotes_book.ch03_pruning import (
    claims,
    deployment,
    experiment,
    figures,
    layer_figures,
    pruned_costs,
    published,
    study,
    sweep,
    tables,
)
from eenotes_book.ch03_pruning.settings import Settings, Sweep
from eenotes_book.data import pretrained, vision
from eenotes_book.models.resnet import CifarResNet

SPARSITY = {
    "together": [[0.2, 0.0, 0.2, 0.1], [0.5, 0.1, 0.6, 0.2]],
    "separately": [[0.1, 0.2, 0.2, 0.1], [0.4, 0.6, 0.6, 0.2]],
}
ACCURACY = {"unpruned": [0.5, 0.9], "together": [0.5, 0.7], "separately": [0.4, 0.8]}
RUN = {  # over four layers: convolution, exit 1, convolution, classifier
    "counts": {"test": 100},
    "layers": {"kind": ["convolution", "linear", "convolution", "linear"]},
    "sparsity": SPARSITY,
    "accuracy": ACCURACY,
    "pools": {name: {"all": 0.5} for name in SPARSITY},
    "points": {},
}
OTHER = RUN | {
    "sparsity": SPARSITY | {"together": [[0.2, 0.0, 0.2, 0.1], [0.5, 0.3, 0.6, 0.2]]},
    "accuracy": ACCURACY | {"together": [0.7, 0.9], "separately": [0.4, 0.9]},
}
SWEEP = [
    {"sparsity": 0.5, "exits": 0.2, "early": 0.01, "last": -0.02},
    {"sparsity": 0.5, "exits": 0.5, "early": 0.05, "last": -0.02},
    {"sparsity": 0.9, "exits": 0.2, "early": -0.03, "last": 0.02},
    {"sparsity": 0.9, "exits": 0.9, "early": 0.15, "last": 0.0},
]


def test_layers_by_hand():
    assert tables.names(RUN) == ["1", "E1", "2", "E2"]
    one, two = tables.layer_table([RUN]), tables.layer_table([RUN, OTHER])
    assert one.difference.tolist() == pytest.approx([0.1, -0.5, 0, 0]) and one.spread.isna().all()
    assert two.difference.tolist() == pytest.approx([0.1, -0.4, 0, 0])
    assert two.spread.iloc[1] == pytest.approx(0.02**0.5)  # of -.5 and -.3
    assert tables.early_exits(one).layer.tolist() == ["E1"]
    by_round = tables.difference_by_round([RUN])
    assert by_round.loc[1].tolist() == pytest.approx([0.1, -0.2, 0, 0])
    assert list(by_round.columns) == ["1", "E1", "2", "E2"]


def test_sparsities_by_hand():
    net = EarlyExitNetwork([nn.Linear(2, 2), nn.Linear(2, 2)], [LinearExit(2, 2)])
    with torch.no_grad():
        for weights, zeros in zip(pruning.layers(net).values(), (4, 4, 1), strict=True):
            weights.weight.fill_(1).view(-1)[:zeros] = 0
    pools = pruned_costs.pool_sparsity(pruned_costs.sparsity_table(net))
    assert pools.to_dict() == {"backbone": 5 / 8, "exits": 1, "all": 9 / 12}


def test_by_round_puts_the_phases_side_by_side():
    rounds = [
        Iteration("backbone", 1, {"stages.0": 0.5, "exits.0": 0.0}, ()),
        Iteration("backbone", 2, {"stages.0": 0.75, "exits.0": 0.0}, ()),
        Iteration("exits", 1, {"stages.0": 0.75, "exits.0": 0.25}, ()),
        Iteration("exits", 2, {"stages.0": 0.75, "exits.0": 0.5}, ()),
    ]
    table = pruned_costs.by_round(rounds)
    assert table.loc[1].tolist() == [0.5, 0.25] and table.loc[2].tolist() == [0.75, 0.5]
    pool = pruned_costs.by_round([Iteration("all", 1, {"stages.0": 0.5, "exits.0": 0.3}, ())])
    assert pool.loc[1].tolist() == [0.5, 0.3] and list(pool.columns) == ["stages.0", "exits.0"]


def test_zeros_compress_and_plain_files_do_not_shrink():
    def net():
        torch.manual_seed(0)
        return EarlyExitNetwork([nn.Linear(60, 40), nn.Linear(40, 3)], [LinearExit(40, 3)])

    dense, zeros = net(), net()
    pruning.prune_smallest(pruning.layers(zeros).values(), rate=0.9)
    sizes = [deployment.checkpoint_bytes(each, compress=False) for each in (dense, zeros)]
    assert sizes[0] == sizes[1] > 4 * pruned_costs.sparsity_table(dense).weights.sum()
    assert deployment.checkpoint_bytes(zeros) < 0.5 * deployment.checkpoint_bytes(dense)


def test_accuracies_by_hand():
    table = tables.accuracy_table([RUN, OTHER]).set_index(["approach", "exit"])
    assert table.accuracy["together", 1] == pytest.approx(0.6)
    assert table.spread["unpruned", 2] == 0
    gains = tables.gains([RUN, OTHER])
    assert gains["early"] == pytest.approx([0.1, 0.3])
    assert gains["last"] == pytest.approx([-0.1, 0])
    assert gains["all"] == pytest.approx([0, 0.15])
    # two standard deviations of the difference of two accuracies near .9 on 100 images
    assert tables.split_noise(RUN) == pytest.approx(2 * (2 * 0.09 / 100) ** 0.5)


def test_runs_without_an_approach_are_left_out():
    """What a study has measured so far: the second seed has no separate pruning yet."""
    names = ("unpruned", "together")
    half = OTHER | {
        "accuracy": {name: OTHER["accuracy"][name] for name in names},
        "sparsity": {"together": SPARSITY["together"]},
    }
    runs = [RUN, half]
    assert tables.having(runs, "separately") == [RUN] and tables.having(runs, "other") == []
    assert tables.gains(runs)["last"] == pytest.approx([-0.1])
    assert tables.gains(runs, of="other") == {"first": [], "early": [], "all": [], "last": []}
    assert tables.gains(runs, over="unpruned")["first"] == pytest.approx([-0.1, 0.1])
    assert tables.layer_table(runs).difference.tolist() == pytest.approx([0.1, -0.5, 0, 0])
    assert len(tables.difference_by_round(runs)) == 2
    table = tables.accuracy_table(runs).set_index(["approach", "exit"])
    assert table.accuracy["together", 1] == pytest.approx(0.6)
    assert table.accuracy["separately", 2] == 0.8 and np.isnan(table.spread["separately", 2])


def test_prices_and_pools_by_hand():
    table = tables.price_table([RUN, OTHER]).set_index(["approach", "exit"])
    assert "unpruned" not in table.index
    assert table.difference["together", 1] == pytest.approx(0.1)  # of 0 and .2
    assert table.spread["separately", 2] == pytest.approx(0.1 / 2**0.5)  # of -.1 and 0
    pools = tables.pool_table({"A": [RUN, OTHER], "B": []})
    assert pools.loc[("A", "together")].to_dict() == {"seeds": 2, "all": 0.5} and len(pools) == 2


def test_cuts_by_hand():
    """One to eight in the backbone, ten and twenty in the exits; half of each pool."""
    table = pd.DataFrame(
        {"magnitude": [1.0, 2, 3, 4, 5, 6, 7, 8, 10, 20], "part": ["backbone"] * 8 + ["exits"] * 2}
    )
    cuts = {"all": 5.5, "backbone": 4.5, "exits": 15.0, "exits in all": 0.0}
    assert experiment.cuts(table, 0.5) == cuts
    assert experiment.cuts(table, 0.95)["exits in all"] == 0.5


def test_sweep_tables_and_words():
    table = tables.sweep_table([SWEEP, SWEEP], "early")
    assert list(table.columns) == ["0.20", "as all"] and list(table.index) == ["0.50", "0.90"]
    assert table["as all"].tolist() == pytest.approx([0.05, 0.15])
    early, last = claims.sweep_in_words([SWEEP]).split(" At the last exit")
    for words in ("at 2 of 2 rates", "+10.0 points", "1 of 2 when", "80%", "(-1.0 points)"):
        assert words in early
    assert "at 0 of 2 rates" in last


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ([0.02], "A is ahead by 2.0 points (one run)"),
        ([-0.02], "B is ahead by 2.0 points (one run)"),
        ([0.01, 0.02, 0.03], "A is ahead by 2.0 points (95 % interval -0.5 to 4.5)"),
        ([-0.01, -0.02, -0.03], "B is ahead by 2.0 points (95 % interval -0.5 to 4.5)"),
    ],
)
def test_a_lead_in_words(differences, words):
    assert claims.lead(differences, "A", "B") == words


# --- claims


def claimed(runs, *, data="CIFAR10", **numbers):
    """The claims of some runs, by the first words of their statements."""
    record = records.Record("03-pruning", data={data: {}}, seeds=range(len(runs)), at="study")
    claims.claim_all(record, {"runs": runs, **numbers})
    return {row["statement"].split(";")[0].split(":")[0]: row for row in record.claims}


def seeds(run):
    """Six runs that differ a little."""
    return [
        run | {"accuracy": {n: [a + i / 1000 for a in v] for n, v in run["accuracy"].items()}}
        for i in range(6)
    ]


def swapped(run):
    """The same run with both approaches exchanged."""
    names = {"together": "separately", "separately": "together", "unpruned": "unpruned"}
    return run | {
        key: {names[name]: values for name, values in run[key].items()}
        for key in ("sparsity", "accuracy")
    }


def test_claims_turn_with_the_numbers():
    found, turned = claimed(seeds(RUN)), claimed(seeds(swapped(RUN)))
    for statement in (
        "separate pruning leaves the linear exits sparser",
        "together is better at the intermediate exits",
        "at the final exit separate pruning is ahead",
    ):
        assert found[statement]["verdict"] == "holds" and turned[statement]["verdict"] == "fails"
        assert found[statement]["ours"] == pytest.approx(-turned[statement]["ours"], abs=1e-3)
    assert found["both procedures end with equally many zeros"]["kind"] == "check"


@pytest.mark.parametrize(
    ("data", "accuracy", "depth", "verdict"),
    [
        ("CIFAR10", 0.898, 20, "holds"),
        ("CIFAR10", 0.89, 20, "not testable here"),
        ("CIFAR10", 0.898, 56, "not testable here"),
        ("digits", 0.99, 20, "not testable here"),
    ],
)
def test_networks_that_are_not_fully_trained_decide_nothing(data, accuracy, depth, verdict):
    run = RUN | {"depth": depth, "accuracy": ACCURACY | {"unpruned": [0.5, accuracy]}}
    found = claimed(seeds(run), data=data)["together is better at the intermediate exits"]
    assert found["verdict"] == verdict


@pytest.mark.parametrize(
    ("early", "closed", "verdict"),
    [
        ((0.01, -0.03), 1.1, "holds"),
        ((0.04, 0.12), 0.2, "fails"),
        ((0.01, 0.01, -0.1), 0.0, "not testable here"),  # there is no gap
    ],
)
def test_the_claim_about_sparsity_follows_the_numbers(early, closed, verdict):
    plain = early[2:] * 2 or (0.05, 0.15)
    values = (early[0], plain[0], early[1], plain[1])
    sweeps = [
        [row | {"early": value + i / 1e5} for row, value in zip(SWEEP, values, strict=True)]
        for i in range(6)
    ]
    found = claimed(seeds(RUN), sweeps=sweeps)["it is the exits' sparsity"]
    assert found["ours"] == pytest.approx(closed, abs=0.01) and found["verdict"] == verdict


@pytest.mark.parametrize(
    ("spared", "closed", "verdict", "last"),
    [([0.48, 0.8], 0.8, "holds", "holds"), ([0.42, 0.7], 0.2, "fails", "fails")],
)
def test_claims_about_spared_exits_follow_the_numbers(spared, closed, verdict, last):
    """Plain separate pruning is behind by .1 at the early exit."""
    run = RUN | {"accuracy": ACCURACY | {"unpruned": [0.5, 0.9], experiment.SPARED: spared}}
    found = claimed(seeds(run))
    claim = found["it is the exits' sparsity"]
    assert claim["ours"] == pytest.approx(closed, abs=0.01) and claim["verdict"] == verdict
    assert found["sparing the exits costs the last one nothing"]["verdict"] == last


def test_a_deep_network_has_claims_of_its_own():
    deep = [RUN | {"depth": 56, "accuracy": {"unpruned": [0.5, 0.93], "together": [0.5, 0.8]}}]
    found = claimed(seeds(RUN), resnet56=deep)
    first = found["pruned together, the first two exits are better than before (ResNet-56)"]
    assert first["verdict"] == "one run" and first["at_thesis_setting"]
    assert found["what pruning costs the last exit, together (ResNet-56)"]["ours"] == 0.13
    assert "together is better at the intermediate exits (ResNet-56)" not in found


@pytest.mark.parametrize("at", ["reduced", "study"])
def test_claims_are_made_anew_from_a_committed_record(at):
    old = records.load("03-pruning", at)
    record = records.Record("03-pruning", data=old["data"], seeds=old["seeds"], at=at)
    claims.claim_all(record, old["numbers"])
    ours = {row["statement"].split(";")[0]: row["ours"] for row in record.claims}
    for row in old["claims"]:
        same = ours.get(row["statement"].split(";")[0])
        assert same is None or same == pytest.approx(row["ours"], abs=1e-3)
    assert len(record.claims) >= 7


# --- the real thing

SETTINGS = Settings(
    data="digits",
    train=20,
    val=20,
    test=20,
    depth=8,
    width=4,
    exits=["group1", "group2"],
    epochs=1,
    batch_size=10,
    learning_rate=0.05,
    rate=0.4,
    rounds=2,
    samples=10,
    tune_batch=10,
    tune_learning_rate=0.02,
    watched=10,
    sweep=Sweep(rates=[0.4], exit_sparsity=[0.2], rounds=2, samples=10),
    timing_batch=4,
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A real but very small experiment."""
    torch.manual_seed(0)
    images, labels = torch.randn(60, 1, 8, 8), torch.arange(60) % 3
    parts = [TensorDataset(images[i : i + 20], labels[i : i + 20]) for i in (0, 20, 40)]
    data = vision.Vision("digits", *parts, ("a", "b", "c"), torch.zeros(1), torch.ones(1))
    _, net = networks.resnet_with_exits(data, SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EENOTES_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield experiment.Bench(data, net.eval(), SETTINGS, 0)


@pytest.fixture
def drawn(monkeypatch):
    """What `style.show` is given, instead of HTML: axes and caption."""

    def show(figure, *, caption, alt, provenance):
        assert alt and provenance == "here" and len(caption.split()) <= 40
        return figure.figure.axes

    monkeypatch.setattr(style, "show", show)


def test_a_run_and_the_figures_it_feeds(bench, drawn):
    before = fingerprint(bench.net)
    names = (experiment.TOGETHER, experiment.SEPARATELY)
    run = experiment.run(bench, {name: experiment.by_approach(bench, name) for name in names})
    assert fingerprint(bench.net) == before
    assert run["macs"]["unpruned"] == 1 and run["macs"]["together"] < 1
    assert len(run["accuracy"]["together"]) == 3 and len(run["sparsity"]["together"]) == 2
    assert run["pools"]["separately"]["exits"] == pytest.approx(0.64, abs=0.02)
    costs = [row["relative_cost"] for row in run["points"]["together"]]
    assert max(costs) <= run["macs"]["together"] * 1.05  # in units of the unpruned backbone
    layers = tables.layer_table([run])
    weights = experiment.magnitudes(bench.net)
    assert len(weights) == pruned_costs.sparsity_table(bench.net).weights.sum()
    pools = experiment.pools(bench.net, sparsity=0.6)
    assert sum(pools["shares"]["exits"]) == pytest.approx(1, abs=1e-3)
    assert pools["below"]["exits"] == pools["cuts"]["exits in all"]
    panels = {value: tables.sweep_table([SWEEP], value) for value in ("early", "last")}
    accuracy = tables.accuracy_table([run])
    here = {"provenance": "here"}
    for axes in (
        layer_figures.magnitude_pools(pools, sparsity=0.6, **here),
        layer_figures.layer_sparsity(layers, **here),
        layer_figures.layer_difference(layers, thesis=claims.THESIS_LINEAR[:3], **here),
        layer_figures.difference_map(tables.difference_by_round([run]), **here),
        figures.accuracy_of_exits(accuracy, title="this run", thesis=claims.THESIS, **here),
        figures.price_of_pruning(
            tables.price_table([run]),
            title="this run",
            thesis=tables.price_table([{"accuracy": claims.THESIS}]),
            **here,
        ),
        figures.pruned_trade(tables.curves([run], list(run["accuracy"])), **here),
        figures.sweep_maps(panels, **here),
    ):
        assert axes and all(ax.has_data() for ax in axes)


def test_the_heat_map_is_centred_at_zero(drawn):
    table = pd.DataFrame([[0.1, -0.5, 0.0], [0.2, -0.3, 0.0]], columns=["1", "E1", "E2"])
    axes = layer_figures.difference_map(table, provenance="here")
    assert axes[0].collections[0].get_clim() == (-0.5, 0.5)


def test_everything_in_the_sweep_keeps_equally_many_weights(bench):
    rows = sweep.sweep(bench)
    assert [row["exits"] for row in rows] == [0.2, pytest.approx(0.64)]
    for row in rows:
        assert abs(row["kept"] - row["pool_kept"]) <= 4  # each round of each pool rounds once
    assert rows[0]["share"] > rows[1]["share"]


def test_spared_exits_leave_equally_many_weights(bench):
    """Plain and spared exits come from one backbone, whose last round makes the totals equal."""
    spared = replace(bench, s=SimpleNamespace(**vars(SETTINGS) | {"spared": 0.2}))
    pools = {}
    for approach in (experiment.SEPARATELY, experiment.SPARED):
        net, iterations = published.variant(spared, approach)
        parts = [(iteration.part, iteration.number) for iteration in iterations]
        assert parts == [("backbone", 1), ("backbone", 2), ("exits", 1), ("exits", 2)]
        pools[approach] = pruned_costs.pool_sparsity(pruned_costs.sparsity_table(net))
    plain, kept = pools.values()
    assert plain["exits"] == pytest.approx(0.64, abs=0.02)
    assert kept["exits"] == pytest.approx(0.2, abs=0.02) and kept["backbone"] > plain["backbone"]
    assert kept["all"] == pytest.approx(plain["all"], abs=5e-3)


@pytest.mark.parametrize(("flat", "inputs"), [(False, [4, 8]), (True, [256, 128])])
def test_a_published_network_gets_exits_and_is_trained_once(bench, monkeypatch, flat, inputs):
    """Exits see the averages of 4 and 8 channels, or maps of 8 × 8 and 4 × 4 whole."""
    backbone = CifarResNet(8, in_channels=1, num_classes=3, width=4, padded=True)
    monkeypatch.setattr(pretrained, "load", lambda name: backbone)
    monkeypatch.setattr(pretrained, "normalised", lambda data: data)
    monkeypatch.setattr(vision, "load", lambda name, **sizes: bench.data)
    recipe = SimpleNamespace(**vars(SETTINGS) | {"flat": flat, "backbone_rate": 0.01})
    start = deepcopy(backbone.state_dict())
    made = published.bench(recipe, seed=0)
    assert [exit_.linear.in_features for exit_ in made.net.exits] == inputs and made.by_halves
    backbone.load_state_dict(start)
    monkeypatch.setattr(training, "cross_entropy", None)  # nothing is trained any more
    assert fingerprint(published.bench(recipe, seed=0).net) == fingerprint(made.net)


def test_thresholds_are_chosen_on_one_half_and_judged_on_the_other(bench):
    """On a test split whose halves are alike, twice the points of choosing on the other half."""
    x, y = bench.data.test.tensors
    half = TensorDataset(x[:10], y[:10])
    twice = TensorDataset(x[:10].repeat(2, 1, 1, 1), y[:10].repeat(2))
    same = replace(bench, data=replace(bench.data, val=half, test=half))
    halves = replace(bench, data=replace(bench.data, test=twice), by_halves=True)
    expected, accuracy = experiment.operating_points(same, bench.net)
    found, again = experiment.operating_points(halves, bench.net)
    assert found == [pytest.approx(row) for row in expected] and again == pytest.approx(accuracy)


def test_a_study_makes_its_record_from_the_steps_that_are_there(monkeypatch, tmp_path):
    for name in ("EENOTES_STEPS", "EENOTES_RESULTS"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(records, "made_by", lambda *names, **more: {"settings": {}})
    with pytest.raises(ValueError, match="make study N=3"):
        study.record()
    about = {key: RUN[key] for key in ("counts", "layers")} | {"data": "CIFAR10", "depth": 20}
    computed = []

    def compute(name, seed, approach):
        computed.append((name, seed, approach))
        if len(computed) == 8:
            raise KeyboardInterrupt
        found = {key: RUN[key].get(approach, [0.5]) for key in ("accuracy", "sparsity", "pools")}
        return {"about": about | {"seed": seed}, "found": found | {"points": [], "macs": 1}}

    monkeypatch.setattr(study, "_computed", compute)
    with pytest.raises(KeyboardInterrupt):
        study.study()
    assert {name for name, *_ in computed} == {"resnet20"} and computed[-1][1] == 1
    runs = json.loads(study.record().read_text(encoding="utf-8"))["numbers"]["runs"]
    assert [len(run["accuracy"]) for run in runs] == [5, 2]
    assert runs[0]["accuracy"]["together"] == ACCURACY["together"]


def test_deployment_measures_what_is_there(bench, drawn):
    pytest.importorskip("torch_pruning")
    nets = {
        experiment.UNPRUNED: bench.net,
        experiment.TOGETHER: experiment.by_approach(bench, experiment.TOGETHER)[0],
        "channels": deployment.without_channels(bench),
    }
    table = deployment.measured(bench, nets, batch_size=4, rounds=1)
    part = deployment.relative(table)
    zeros, channels = part.loc[experiment.TOGETHER], part.loc["channels"]
    assert (part.loc[experiment.UNPRUNED] == 1).all() and np.isfinite(part.to_numpy()).all()
    assert (table.seconds > 0).all()
    assert zeros.MACs == zeros.file == 1 and zeros.gzip < 0.9
    assert zeros.weights == pytest.approx(0.36, abs=0.01)
    assert channels.MACs < 0.6 and table.parameters["channels"] == table.weights["channels"]
    assert figures.what_is_saved(part, batch=4, provenance="here")[0].has_data()
    found = claimed([RUN], deployment=table.to_dict("index"))
    assert found["removing channels saves time"]["verdict"] == "one run"
