"""Numbers in the sentences of chapters 3 to 5, 7 and 8 are those of the studies."""

from collections.abc import Callable
from statistics import mean

import pytest
import torch
from sentences import Sentences, check, in_points, points, share, study

from eenotes_book import settings
from eenotes_book.ch03_pruning import claims as pruning
from eenotes_book.ch03_pruning import tables as of_pruning
from eenotes_book.ch03_pruning.experiment import CONTROL, SEPARATELY, SPARED, TOGETHER, UNPRUNED
from eenotes_book.data import pretrained

# --- chapter 3


def pruned() -> list[dict]:
    """The runs of the ResNet-20, one per seed."""
    return study("03-pruning")["numbers"]["runs"]


def before_pruning() -> Sentences:
    recipe = settings.load("03-pruning", "study").networks["resnet20"]
    found = share(pretrained.NETWORKS["resnet20"].accuracy)
    kept = share(mean(run["accuracy"][UNPRUNED][-1] for run in pruned()))
    assert (recipe.rate, recipe.epochs, recipe.backbone_rate) == (0.1, 3, recipe.learning_rate / 10)
    yield "a tenth of the remaining weights in each of {} rounds", recipe.rounds
    yield "stays near its published {}. It has {} before pruning", found, kept
    assert pruning.trained(pruned(), study("03-pruning")["data"]).passed, "the gate is open"
    seeds = {name: len(of_pruning.having(pruned(), name)) for name in (SEPARATELY, SPARED)}
    counts = {4: "four", 5: "five"}
    told = counts[seeds[SEPARATELY]].capitalize(), counts[seeds[SPARED]]
    yield "The two procedures have {} seeds", told[0].lower()
    yield "The controls at the end have {}", told[1]
    yield "{} training images in each", "the same number of"
    yield "and {} images per round", f"{recipe.samples:,}"


def at_the_cut() -> Sentences:
    """How much the common cut takes, of the recorded network and of new exits."""
    below = pruned()[0]["magnitudes"]["below"]
    taken = [points(below[part], 0) for part in ("backbone", "exits")]
    yield "The common cut takes {} % of the backbone's weights and only {} % of the exits'", *taken
    yield (
        "{} % of the backbone's weights lay below the common cut before any pruning, and {} %",
        *taken,
    )
    for name, words in {
        "resnet20": "the cut at 88 % lies at {}, and new exits behind 16, 32 and 64 channels would "
        "lose {}, {} and {} %",
        "resnet56": "There the cut lies at {}, and new exits would lose {}, {} and {} %",
    }.items():
        try:
            layers = pretrained.load(name).modules()
        except FileNotFoundError:
            continue
        weights = [m.weight.detach().abs().flatten() for m in layers if hasattr(m, "weight")]
        weights = torch.cat([w for w in weights if w.dim() and len(w) > 64])
        cut = weights.sort().values[int((1 - 0.9**20) * len(weights))].item()
        new = [points(min(1, cut * channels**0.5), 0) for channels in (16, 32, 64)]
        yield words, f"{cut:.2f}", *new


def zeros() -> Sentences:
    layers = of_pruning.layer_table(pruned())
    convolutions = layers[layers.kind == "convolution"]
    yield "they differ by at most {}", share(convolutions.difference.abs().max(), 2)
    first, last = convolutions.iloc[[0, -1]][[TOGETHER, SEPARATELY]].to_numpy()
    assert (first < 0.5).all() and (abs(1 - last - 0.01) < 0.003).all(), (
        "half, and one in a hundred"
    )
    early = [of_pruning.early_exits(of_pruning.layer_table([run])) for run in pruned()]
    found = [each.difference.mean() for each in early]
    size = [share(float(x) / 100, 2) for x in in_points(found, 4)]
    thesis = share(-mean(pruning.THESIS_LINEAR[:-1]), 2)
    yield (
        "The early exits differ by {} (95 % interval {} to {}), the thesis's (diamonds) by {}",
        *size,
        thesis,
    )
    by_round = of_pruning.difference_by_round(pruned())
    exits = by_round.loc[:, by_round.columns.str.startswith("E")].iloc[:, :-1].mean(axis=1)
    told = [share(-exits[number], 2) for number in (1, 10, 20)]
    yield (
        "The difference is {} after the first round and {} after the tenth, and it ends at {}",
        *told,
    )
    assert exits[15:].diff().abs().mean() < 0.003, "it hardly changes in the last five rounds"


def accuracy_of_exits() -> Sentences:
    gains, thesis = of_pruning.gains(pruned()), of_pruning.gains([{"accuracy": pruning.THESIS}])
    lead = "is ahead by {} points (95 % interval {} to {}). The thesis has {}"
    yield "*together* " + lead, *in_points(gains["early"]), points(thesis["early"][0])
    separate = (
        "*separate* pruning is ahead by {} points ({} to {}). The thesis has {}: {} against {}"
    )
    ends = (share(pruning.THESIS[name][-1], 3).rstrip("0") for name in (SEPARATELY, TOGETHER))
    yield separate, *in_points(gains["last"]), points(-thesis["last"][0]), *ends
    price = of_pruning.price_table(pruned()).pivot(
        index="exit", columns="approach", values="difference"
    )
    assert (price[TOGETHER].iloc[:5] > 0).all() and (price[TOGETHER].iloc[5:] < 0).all()
    yield "by up to {} points", points(price[TOGETHER].max())
    paid = [points(-price[name].iloc[-1]) for name in (TOGETHER, SEPARATELY)]
    known = [
        points(pruning.THESIS[UNPRUNED][-1] - pruning.THESIS[name][-1])
        for name in (TOGETHER, SEPARATELY)
    ]
    yield (
        "Its price is {} points together and {} separately; the thesis has {} and {}",
        *paid,
        *known,
    )
    yield "leads in the thesis's own figure, and in ours by {} points", in_points(gains["last"])[0]


def pruned_costs() -> Sentences:
    for name in (TOGETHER, SEPARATELY):
        macs = mean(run["macs"][name] for run in of_pruning.having(pruned(), name))
        yield "need {} of the unpruned network's effective MACs", share(macs, 2)
    curves = of_pruning.curves(pruned(), (TOGETHER, SEPARATELY, SPARED))
    both = {name: table.set_index("budget") for name, table in curves.items()}
    ahead = both[TOGETHER].accuracy - both[SEPARATELY].accuracy
    assert (ahead[:0.7] > 0).all() and (ahead[0.9:] < 0).all() and abs(ahead[0.8]) < 0.005
    assert 0.14 < both[TOGETHER].relative_cost[0.8] < both[SEPARATELY].relative_cost[0.8] < 0.145

    def at(budget: float, *names: str) -> list[str]:
        return [share(both[name].accuracy[budget]) for name in names]

    yield (
        "is ahead: {} against {} at {}",
        *at(0.5, TOGETHER, SEPARATELY),
        share(both[TOGETHER].relative_cost[0.5], 2),
    )
    yield "the other one is ahead, {} against {}", *at(1.0, SEPARATELY, TOGETHER)
    yield (
        "at .14 of the cost this network has {}, the one pruned together {} and the one pruned "
        "plainly separately {}",
        *at(0.8, SPARED, TOGETHER, SEPARATELY),
    )


def controls() -> Sentences:
    lead, last = of_pruning.gains(pruned()), of_pruning.gains(pruned())["last"]
    yield "*Together* leads by {} points at the early exits", in_points(lead["early"])[0]
    spared, tuned = (of_pruning.gains(pruned(), of=name) for name in (SPARED, CONTROL))

    def ends(values: list[float]) -> tuple[str, str]:
        sizes = sorted(map(abs, values))
        return points(sizes[0]), points(sizes[-1])

    yield "sparing the exits wins back {} to {} of them: three quarters", *ends(spared["early"])
    yield "Tuning the backbone for all exits wins back {} to {} points: half", *ends(tuned["early"])
    parts = [mean(each["early"]) / mean(lead["early"]) for each in (spared, tuned)]
    assert abs(parts[0] - 0.75) < 0.03 and abs(parts[1] - 0.5) < 0.05, parts
    cost = *ends(tuned["last"]), points(-mean(last))
    yield "It costs the last exit {} to {} points, nearly all of the {} by which", *cost
    assert abs(mean(spared["last"]) + 0.005) < 0.001, "half a point"
    assert float(in_points(spared["last"], 3)[1]) < 0 < float(in_points(spared["last"], 3)[2])


SENTENCES: dict[str, tuple[Callable[[], Sentences], ...]] = {
    "03-pruning": (
        before_pruning, at_the_cut, zeros, accuracy_of_exits, pruned_costs, controls
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "sentences"), [(name, each) for name, all_of in SENTENCES.items() for each in all_of]
)
def test_sentences_say_what_was_measured(name, sentences):
    check(name, sentences())
