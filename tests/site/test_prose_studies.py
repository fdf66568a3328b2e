"""Numbers in the sentences of chapters 3 to 5, 7 and 8 are those of the studies."""

from collections.abc import Callable
from statistics import mean

import pytest
import torch
from sentences import Sentences, check, in_points, points, share, study

from eenotes.methods import cbt
from eenotes_book import settings, statistics
from eenotes_book.ch03_pruning import claims as pruning
from eenotes_book.ch03_pruning import tables as of_pruning
from eenotes_book.ch03_pruning.experiment import CONTROL, SEPARATELY, SPARED, TOGETHER, UNPRUNED
from eenotes_book.ch04_cbt import thesis
from eenotes_book.ch05_eeprune import tables as of_race
from eenotes_book.ch05_eeprune import turning
from eenotes_book.ch05_eeprune.experiment import NONE, QUOTA
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
    counts = {len(of_pruning.having(pruned(), name)) for name in (SEPARATELY, SPARED, CONTROL)}
    assert counts == {5}, "five seeds each"
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
        if name == "resnet20":
            inputs = [c for c in (16, 32, 64) for _ in range(2)]  # two exits behind each width
            taken = sum(c * min(1, cut * c**0.5) for c in inputs) / sum(inputs)
            yield "Six such exits together would lose {} %", points(taken, 0)


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


def deeper() -> Sentences:
    numbers = study("03-pruning")["numbers"]
    deep, flat = numbers["resnet56"], numbers["resnet56-flat"]
    thesis = of_pruning.gains([{"accuracy": pruning.THESIS}])
    lead, other = of_pruning.gains(deep), of_pruning.gains(flat)
    ours = points(lead["early"][0]), points(thesis["early"][0])
    yield "are {} points better when they are pruned together (thesis: {})", *ours
    ours = points(-lead["last"][0]), points(-thesis["last"][0])
    yield "exit is {} points better when they are pruned separately (thesis: {})", *ours
    layers = [of_pruning.layer_table(runs) for runs in (deep, flat)]
    differ = [of_pruning.early_exits(table).difference.mean() for table in layers]
    yield "sparsity differs by {} (thesis: .14)", share(-differ[0], 2)
    before = [run["accuracy"][UNPRUNED][:-1] for run in (deep[0], flat[0])]
    (low, high), (first, last) = ([share(end(a), 2) for end in (min, max)] for a in before)
    yield "before pruning they have {} to {}", low, high
    yield "Exits that read whole feature maps have {} to {}", first, last
    yield "end *sparser* than separately, by {}", share(differ[1], 2)
    worse = points(-other["early"][0]), points(other["last"][0])
    yield "{} points worse when they are pruned together, and the last exit is {} points", *worse


def controls() -> Sentences:
    lead, last = of_pruning.gains(pruned()), of_pruning.gains(pruned())["last"]
    yield "*Together* leads by {} points at the early exits", in_points(lead["early"])[0]
    spared, tuned = (of_pruning.gains(pruned(), of=name) for name in (SPARED, CONTROL))

    yield (
        "wins back {} of them (95 % interval {} to {}): three quarters",
        *in_points(spared["early"]),
    )
    yield "wins back {} points ({} to {}): half", *in_points(tuned["early"])
    parts = [mean(each["early"]) / mean(lead["early"]) for each in (spared, tuned)]
    assert abs(parts[0] - 0.75) < 0.03 and abs(parts[1] - 0.5) < 0.05, parts
    price = *in_points(tuned["last"]), points(-mean(last))
    yield "costs the last exit {} points ({} to {}), nearly all of the {} by which", *price
    yield "costs the last exit half a point ({} to {})", *in_points(spared["last"])[1:]
    assert abs(mean(spared["last"]) + 0.005) < 0.001, "half a point"


# --- chapter 4


def quoted() -> Sentences:
    """What the thesis reports; ours stand in tables."""
    wide = {where.split(",")[0]: rows for where, rows in thesis.TABLES.items() if "W48" in where}
    ends = []
    for name in ("Cityscapes", "ADE20K"):
        ends += [f"{wide[name]['single 0.998'][j][0]:.0f}" for j in (0, -1)]
    yield "({} to {} points on Cityscapes, {} to {} on ADE20K)", *ends
    saved = [points(thesis.row(pair)["saved"], 0) for pair in ((0.99, 0.998), (0.9, 0.998))]
    yield "{} % on Cityscapes with [0.99, 0.998], {} % on ADE20K with [0.9, 0.998]", *saved
    yield "ends at {} points on Cityscapes, {} ahead of its first exit", ends[1], 37


# --- chapter 5


def fashion() -> list[dict]:
    """The recorded race, one run per seed."""
    return study("05-eeprune")["numbers"]["comparison"]["FashionMNIST"]


def ends(method: str, ratio: float) -> float:
    """Accuracy at the end of the race, mean over the seeds."""
    return statistics.mean(of_race.finals(fashion(), method, f"{ratio:g}"))  # as in the table


def race() -> Sentences:
    def lead(other: str, ratio: str, digits: int = 1) -> list[str]:
        return in_points(of_race.lead(fashion(), "EEPrune", other, ratio), digits)

    interval = "(95 % interval {} to {}, five seeds)"
    ahead = [x.removeprefix("0") for x in lead("Random", "0.4", 2)]
    assert mean(of_race.lead(fashion(), "EEPrune", "Random", "0.4")) > 0
    yield f"**At 40 % EEPrune is ahead of random**, by {{}} points {interval}", *ahead
    behind = [x.removeprefix("0") for x in lead(NONE, "0.4", 2)]
    yield "It is behind no pruning by {} points ({} to {}) at equal samples seen", *behind
    sixty = *lead("Random", "0.6"), lead(NONE, "0.6")[0]
    yield (
        "EEPrune is behind random**, by {} points ({} to {}), and behind no pruning by {}",
        *sixty,
    )
    seeds = len(of_race.lead(fashion(), "EEPrune", "Random", "0.2"))
    yield "At 20 % only {} seeds are recorded", {3: "three", 4: "four"}[seeds]
    three = [ends(method, 0.2) for method in ("EEPrune", "Random", NONE)]
    assert max(three) - min(three) < 0.005, "within half a point"
    shares = [run["scoring"]["EEPrune"]["candidates"] for run in fashion()]
    yield "At least {} % of the images meet (1) and (2)", points(min(shares), 0)
    methods = ("EL2N", "EEPrune", "Forgetting", "Random", NONE)
    yield (
        "EL2N has {}, EEPrune {}, Forgetting {} and random {}. Without pruning the network has {}",
        *(share(ends(method, 0.4)) for method in methods),
    )
    yield "does better by {} points", lead("EL2N", "0.4")[0].removeprefix("0")
    passes = {m: of_race.passes(fashion()[0], m) for m in ("EEPrune", "Forgetting", "EL2N")}
    assert passes["EL2N"] > 2 * passes["EEPrune"]
    assert abs(float(lead("Forgetting", "0.4", 2)[0])) < 0.5
    assert all(ends(m, r) < ends(NONE, 0.4) for m in ("EEPrune", "Random") for r in (0.2, 0.4, 0.6))
    budget = settings.load("05-eeprune", "study").race("FashionMNIST").budget
    yield (
        "The recorded race trains for {} passes; EEPrune's scoring takes {:.0f}, Forgetting's "
        "{:.0f} and EL2N's {:.0f}",
        budget,
        *passes.values(),
    )


def growing() -> Sentences:
    rows = study("05-eeprune")["numbers"]["sweep"]
    leads = turning.leads_by_size(rows, "FashionMNIST", "Random").mean()
    numbers = [x for size in (1000, 55000) for x in (points(-leads[size]), f"{size:,}")]
    yield "from {} points with {} images to {} with {}", *numbers
    assert (leads < 0).all() and leads.is_monotonic_increasing
    assert (turning.leads_by_size(rows, "FashionMNIST", NONE).mean() < 0).all()
    few = [row["candidates"] for row in rows if row["size"] <= 10_000]
    yield "up to 10,000 images only {} to {} % qualify", points(min(few), 0), points(max(few), 0)
    kept = {row["keep"] for row in rows}
    (easy,) = [name for name in kept if name.startswith("EEPrune, ")]
    at = {
        size: {k: mean(r["accuracy"] for r in rows if (r["keep"], r["size"]) == (k, size))
               for k in kept} for size in (1000, 3000, 10_000, 30_000, 55_000)
    }  # fmt: skip
    assert all(found[easy] < found["Random"] for found in at.values())
    last = [share(at[55_000][name]) for name in (easy, "EEPrune", "Random")]
    yield "With 55,000 images the reversed choice ends at {}, EEPrune at {} and random at {}", *last


def model() -> Sentences:
    found = turning.perceptron([1, 2, 4, 8, 16], ratio=0.6)
    table = found.groupby(["size", "keep"]).accuracy.mean().unstack()
    hard, easy = table.hard - table.random, table.easy - table.random
    assert (hard[:2] < -0.03).all() and (easy[:2] > 0.03).all(), "with one or two per weight"
    assert hard[4] > 0 and table.hard[4] < table.easy[4] and table.hard[16] > table.easy[16] + 0.005
    assert abs(table.hard[8] - table.easy[8]) < 0.003
    yield "Between two and {} samples per weight the hard ones overtake random", "four"


def trousers() -> str:
    """How much of its surest class EEPrune drops at 40 %; of shirts it drops none."""
    ((key, panel),) = of_race.dropped_tables({"FashionMNIST": fashion()})[0].items()
    shares = of_race.dropped_shares(panel, key[1])["EEPrune"]
    assert shares["shirt"] == 0
    return points(shares["trouser"], 0)


def places_and_classes() -> Sentences:
    middle = in_points(of_race.lead(fashion(), "EEPrune", "EEPrune-Before", "0.4"))
    yield "ahead of the earlier one by {} points (95 % interval {} to {})", *middle
    later = in_points(of_race.lead(fashion(), "EEPrune", "EEPrune-After", "0.4"))[0]
    yield "the later one, which is {} points better", later.removeprefix("0")
    qualify = [
        points(mean(run["scoring"][method]["candidates"] for run in fashion()), 0)
        for method in ("EEPrune-Before", "EEPrune", "EEPrune-After")
    ]
    yield "{} % at the earlier exit, {} % in the middle and {} % at the later one", *qualify
    yield "EEPrune drops {} % of the trousers and not one shirt", trousers()
    (skew,) = of_race.dropped_tables({"FashionMNIST": fashion()})[1].values()
    told = [share(skew[name], 2) for name in ("EL2N", "EEPrune", "Forgetting")]
    yield "it is {} for EL2N, {} for EEPrune, {} for Forgetting", *told
    yield "{} for random", share(skew["Random"])
    quota = of_race.quota_table({"FashionMNIST": fashion()}).set_index("method")
    change = [share(quota.imbalance[name], 2) for name in ("EEPrune", QUOTA)]
    three = [share(ends(name, 0.4)) for name in ("EEPrune", QUOTA, "Random")]
    yield (
        "imbalance from {} to {}, and accuracy from {} to {}, below random's {}",
        *(*change, *three),
    )


# --- the teacher's page


def for_teachers() -> Sentences:
    gains = of_pruning.gains(pruned())
    leads = in_points(gains["early"])[0], in_points(gains["last"])[0]
    yield (
        "at the early exits together is ahead by {} points, at the last exit separate pruning is "
        "ahead by {}",
        *leads,
    )
    layers = of_pruning.early_exits(of_pruning.layer_table(pruned()))
    sparsity = [share(layers[name].mean(), 2) for name in (TOGETHER, SEPARATELY)]
    yield "The early exits end at sparsity {} together and {} separately", *sparsity
    yield "wins back three quarters of the {} points", leads[0]
    host = thesis.row((0.99, 0.998))
    saved = points(host["saved"], 0), share(host["lost"], 2)
    yield "The thesis saves {} % of the MACs of one threshold for {} points of mean IoU", *saved
    margins = torch.tensor([0.84, 0.30, 0.50])
    found = [share(x) for x in cbt.stretch(margins, alpha=0.9, beta=0.99).tolist()]
    yield "give thresholds of {}, {} and {}", *found
    forty = [share(ends(name, 0.4)) for name in ("EEPrune", "Random", NONE)]
    yield "with 40 % dropped, EEPrune has {}, random {} and no pruning {}", *forty
    behind = in_points(of_race.lead(fashion(), "EEPrune", "Random", "0.6"))[0]
    rows = study("05-eeprune")["numbers"]["sweep"]
    leads = turning.leads_by_size(rows, "FashionMNIST", "Random").mean()
    far = points(-leads[1000])
    yield "is {} points behind random, and with 1,000 images {} points behind", behind, far
    yield "EEPrune drops {} % of the trousers", trousers()


SENTENCES: dict[str, tuple[Callable[[], Sentences], ...]] = {
    "03-pruning": (
        before_pruning, at_the_cut, zeros, accuracy_of_exits, pruned_costs, deeper,
        controls,
    ),
    "04-cbt": (quoted,),
    "05-eeprune": (race, growing, model, places_and_classes),
    "teaching": (for_teachers,),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "sentences"), [(name, each) for name, all_of in SENTENCES.items() for each in all_of]
)
def test_sentences_say_what_was_measured(name, sentences):
    check(name, sentences())
