"""Random backbones, cuts, exits, rules and batches: every way to an answer gives the same one.

``EENOTES_FUZZ=10000`` tries so many examples, other ones each time; the grammar is in `grammar`.
"""

import contextlib
import copy
import io
import linecache
import os
import pickle
import tempfile
import traceback
from unittest import mock

import grammar
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from pair import Pair, estimates
from torch import nn
from torch.utils import _pytree as pytree

import eenotes
from eenotes import (
    ClassMeanExit,
    ClassMeans,
    Confidence,
    EarlyExitNetwork,
    Entropy,
    LinearExit,
    Patience,
    PerClass,
    collect,
    count_macs,
    cut_points,
    linear_exits,
    predict,
    predict_stream,
    simulate,
    split,
)
from eenotes.class_statistics import ClassMoments
from eenotes.methods import e2cm
from eenotes.network import in_mode
from eenotes.rules import ScoreRule

COUNT = int(os.environ.get("EENOTES_FUZZ", 0))
fuzz = settings(
    max_examples=COUNT or 60, derandomize=not COUNT, suppress_health_check=list(HealthCheck)
)
DTYPES = [torch.float32, torch.float32, torch.float64, torch.bfloat16]
# features without a layer of their own, or whose channels are those of the layer before
UNTOLD = {"outer", "pairs", "length", "view", "two tokens"}
FINE = ("channels_last", "do not vary", "same for every sample", "torch.fx cannot trace")


class Refused(Exception):
    """The package said in a sentence of its own why it does not answer."""


def ask(function, *args, **kwargs):
    """The answer, or `Refused`; an error that the package did not raise itself goes through."""
    try:
        return function(*args, **kwargs)
    except (ValueError, TypeError, NotImplementedError) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        line = linecache.getline(where.filename, where.lineno).strip()
        if "/eenotes/" in where.filename and line.startswith("raise "):
            raise Refused(str(error)) from error
        raise


def run(stages, x):
    for stage in stages:
        x = stage(x)
    return x


def equal(one, other):
    pairs = zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=True)
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def laid_out(draw, net, x):
    """The network and the batch in another layout of memory."""
    how = draw(st.sampled_from(["plain", "channels last", "strided", "expanded"]), label="layout")
    if how == "channels last" and x.ndim == 4:
        net, x = (part.to(memory_format=torch.channels_last) for part in (copy.deepcopy(net), x))
    if how == "strided":
        return net, torch.stack([x, x], -1)[..., 0]
    return net, x[:1].expand(x.shape) if how == "expanded" else x


class Own(nn.Module):
    """An exit that takes features of any type."""

    def __init__(self, features, classes):
        super().__init__()
        self.linear = nn.Linear(features[0].numel(), classes)

    def forward(self, features):
        return self.linear(features.flatten(1).to(self.linear.weight.dtype))


def with_exits(draw, stages, x, labels, classes):
    kinds = ["linear", "mean", "rms", "whitened", "own", "both"]
    kind = draw(st.sampled_from(kinds), label="exits")
    batches = list(zip(x.split(5), labels.split(5), strict=True))
    if kind in ("mean", "rms"):
        return ask(e2cm.fit, stages, batches, num_classes=classes, normaliser=kind)
    if kind == "whitened":
        return ask(e2cm.fit_whitened, stages, batches, num_classes=classes, shrinkage=0.1)
    if kind == "own":
        features = EarlyExitNetwork(stages, [nn.Identity()] * (len(stages) - 1)).features(x)
        return EarlyExitNetwork(stages, [Own(part, classes) for part in features])
    net = EarlyExitNetwork(stages, ask(linear_exits, stages, x, num_classes=classes))
    if kind == "both":
        return e2cm.combine(ask(e2cm.fit, stages, batches, num_classes=classes), net)
    return net


def with_rule(draw, net, logits):
    """A rule whose thresholds lie among the scores."""
    early, classes = len(logits) - 1, logits.shape[2]
    kind = draw(st.sampled_from([Confidence, Entropy, e2cm.rule, PerClass, Patience]), label="rule")
    if kind is Patience:
        return Patience(draw(st.integers(1, 3)))
    shares = torch.tensor([draw(st.floats(0, 1), label="share") for _ in range(early)])
    if kind is PerClass:
        each = shares[:, None] * torch.linspace(0.7, 1, classes)
        return PerClass(each if draw(st.booleans(), label="per exit") else each[0])
    make = (lambda t: e2cm.rule(net, t)) if kind is e2cm.rule else kind
    scores = torch.stack([make(0.5).score(j, z).score for j, z in enumerate(logits[:-1])])
    low, high = scores.amin(1).clamp(min=0), scores.amax(1)
    high = high if kind is Entropy else high.clamp(max=1)
    thresholds = (low + shares * (high - low)).tolist()
    table = [[t] * classes for t in thresholds]
    return make(draw(st.sampled_from([thresholds, thresholds[0], table]), label="thresholds"))


def clear(logits, rule, margin):
    """The samples whose decisions do not hang on the last digits, ``(N,)``."""
    found = torch.ones(logits.shape[1], dtype=torch.bool)
    for j, z in enumerate(logits):
        if isinstance(rule, ScoreRule) and j < len(logits) - 1:
            score = rule.score(j, z).score
            limit = rule.thresholds if isinstance(rule.thresholds, float) else rule.thresholds[j]
            found &= (score - (limit[0] if isinstance(limit, tuple) else limit)).abs() > margin
        elif isinstance(rule, PerClass):
            table = torch.atleast_2d(rule.thresholds)
            found &= ((z.softmax(1) - table[min(j, len(table) - 1)]).abs() > margin).all(1)
        first, second = z.topk(2, 1).values.unbind(1)
        found &= first - second > margin * (1 + first.abs())
    return found


def same(one, other, rows=slice(None)):
    assert torch.equal(one.prediction, other.prediction[rows])
    assert torch.equal(one.exit_index, other.exit_index[rows])


def sizes(draw, count):
    """Sizes of batches that make up ``count``, empty ones among them."""
    found = []
    while sum(found) < count:
        found.append(draw(st.integers(0, count - sum(found)), label="size"))
    return found


def check_copies(draw, net, x, backbone):
    """A copy answers bit for bit as before."""
    how = draw(st.sampled_from(["deepcopy", "pickle", "state", "save"]), label="copy")
    twin = pickle.loads(pickle.dumps(net)) if how == "pickle" else copy.deepcopy(net)
    with tempfile.TemporaryDirectory() as folder:
        if how == "state":
            torch.save(net.state_dict(), kept := io.BytesIO())
            kept.seek(0)
            for value in twin.state_dict().values():
                value.zero_()
            twin.load_state_dict(torch.load(kept))
        if how == "save":
            plain = any(isinstance(head, Own) for head in net.exits)
            for value in [*twin.parameters(), *twin.buffers()]:
                value.zero_()
            ask(eenotes.save, net.eval(), f"{folder}/net", example=x)
            twin = ask(eenotes.load, f"{folder}/net", twin if plain else backbone)
    results = []
    with in_mode(net, twin, training=draw(st.booleans(), label="training")):
        for one in (twin, net if how in ("state", "save") else copy.deepcopy(net)):
            torch.manual_seed(3)
            results.append(one(x))
    assert equal(*results)


def gathers(function):
    return mock.patch("eenotes.class_statistics.gathered", function)


def merged(kind, features, labels, classes, first, result):
    """A result of statistics of two parts, put together as two processes do."""
    parts, seen = [kind(classes), kind(classes)], []
    for part, rows in zip(parts, (slice(first), slice(first, None)), strict=True):
        if len(labels[rows]):
            part.update(features[rows], labels[rows])
        with gathers(lambda own: seen.append(own) or [own]), contextlib.suppress(ValueError):
            part.compute()  # a class may be in the other part alone
    with gathers(lambda _: seen):
        return getattr(parts[0], result)()


def check_merged(features, labels, classes, first):
    """Statistics of two parts are, put together, what their definition says of the whole."""
    given = features.flatten(1), labels, classes, first
    x = given[0].double()
    means = torch.stack([x[labels == k].mean(0) for k in range(classes)])
    scale, within = x.abs().max().item(), x - means[labels]
    found = merged(ClassMeans, *given, "compute").double()
    assert torch.allclose(found, means, 0, 1e-5 * scale)
    found = merged(ClassMeans, *given, "root_mean_square_distance").double()
    by_hand = (x[:, None] - means).square().sum(2).mean(0).sqrt()
    assert torch.allclose(found, by_hand, 1e-3, 3e-3 * scale)
    found = merged(ClassMoments, *given, "compute")
    assert torch.allclose(found.means, means, 0, 1e-12 * scale)
    assert torch.allclose(found.covariance, within.T @ within / len(x), 0, 1e-12 * scale**2)


def check_processes(pair, stages, x, labels, classes, first):
    """Two processes estimate from two parts what one does from all."""
    expected = ask(estimates, stages, x, labels, classes)
    for found in ask(pair.ask, stages, x, labels, classes, first):
        for name, value in expected.items():
            scale = 1 + value.abs().max().item()
            assert torch.allclose(found[name], value, 0, 1e-3 * scale), name


def check_costs(case, net, x):
    """The counts of stages are those of the grammar, and exits know where the channels are."""
    costs = ask(count_macs, net, x)
    if not grammar.MIXES & set(case.names):
        assert costs.backbone == sum(step.macs for step in case.steps)
    trail, done, y = [], 0, x.clone()
    for step in case.steps:
        y, done = step.module(y), done + step.macs
        trail.append((copy.copy(y), done, step.kind))
    for j, features in enumerate(net.features(x)):
        here = [(macs, kind) for y, macs, kind in trail if equal(features, y)]
        if here and features.any() and not grammar.MIXES & set(case.names):
            assert sum(costs.stages[: j + 1]) in {macs for macs, _ in here}
        told = features.ndim == 3 and 1 not in features.shape and not UNTOLD & set(case.names)
        if here and told and isinstance(net.exits[j], LinearExit):
            assert net.exits[j].channels_last in {kind == "tokens" for _, kind in here}
    for head, count in zip(net.exits, costs.exits, strict=True):
        weights = [head.means] if isinstance(head, ClassMeanExit) else head.parameters()
        assert count == sum(w.numel() for w in weights if w.ndim == 2)


@torch.no_grad()
def cut(case, draw):
    """Stages of the backbone, which are as good as itself."""
    points = ask(cut_points, case.backbone)
    if not points:
        raise Refused("channels_last does not matter: no legal place")
    chosen = draw(st.sets(st.sampled_from(points), min_size=1, max_size=3), label="cuts")
    before, x = copy.deepcopy(case.backbone.state_dict()), case.x.clone()
    stages = ask(split, case.backbone, at=[p for p in points if p in chosen], example=x)
    assert equal(case.backbone.state_dict(), before)
    assert equal(run(stages, x), case.backbone(x.clone()))
    assert equal(x, case.x)
    return stages


def allowed(net, x, labels, logits):
    """How far the logits of other batch sizes may be away.

    Kernels round in another order.  Half precision may lose again what it has lost to double, and
    what a last digit of the features is.
    """
    if next(net.parameters()).dtype != torch.bfloat16:
        return 1e-4 * (1 + logits.abs().max().item())
    exact, _ = collect(copy.deepcopy(net).double(), [(x, labels)])
    largest = max(part.float().flatten(1).norm(dim=1).max() for part in net.features(x))
    digit = torch.finfo(torch.bfloat16).eps * (1 + max(largest, logits.abs().max()))
    return (digit + 4 * (logits - exact).abs().max()).item()


@torch.no_grad()
def answers(case, draw, stages, backbone, pair):
    labels = torch.arange(len(case.x)) % case.classes
    net = with_exits(draw, stages, case.x, labels, case.classes)
    check_copies(draw, net, case.x, backbone)
    first = draw(st.integers(0, len(labels)), label="first part")
    check_merged(net.features(case.x)[0], labels, case.classes, first)
    if pair and next(net.parameters()).dtype != torch.bfloat16:
        check_processes(pair, stages, case.x, labels, case.classes, first)
    net, x = laid_out(draw, net.eval(), case.x[: draw(st.integers(1, len(case.x)), label="rows")])
    labels, kept = labels[: len(x)], x.clone()
    check_costs(case, net, x)

    ways = [x.split(sizes(draw, len(x))), x.split(1), [x]]
    found = []
    for way in ways:
        parts = labels.split([len(part) for part in way])
        found.append(ask(collect, net, list(zip(way, parts, strict=True))))
    logits = found[0][0]
    assert all(torch.equal(seen, labels) for _, seen in found)
    error = max((other - logits).abs().max().item() for other, _ in found)
    assert error < allowed(net, x, labels, logits)

    rule = with_rule(draw, net, logits)
    keep = clear(logits, rule, 4 * error + 1e-6)
    event(f"clear: {keep.any().item()}")
    if keep.any():
        x, expected = x[keep], simulate(logits[:, keep], rule)
        same(ask(predict, net, x, rule), expected)
        for i in range(len(x)):
            same(predict(net, x[i : i + 1], rule), expected, slice(i, i + 1))
        stream, wait = x.split(sizes(draw, len(x))), draw(st.integers(1, 5), label="wait")
        same(ask(predict_stream, net, stream, rule, batch_size=wait), expected)
        assert equal(x, kept[keep])


def examine(case, draw, pair):
    dtype = draw(st.sampled_from(DTYPES), label="dtype")
    x = case.x.to(dtype) if case.x.is_floating_point() else case.x
    case = case._replace(backbone=case.backbone.to(dtype), x=x)
    try:
        case.backbone(x.clone())
    except NotImplementedError:
        return  # no half precision
    fresh = copy.deepcopy(case.backbone)
    for p in fresh.parameters():
        nn.init.zeros_(p)
    stages = cut(case, draw)
    for of_two in (pair, None, None):
        answers(case, draw, stages, fresh, of_two)


@pytest.fixture(scope="module")
def pair():
    started = Pair()
    yield started
    started.close()


@fuzz
@given(data=st.data())
def test_every_way_gives_the_same_answer(pair, data):
    case = data.draw(grammar.cases())
    try:
        examine(case, data.draw, pair)
    except Refused as refusal:
        event(f"refused: {str(refusal)[:40]}")
        if not grammar.TRAPS & set(case.names) and not any(w in str(refusal) for w in FINE):
            raise
