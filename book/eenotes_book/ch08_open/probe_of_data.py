"""The probe of chapter 8, questions 4 to 6: drawn streets, clusters, and two small texts.

One text is written here, because the manual differs between versions of Python.
"""

from types import SimpleNamespace

import pandas as pd
import torch

from eenotes.methods import eeprune
from eenotes_book import clustering
from eenotes_book.ch08_open import dropping, reward, stale, streets, tables, two_sensors
from eenotes_book.ch08_open.probe_numbers import Found, losses, mean, norm, place
from eenotes_book.data import text, vision
from eenotes_book.language_models import LanguageModel

STREETS = SimpleNamespace(
    train=8,
    val=4,
    test=4,
    noise=0.08,
    channels=SimpleNamespace(image=8, depth=4),
    blocks=[1, 1, 1],
    epochs=6,
    batch_size=1,
    learning_rate=0.01,
)
BUDGETS = [0.5, 0.8]
CLUSTERS = SimpleNamespace(widths=[16, 16, 4], epochs=2, batch_size=20, steps=10, distortion=0.1)
TEXT = SimpleNamespace(
    hub="",
    vocabulary=320,
    length=16,
    layers=2,
    width=16,
    heads=2,
    at=1,
    phases=[4],
    batch_size=8,
    learning_rate=0.02,
    statistics=60,
)
TUNING = SimpleNamespace(
    train=32, test=16, memory=20, epochs=1, batch_size=8, learning_rate=0.004, looks=[0.0, 0.5, 1.0]
)
REWARD = SimpleNamespace(
    samples=32, prompt=4, new=8, keep=8, rounds=2, epochs=1, batch_size=4, learning_rate=0.003
)
WORDS = (
    ("the dog", "a small bird", "the old cat", "her red fish", "every green frog"),
    ("sees", "finds", "likes", "follows", "hears", "forgets", "calls"),
    ("the tree", "a house", "the river", "an apple", "the stars", "its food", "a boat", "my hat"),
)

HEADS = ("copied head", "old text, before", "new text, before", stale.FRESH, "carried along")


# ---------------------------------------------------------------------- 4: an image and a depth map


def streets_part() -> Found:
    """Two networks on drawn streets, and cascades over both."""
    v = streets.senses(STREETS, seed=1)
    iou, costs = two_sensors.class_table(v), two_sensors.source_costs(v)
    whole = float(iou["image 3"].mean())
    enough = two_sensors.sufficient(iou, costs)
    plans = two_sensors.plan_table(v, BUDGETS, ["image", "depth first"])
    reached = tables.cheapest_as_good(plans, whole)
    return {
        **_scenes(),
        **_seen(v),
        "4: IoU by source": iou.mean().tolist(),
        "4: costs": costs.tolist(),
        "4: sufficient": [_position(name, iou.columns) for name in enough],
        "4: cost of plans": plans["cost"].tolist(),
        "4: mean IoU of plans": plans["miou"].tolist(),
        "4: leaving": two_sensors.exit_shares(v, "image first", BUDGETS[1]).mean().tolist(),
        "claim 4a: leads": tables.class_leads(plans).tolist(),
        "claim 4b: whole network, cost": [whole, -1.0 if reached is None else reached],
    }


def _scenes() -> Found:
    """Scenes with their depth maps."""
    images, depths, labels = streets.draw_measured(2, seed=7, noise=STREETS.noise)
    return {
        "4: images": place(images),
        "4: depth maps": [depths.mean(), depths.std()],
        "4: labels": place(labels),
    }


def _seen(v: streets.Senses) -> Found:
    """What the exits of both networks say of the truth, and a cascade over both."""
    found = {}
    known, labels = v.seen("test")
    for m, logits in known.items():
        found[f"4: {m}: weights"] = norm(v.nets[m].parameters())
        found[f"4: {m}: loss by exit"] = losses(logits, labels)
    logits, costs = two_sensors.cascade(v.seen("val")[0], v.costs, two_sensors.PLANS["depth first"])
    sure = logits.softmax(2).amax(2).mean(1)
    return found | {"4: asked: confidence": place(sure), "4: asked: MACs": place(costs.cumulative)}


def _position(name: str, names: pd.Index) -> int:
    return list(names).index(name) if name in names else -1


# ---------------------------------------------------------------------- 5: dropping points and rows


def clusters_part(data: vision.Vision) -> Found:
    """Three digits clustered, and clustered again without some points."""
    table = dropping.cluster_runs(data, CLUSTERS, ratio=0.5, seeds=2)
    x = clustering.flat(data.train).tensors[0]
    everything = torch.arange(len(x))
    net = dropping.clustered(x, CLUSTERS, rows=everything, num_clusters=3, seed=1)  # from the cache
    values = dropping.agreement(net, x, exit_index=eeprune.middle(net))
    left = [dropping.drop_rows(values, 0.4, how, seed=1) for how in dropping.KEPT]
    return {
        "5: points agreed on": [values.mean(), place(values)],
        "5: points left": [place(rows) for rows in left],
        "5: logits of clusters": [z.detach().mean() for z in net(x)],
        "5: sizes of clusters": dropping.assignments(net, x).bincount().sort().values,
        "5: clustering accuracy": table["accuracy"].tolist(),
        "5: agree": table["agree"].dropna().tolist(),
        "claim 5a: lead": tables.kept_leads(table, "accuracy"),
    }


def reading_part(lm: LanguageModel, factor: float) -> Found:
    """A small language model, how it agrees with its exit, and fresh models on part of the text."""
    head = dropping.class_mean_exit(lm, factor)
    agreed = dropping.row_agreement(lm, head)
    table = dropping.reading_runs(lm, agreed, ratio=0.5, seeds=1, reads=48)
    return {
        "5: text": [lm.text.vocabulary, place(lm.text.train), place(lm.text.test)],
        "5: language model": [lm.final["accuracy"], lm.final["perplexity"]],
        "5: factor of the noise": factor,
        "5: class-mean exit": [head[0].norm(), head[1].mean()],
        "5: rows agreed on": [agreed.mean(), place(agreed)],
        "5: perplexity": table["perplexity"].tolist(),
        "5: accuracy": mean(table["accuracy"]),
        "claim 5b: lead": tables.kept_leads(table, "perplexity"),
    }


def small_text() -> text.Text:
    """Sentences of a few words, in tokens; the same with every Python."""
    drawn = torch.Generator().manual_seed(0)
    rows = torch.stack([torch.randint(len(w), (400,), generator=drawn) for w in WORDS], 1)
    sentences = [" ".join(w[i] for w, i in zip(WORDS, row, strict=True)) for row in rows.tolist()]
    whole = "".join(f"{sentence}.\n" for sentence in sentences)
    tokenizer = text.train_tokenizer(whole, vocabulary=TEXT.vocabulary)
    ids = torch.tensor(tokenizer.encode(whole).ids)
    rows = ids[: len(ids) // TEXT.length * TEXT.length].view(-1, TEXT.length)
    splits = {"train": rows[:96], "val": rows[96:120], "test": rows[120:152]}
    return text.Text("sentences", **splits, tokenizer=tokenizer, digest="sentences")


# ----------------------------------------------------------------- 6: exits of a model that changes


def exits_part(lm: LanguageModel, factor: float) -> Found:
    """The other text, and the heads for it after the means were carried along one batch."""
    rows, held = stale.other_text(lm, train=TUNING.train, test=TUNING.test)
    memory = TUNING.memory
    ways = stale.exits_of(lm.model, lm, rows, factor=factor, memory=memory)
    ways.carried.update(ways.new.class_means[:12] + 1, torch.arange(12) // 2 * 2 + 30)
    heads = ways.heads(ways.old)
    return {
        "6: other text": [place(rows), place(held)],
        "6: weights of heads": [norm([heads[name][0]]) for name in HEADS],
        "6: biases of heads": [heads[name][1].mean() for name in HEADS],
        "6: carried": [ways.carried.means.norm(), ways.carried.counts.sum()],
        "6: from text to text": stale.moved(ways.new, ways.old),
    }


def tuning_part(lm: LanguageModel, factor: float) -> Found:
    """Fine-tuning on the other text: the exit while the model changes."""
    table = stale.tuning_run(lm, TUNING, factor=factor, seed=1)
    end = tables.last_look(table, "samples", "accuracy")
    looks = table.groupby("samples")
    return {
        "6: tuning: samples": list(looks.groups),
        "6: tuning: exit": looks["accuracy"].mean().tolist(),
        "6: tuning: exit at the end": [end[name].item() for name in HEADS],
        "6: tuning: final head": mean(table["final"]),
        "6: tuning: moved": looks["moved"].mean().tolist(),
        "claim 6a: gap": (end[stale.FRESH] - end["new text, before"]).tolist(),
        "claim 6b: gap": (end[stale.FRESH] - end["carried along"]).tolist(),
    }


def reward_part(lm: LanguageModel, factor: float) -> Found:
    """Training on what a reward likes, and the exit that was set before."""
    table = reward.reward_run(lm, REWARD, factor=factor, seed=1)
    end = tables.last_look(table, "round", "agreement")
    rounds = table.groupby("round")
    return {
        "6: rewarded tokens": place(reward.word_reward(lm)),
        "6: reward: agreement": rounds["agreement"].mean().tolist(),
        "6: reward: agreement at the end": [end[name].item() for name in ("copied head", "before")],
        "6: reward: reward": rounds["reward"].mean().tolist(),
        "6: reward: moved": rounds["moved"].mean().tolist(),
        "claim 6c: gap": (end[stale.FRESH] - end["before"]).tolist(),
    }
