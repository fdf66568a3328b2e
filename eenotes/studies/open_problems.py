"""Chapter 7: what the thesis leaves for later, and a first experiment on each of its six questions."""

import copy
import gc
import gzip
import hashlib
import importlib
import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.utils.data import TensorDataset

from eenotes import cbt, class_aware, clustering, detection, e2cm, eeprune, experiment, pruning, selection, training
from eenotes.calibration import draw_thresholds, evaluate, for_budget, sweep
from eenotes.costs import Costs, count_macs
from eenotes.data import scenes, vision
from eenotes.heads import ClassMeanExit, linear_exits, pool
from eenotes.inference import collect, simulate
from eenotes.means import ClassMeans
from eenotes.models import segmentation
from eenotes.models.segmentation import SegmentationNetwork
from eenotes.network import EarlyExitNetwork, in_mode
from eenotes.studies import class_aware as sixth
from eenotes.studies import clusters as second
from eenotes.studies import eeprune as fifth
from eenotes.studies import pruning as third

CHAPTER, STUDY = "07-open-problems", "eenotes.studies.open_problems"
GRID = 4  # a trained exit sees 4 × 4 averages of each feature map, as many numbers as the class means where the map is that small


# ------------------------------------------------------------------------------------------- small networks of digits


@dataclass
class Bench:
    """A data set, and a small network trained on it with a linear exit after each of its first three stages."""

    data: vision.Vision
    net: EarlyExitNetwork
    s: SimpleNamespace
    seed: int

    @cached_property
    def class_means(self) -> EarlyExitNetwork:
        """E²CM on the same stages."""
        return e2cm.fit(self.net.stages, vision.batches(self.data.train), num_classes=len(self.data.classes))


def spare_garbage() -> None:
    """Accelerate collects garbage after every training: spare it everything that is there for good.  For the beginning of many."""
    gc.freeze()


def load(s: SimpleNamespace) -> vision.Vision:
    spare_garbage()
    return vision.load(s.data, train=s.train, val=s.val, test=s.test)


def bench(data: vision.Vision, s: SimpleNamespace, *, seed: int = 0) -> Bench:
    """Train the network jointly with its exits, or take it from the cache."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stages = fifth.network("conv", data.shape, num_classes=len(data.classes), width=s.width).stages
        exits = linear_exits(stages, torch.zeros(2, *data.shape), num_classes=len(data.classes), grid=GRID)
    net = EarlyExitNetwork(stages, exits)
    recipe = [s.width, s.epochs, s.batch_size, s.learning_rate]
    facts = {"data": data.name, "classes": data.classes, "counts": data.counts, "recipe": recipe}
    training.fit(
        net,
        data.train,
        loss=training.joint_loss,
        epochs=s.epochs,
        **_recipe(s, seed),
        checkpoint=experiment.cached("four-stages", seed=seed, code=experiment.code_hash(["eenotes.studies.eeprune"]), **facts),
        title=f"{data.name}, {len(data.classes)} classes",
    )
    return Bench(data, net, s, seed)


def benches(s: SimpleNamespace) -> list[Bench]:
    """One network per seed, on all classes."""
    data = load(s)
    return [bench(data, s, seed=seed) for seed in range(s.seeds)]


# -------------------------------------------------------------------------------------------------------- 1: open world


MEASURES = ("softmax", "E²CM confidence", "distance", "whitened distance")


def auroc(unknown: Tensor, known: Tensor) -> float:
    """The probability that a random unknown sample gets a higher score than a random known one; ties count half (7.2).

    Args:
        unknown: ``(M,)`` scores of novelty.
        known: ``(N,)`` scores.

    Raises:
        ValueError: no sample on one side, scores of more than one dimension, or NaN.
    """
    if unknown.ndim != 1 or known.ndim != 1 or not len(unknown) or not len(known):
        raise ValueError(f"need one score per sample and at least one sample each, got {tuple(unknown.shape)} and {tuple(known.shape)}")
    if unknown.isnan().any() or known.isnan().any():
        raise ValueError("a score is NaN: it can be neither higher nor lower than another")
    order = known.sort().values
    below, up_to = (torch.searchsorted(order, unknown.to(order), right=right).double() for right in (False, True))
    return ((below + up_to) / 2).mean().item() / len(known)


def hold_out(data: vision.Vision, unknown: Sequence[int]) -> tuple[vision.Vision, TensorDataset]:
    """A data set without some classes, the others numbered anew from 0; and the test images of the classes left out.

    Raises:
        ValueError: a class that does not exist, or fewer than two that stay.
    """
    unknown = sorted(set(unknown))
    known = [k for k in range(len(data.classes)) if k not in unknown]
    if not unknown or unknown[0] < 0 or unknown[-1] >= len(data.classes) or len(known) < 2:
        raise ValueError(f"unknown={unknown} must be classes in 0..{len(data.classes) - 1}, and two at least must stay known")
    number = torch.full((len(data.classes),), -1)
    number[known] = torch.arange(len(known))

    def part(split: TensorDataset) -> TensorDataset:
        x, y = split.tensors
        keep = number[y] >= 0
        return TensorDataset(x[keep], number[y[keep]])

    x, y = data.test.tensors
    strangers = number[y] < 0
    names = tuple(data.classes[k] for k in known)
    smaller = replace(data, train=part(data.train), val=part(data.val), test=part(data.test), classes=names)
    return smaller, TensorDataset(x[strangers], y[strangers])


@dataclass
class Novelty:
    """Four scores of how new an image looks, at every early exit of one network, the distance (7.1) among them; higher is newer."""

    b: Bench

    @cached_property
    def whitened(self) -> list[tuple[Tensor, ClassMeanExit]]:
        """Per early exit a whitening matrix ``(C, C)`` and class means of the whitened channel averages."""
        return [whiten(pool(x), self._train[1]) for x in self._train[0]]

    @cached_property
    def _train(self) -> tuple[list[Tensor], Tensor]:
        x, y = self.b.data.train.tensors
        return features(self.b.net, x), y.to(_device(self.b.net))

    @torch.no_grad()
    def scores(self, x: Tensor) -> dict[str, Tensor]:
        """Measure → ``(J-1, N)`` for images ``(N, C, H, W)``."""
        seen, means = features(self.b.net, x), self.b.class_means
        softmax = [1 - head(f).softmax(1).amax(1) for f, head in zip(seen, self.b.net.exits, strict=True)]
        scaled = [head(f) / head.mean_distance for f, head in zip(seen, means.exits, strict=True)]
        white = [-head(pool(f) @ matrix).amax(1) for f, (matrix, head) in zip(seen, self.whitened, strict=True)]
        rows = (softmax, [1 - z.softmax(1).amax(1) for z in scaled], [-z.amax(1) for z in scaled], white)
        return {name: torch.stack(values) for name, values in zip(MEASURES, rows, strict=True)}


def whiten(x: Tensor, labels: Tensor) -> tuple[Tensor, ClassMeanExit]:
    r"""Make the spread within the classes a unit sphere: a matrix $A$ ``(C, C)`` and class means of $xA$, for features ``(N, C)``.

    $A A^{\mathsf T}$ is the inverse of the pooled covariance within the classes, plus a thousandth of its mean variance in every
    direction.  The distance to a class mean is then the Mahalanobis distance (Lee et al., 2018).

    Raises:
        ValueError: as many classes as samples, or more: there is no spread to measure.
    """
    means = ClassMeans(int(labels.max()) + 1).to(x.device)
    means.update(x, labels)
    classes, left = means.compute(), x - means.compute()[labels]
    if len(x) <= len(classes):
        raise ValueError(f"{len(x)} samples of {len(classes)} classes leave no spread within the classes: give more samples")
    covariance = left.double().T @ left.double() / (len(x) - len(classes))
    covariance += 1e-3 * covariance.diagonal().mean() * torch.eye(len(covariance)).to(covariance)
    matrix = torch.linalg.cholesky(torch.linalg.inv(covariance)).to(x)
    return matrix, ClassMeanExit(classes @ matrix)


def novelty_run(data: vision.Vision, s: SimpleNamespace, *, seed: int) -> dict:
    """Leave some classes out, train on the rest, and ask at every exit which test images are of the classes left out.

    Returns:
        ``auroc``: measure → one number per early exit; ``final``: that of the last exit's softmax; ``gate``: what rejecting at the exits
        does under a budget, see `gate`.
    """
    unknown = torch.randperm(len(data.classes), generator=torch.Generator().manual_seed(seed))[: s.novelty.unknown].tolist()
    known, strangers = hold_out(data, unknown)
    n = Novelty(bench(known, s, seed=seed))
    inside, outside = (n.scores(part.tensors[0]) for part in (known.test, strangers))
    last = [1 - _last(n.b.net, part.tensors[0]).softmax(1).amax(1) for part in (strangers, known.test)]
    found = {name: [auroc(o, i) for o, i in zip(outside[name], inside[name], strict=True)] for name in MEASURES}
    gates = {name: gate(n, strangers, name, keep=s.novelty.keep, budget=s.budget) for name in ("softmax", "distance")}
    return {"seed": seed, "unknown": [data.classes[k] for k in sorted(unknown)], "auroc": found, "final": auroc(*last), "gate": gates}


def gate(n: Novelty, strangers: TensorDataset, measure: str, *, keep: float, budget: float) -> dict[str, float]:
    """An E²CM cascade that may also say "none of these": at each early exit an image is rejected if its score is too high.

    The limit of an exit lets the share ``keep`` of the validation images pass; thresholds for leaving are chosen on validation for
    the budget, without the gate.

    Returns:
        Of known test images the ``accuracy`` (a refused one is wrong) and the share ``refused``, of unknown ones the share ``rejected``;
        mean relative costs ``known`` and ``unknown``; and ``accuracy_open``, ``known_open``, ``unknown_open``, without a gate.
    """
    net, costs = n.b.class_means, count_macs(n.b.class_means, n.b.data.test.tensors[0][:1].to(_device(n.b.net)))
    rule = rule_for_budget(net, n.b.data, budget=budget)
    limits = n.scores(n.b.data.val.tensors[0])[measure].double().quantile(keep, dim=1, keepdim=True)
    told = {}
    for name, split in (("known", n.b.data.test), ("unknown", strangers)):
        logits, labels = collect(net, vision.batches(split))
        outcome = simulate(logits, rule)
        refused = torch.cat([n.scores(split.tensors[0])[measure] > limits, torch.ones(1, len(labels)).bool().to(labels.device)])
        first = refused.int().argmax(0)  # the last row stands for "never"
        stopped = (first <= outcome.exit_index) & (first < len(logits) - 1)
        at = torch.where(stopped, first, outcome.exit_index)
        told[name] = (stopped, costs.relative_cost(at).mean().item(), costs.relative_cost(outcome.exit_index).mean().item())
        if name == "known":
            right = outcome.prediction == labels
            plain, accuracy = right.double().mean().item(), (right & ~stopped).double().mean().item()
    (refused, known, known_open), (rejected, unknown, unknown_open) = told["known"], told["unknown"]
    shares = {"refused": refused.double().mean().item(), "rejected": rejected.double().mean().item()}
    costs = {"known": known, "known_open": known_open, "unknown": unknown, "unknown_open": unknown_open}
    return {"accuracy": accuracy, "accuracy_open": plain, **shares, **costs}


# ------------------------------------------------------------------------------------- 2: class means, pooled and in few bits


def quantise(x: Tensor, *, bits: int, step: Tensor | None = None) -> Tensor:
    r"""Round each row ``x[i]`` to the levels $0, \pm a, \pm 2a, \dots, \pm(2^{b-1}-1)\,a$; one bit: to $\pm a$ (7.4).

    Args:
        x: ``(N, *shape)``.
        bits: b, from 1 to 16.
        step: $a$, one per row, ``(N, 1)``; by default `best_step`.

    Raises:
        ValueError: another number of bits, or values that are not finite.
    """
    step = best_step(x, bits=bits) if step is None else step
    rows, most = x.flatten(1), 2 ** (bits - 1) - 1
    if bits == 1:
        return torch.where(rows < 0, -step, step).view_as(x)
    return ((rows / step).round().clamp(-most, most) * step).view_as(x)


def best_step(x: Tensor, *, bits: int) -> Tensor:
    """The step of each row ``x[i]``, ``(N, 1)``: the one of eight candidates that leaves the least squared error.

    Few levels are better spent on the middle than on the largest value.  With one bit the best is the mean magnitude.

    Raises:
        ValueError: as `quantise`.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 16:
        raise ValueError(f"bits={bits!r} must be a whole number from 1 to 16")
    if not x.isfinite().all():
        raise ValueError("a value is not finite: there is no step that reaches it")
    rows = x.detach().flatten(1)
    if bits == 1:
        return rows.abs().mean(1, keepdim=True)
    widest = (rows.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)).clamp_min(torch.finfo(rows.dtype).tiny)
    steps = torch.stack([share * widest for share in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)])
    errors = torch.stack([(quantise(rows, bits=bits, step=step) - rows).square().sum(1, keepdim=True) for step in steps])
    return steps.gather(0, errors.argmin(0, keepdim=True))[0]


class CompactExit(ClassMeanExit):
    """A class-mean exit that looks at pooled features and keeps its means in few bits.

    Pooling is linear (7.3): the mean of pooled features is the pooled mean, and no new pass over the data is needed for it.  What is
    rounded is each mean's offset from the centre of all; the centre itself is kept in 8 bits.

    Args:
        means: ``(K, C, H, W)``.
        grid: average each feature map to grid × grid cells; a map that is smaller keeps its size.
        bits: per number of an offset; 32: nothing is rounded.
        mean_distance: ``(K,)``, as in `ClassMeanExit`.

    Raises:
        ValueError: means of another shape, a grid below 1, or as `quantise`.
    """

    def __init__(self, means: Tensor, *, grid: int, bits: int, mean_distance: Tensor | None = None):
        if means.ndim != 4 or grid < 1:
            raise ValueError(f"need class means (K, C, H, W) and a grid of at least 1, got {tuple(means.shape)} and {grid}")
        grid = min(grid, *means.shape[2:])
        small = pool(means, grid=grid)
        if bits != 32:
            centre = small.mean(0, keepdim=True)
            small = quantise(centre, bits=8) + quantise(small - centre, bits=bits)
        super().__init__(small, mean_distance)
        self.grid, self.bits = grid, bits

    @property
    def stored_bits(self) -> int:
        """Memory: the offsets, the centre, and per class its μ, squared norm and step in 32 bits each."""
        K, D = self.offsets.shape
        return K * D * self.bits + (0 if self.bits == 32 else 8 * D) + 3 * 32 * K

    def forward(self, features: Tensor) -> Tensor:
        """``(B, C, H, W)`` → ``(B, K)``."""
        return super().forward(pool(features, grid=self.grid))


def compact(b: Bench, *, grid: int, bits: int) -> EarlyExitNetwork:
    """E²CM with a `CompactExit` after every stage but the last; μ is measured anew on the training images."""
    seen = _seen(b, "train")
    exits = []
    for x, head in zip(seen.features, b.class_means.exits, strict=True):
        means = head.means.view(-1, *x.shape[1:])
        mean_distance = -CompactExit(means, grid=grid, bits=bits)(x).mean(0)
        exits.append(CompactExit(means, grid=grid, bits=bits, mean_distance=mean_distance))
    return EarlyExitNetwork(b.net.stages, exits).to(_device(b.net)).eval()


def compact_table(b: Bench, *, grids: Sequence[int], bits: Sequence[int], budget: float, draws: int = 150) -> pd.DataFrame:
    """Every grid with every number of bits: ``seed``, ``bytes`` and ``macs`` of all exit tests together, ``exits`` (mean accuracy of the
    early exits alone) and, with thresholds chosen on validation for the budget, ``accuracy`` and ``relative_cost`` on test."""
    rows, sample = [], b.data.test.tensors[0][:1].to(_device(b.net))
    for grid in grids:
        for width in bits:
            net = compact(b, grid=grid, bits=width)
            costs = count_macs(net, sample)
            val, test = (_seen(b, split).logits(net) for split in ("val", "test"))
            rule = _thresholds(val, _seen(b, "val").labels, e2cm.rule(net), costs, budget=budget, draws=draws)
            labels = _seen(b, "test").labels
            size = {"bytes": sum(head.stored_bits for head in net.exits) / 8, "macs": sum(costs.exits)}
            alone = (test[:-1].argmax(2) == labels).double().mean().item()
            found = evaluate(test, labels, rule, costs)
            rows.append({"seed": b.seed, "grid": grid, "bits": width, **size, "exits": alone, **found})
    return pd.DataFrame(rows).drop(columns="left")


def rule_for_budget(net: EarlyExitNetwork, data: vision.Vision, *, budget: float, draws: int = 250):
    """The E²CM rule whose thresholds are the most accurate on validation among those that keep the budget."""
    costs = count_macs(net, data.test.tensors[0][:1].to(_device(net)))
    return _thresholds(*collect(net, vision.batches(data.val)), e2cm.rule(net), costs, budget=budget, draws=draws)


def _thresholds(logits: Tensor, labels: Tensor, rule, costs, *, budget: float, draws: int):
    drawn = draw_thresholds(logits, rule, count=draws)
    chosen = for_budget(sweep(logits, labels, rule, costs, thresholds=drawn), max_relative_cost=budget)
    return replace(rule, thresholds=chosen.thresholds)


@dataclass
class _Seen:
    """A split as the stages see it: what stands before each early exit, and the last exit's logits."""

    features: list[Tensor]
    last: Tensor
    labels: Tensor

    @torch.no_grad()
    def logits(self, net: EarlyExitNetwork) -> Tensor:
        return torch.stack([*(head(x) for head, x in zip(net.exits, self.features, strict=True)), self.last])


def _seen(b: Bench, split: str) -> _Seen:
    kept = b.__dict__.setdefault("_kept", {})
    if split not in kept:
        x, y = getattr(b.data, split).tensors
        kept[split] = _Seen(features(b.net, x), _last(b.net, x), y.to(_device(b.net)))
    return kept[split]


# ------------------------------------------------------------------------------------------- 3: prune, quantise, distil


OPERATIONS = {"P": "prune", "Q": "quantise", "D": "distil", "C": "train on"}
ORDERS = ("PQD", "PDQ", "QPD", "QDP", "DPQ", "DQP", "PQC")


class Rounded(nn.Module):
    """A parametrisation: weights rounded by `quantise` in the forward pass, gradients passed straight through.

    The steps are those of the weights as they are now, and stay.
    """

    def __init__(self, weight: Tensor, bits: int):
        super().__init__()
        self.bits = bits
        self.register_buffer("step", best_step(weight, bits=bits))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (quantise(weight, bits=self.bits, step=self.step) - weight).detach()


def distillation_loss(model: nn.Module, batch: tuple[Tensor, Tensor], *, temperature: float = 2.0) -> Tensor:
    r"""Self-distillation: every early exit learns the last exit's softmax as well as the labels, half and half.

    Equation (7.5) over J: $\mathrm{CE}(z_J, y) + \frac12 \sum_{j<J} \bigl[\mathrm{CE}(z_j, y) + \tau^2\mathrm{KL}(p_J \Vert p_j)\bigr]$,
    with $p_j$ the softmax of $z_j/\tau$; no gradient flows into the teacher.
    """
    x, y = batch
    *early, last = model(x)
    teacher = (last.detach().float() / temperature).softmax(1)
    loss = nn.functional.cross_entropy(last, y)
    for z in early:
        pupil = (z.float() / temperature).log_softmax(1)
        divergence = nn.functional.kl_div(pupil, teacher, reduction="batchmean")
        loss = loss + 0.5 * nn.functional.cross_entropy(z, y) + 0.5 * temperature**2 * divergence
    return loss / (len(early) + 1)


def compressed(b: Bench, order: str, t: SimpleNamespace, *, bits: int, made: dict | None = None) -> EarlyExitNetwork:
    """Prune, quantise and distil a copy of the network in the order of the letters, each followed by the same number of epochs.

    Args:
        b: the trained network.
        order: letters of `OPERATIONS`.  P removes the smallest weights of backbone and exits for good, Q rounds what the forward pass
            uses from then on, D and C change only the loss of their own epochs: with distillation, without it.
        t: ``rate``, the share of the weights that P removes; ``epochs``, ``batch_size`` and ``learning_rate`` of each short training.
        bits: of Q.
        made: networks made before with the same other options, by what was done to them; what is missing is added.

    Raises:
        ValueError: an unknown letter, or one of P and Q twice.
    """
    if not order or set(order) - set(OPERATIONS) or max(order.count("P"), order.count("Q")) > 1:
        raise ValueError(f"order={order!r} must be letters of {', '.join(OPERATIONS)}, P and Q at most once each")
    made = {} if made is None else made
    net = with_masks(b.net)
    for number, letter in enumerate(order):
        done = order[: number + 1]
        key = (done, bits if "Q" in done else None)
        if key not in made:
            made[key] = copy.deepcopy(net)
            loss = _change(made[key], letter, rate=t.rate, bits=bits)
            training.fit(
                made[key],
                b.data.train,
                loss=loss,
                epochs=t.epochs,
                batch_size=t.batch_size,
                optimizer=partial(training.sgd, lr=t.learning_rate),
                seed=100 * b.seed + number,
                title=f"{order}: {OPERATIONS[letter]}",
            )
            pruning.sparsity(pruning.layers(made[key]))  # brings the masked weights up to date
        net = made[key]
    return net


def with_masks(net: EarlyExitNetwork) -> EarlyExitNetwork:
    """A copy whose layers have masks that mask nothing yet: a rounded weight can be pruned, a pruned one can be rounded."""
    twin = copy.deepcopy(net)
    for module in pruning.layers(twin).values():
        prune.identity(module, "weight")
    pruning.sparsity(pruning.layers(twin))
    return twin


def _change(net: EarlyExitNetwork, letter: str, *, rate: float, bits: int) -> training.Loss:
    """Do to the network what the letter says, in place, and return the loss of the epochs that follow."""
    found = pruning.layers(net)
    if letter == "P":
        pruning.prune_smallest(found.values(), rate=rate)
    if letter == "Q":
        for module in found.values():
            parametrize.register_parametrization(module, "weight_orig", Rounded(module.weight, bits))
    return distillation_loss if letter == "D" else training.joint_loss


@torch.no_grad()
def prune_behind(modules: Iterable[nn.Module], *, rate: float) -> None:
    """Prune rounded layers by the weights behind the rounded ones, which gradients have moved all the while; one ranking over all.

    Args:
        modules: layers whose weights are `Rounded`.
        rate: share of all their weights to remove, strictly between 0 and 1.

    Raises:
        ValueError: a layer that is not rounded, or a rate outside (0, 1).
    """
    modules = list(modules)
    if not 0 < rate < 1 or not all(parametrize.is_parametrized(module, "weight_orig") for module in modules):
        raise ValueError(f"need rounded layers and a rate strictly between 0 and 1, got {len(modules)} layers and {rate}")
    sizes = [module.parametrizations.weight_orig.original.abs() for module in modules]
    limit = torch.cat([size.flatten() for size in sizes]).sort().values[round(rate * sum(size.numel() for size in sizes)) - 1]
    for module, size in zip(modules, sizes, strict=True):
        prune.custom_from_mask(module, "weight", (size > limit).to(size))
    pruning.sparsity({str(number): module for number, module in enumerate(modules)})


def order_table(b: Bench, t: SimpleNamespace) -> pd.DataFrame:
    """Every order with every number of bits: ``seed``, ``order``, ``bits``, the test accuracy of each exit (``exit 1`` ...), their
    ``mean``, and ``bytes``, the size of a compressed file of the weights (see `stored_bytes`)."""
    spare_garbage()
    rows = [{"seed": b.seed, "order": "dense", "bits": 32, **_accuracies(b.net, b), "bytes": stored_bytes(b.net)}]
    made: dict = {}
    for bits in t.bits:
        for order in ORDERS:
            net = compressed(b, order, t, bits=bits, made=made)
            rows.append({"seed": b.seed, "order": order, "bits": bits, **_accuracies(net, b), "bytes": stored_bytes(net)})
    return pd.DataFrame(rows)


def stored_bytes(net: EarlyExitNetwork) -> int:
    """What the weight matrices take as a gzip file: rounded ones as whole numbers of steps, one byte each, others as float32."""
    content = b""
    for module in pruning.layers(net).values():
        weight = module.weight.detach().cpu()
        rounded = [p for p in getattr(module, "parametrizations", {}).values() if isinstance(p[0], Rounded)]
        if rounded:
            steps = rounded[0][0].step.cpu()
            levels = (weight.flatten(1) / steps).round().to(torch.int8)
            content += levels.numpy().tobytes() + steps.numpy().tobytes()
        else:
            content += weight.numpy().tobytes()
    return len(gzip.compress(content, mtime=0))


def _accuracies(net: EarlyExitNetwork, b: Bench) -> dict[str, float]:
    accuracy = pruning.accuracies(net, vision.batches(b.data.test))
    return {f"exit {j}": value for j, value in enumerate(accuracy, 1)} | {"mean": sum(accuracy) / len(accuracy)}


# --------------------------------------------------------------------------------------------------------------- helpers


@torch.no_grad()
def features(net: EarlyExitNetwork, x: Tensor) -> list[Tensor]:
    """What every early exit sees of images ``(N, ...)``."""
    return net.features(x.to(_device(net)))


@torch.no_grad()
def _last(net: EarlyExitNetwork, x: Tensor) -> Tensor:
    return net(x.to(_device(net)))[-1].float()


def _device(net: nn.Module) -> torch.device:
    return next(net.parameters()).device


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.cpu().contiguous().numpy().tobytes()).hexdigest()[:12]


def _recipe(s: SimpleNamespace, seed: int) -> dict:
    return {"batch_size": s.batch_size, "optimizer": partial(training.sgd, lr=s.learning_rate), "seed": seed}


# ------------------------------------------------------------------------------------------- 4: an image and a depth map


CLASSES = scenes.DRAWN
PLANS = {
    "image": [("image", 0), ("image", 1), ("image", 2)],
    "depth": [("depth", 0), ("depth", 1), ("depth", 2)],
    "depth first": [("depth", 0), ("image", 0), ("depth", 1), ("image", 1), ("depth", 2), ("image", 2)],
    "image first": [("image", 0), ("depth", 0), ("image", 1), ("depth", 1), ("image", 2), ("depth", 2)],
}
Step = tuple[str, int]  # a modality and its exit, from 0


class _MeasuredScene(scenes._Scene):
    """A drawn scene that also notes how near everything is, as a stereo camera would: 0 at the horizon, 1 at the camera's feet.

    On a flat road inverse distance grows linearly from the horizon downwards; what stands upright is as near as its feet.
    """

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]):
        super().__init__(rng, size)
        self.nearness = np.zeros(size)

    def paint(self, name: str, where: np.ndarray, color, *, noise: float) -> None:
        super().paint(name, where, color, noise=noise)
        if where.any() and name != "sky":
            row = self.y[where] if name == "road" else self.y[where].max() + 1
            self.nearness[where] = np.clip((row - self.horizon + 2) / (self.H - self.horizon + 2), 0.02, 1)


def draw_measured(count: int, *, seed: int, noise: float = 0.03, size: tuple[int, int] = scenes.SIZES["drawn"]) -> tuple[Tensor, ...]:
    """The street scenes of `eenotes.data.scenes.draw`, pixel for pixel, each with a depth map.

    Args:
        count: scenes.
        seed: as there.
        noise: standard deviation of the depth map's own noise.
        size: (H, W).

    Returns:
        Images ``(count, 3, H, W)`` uint8, inverse depth ``(count, H, W)`` float32 (0 infinitely far, 1 nearest), labels ``(count, H, W)``.

    Raises:
        ValueError: no scene, or a negative noise.
    """
    if count < 1 or noise < 0:
        raise ValueError(f"need at least one scene and a noise of at least 0, got {count} and {noise}")
    images, depths, labels = [], [], []
    for i in range(count):
        scene = _MeasuredScene(np.random.default_rng([seed, i]), size)
        image, label = scene.draw()
        images.append(image)
        labels.append(label)
        depths.append(scene.nearness + noise * np.random.default_rng([seed, i, 1]).normal(size=size))
    images, depths, labels = (torch.from_numpy(np.stack(parts)) for parts in (images, depths, labels))
    return images.permute(0, 3, 1, 2).contiguous(), depths.float(), labels


@dataclass
class Senses:
    """Drawn streets in two modalities, and a segmentation network with three exits for each of them."""

    data: dict[str, dict[str, TensorDataset]]  # modality → split → (picture, labels)
    nets: dict[str, SegmentationNetwork]
    s: SimpleNamespace
    seed: int

    @property
    def counts(self) -> dict[str, int]:
        return {split: len(part) for split, part in self.data["image"].items()}

    @cached_property
    def costs(self) -> dict[str, Costs]:
        """Of one picture, per modality."""
        return {m: count_macs(net, self.data[m]["test"].tensors[0][:1].to(_device(net))) for m, net in self.nets.items()}

    def seen(self, split: str) -> tuple[dict[str, Tensor], Tensor]:
        """Modality → log-probabilities of all exits at all places that have a class, ``(J, N, K)``; and the classes, ``(N,)``."""
        kept = self.__dict__.setdefault("_kept", {})
        if split not in kept:
            kept[split] = self._look(split)
        return kept[split]

    @torch.inference_mode()
    def _look(self, split: str) -> tuple[dict[str, Tensor], Tensor]:
        found = {}
        for m, net in self.nets.items():
            logits = [torch.stack(net(x.to(_device(net)))).float().log_softmax(2) for x, _ in scenes.batches(self.data[m][split])]
            labels = scenes.at_places(self.data[m][split].tensors[1], logits[0].shape[3:]).flatten().long()
            found[m] = torch.cat(logits, 1).movedim(2, -1).flatten(1, 3)[:, labels != scenes.IGNORE]
        return found, labels[labels != scenes.IGNORE].to(_device(net))


def senses(s: SimpleNamespace, *, seed: int = 0) -> Senses:
    """Draw the streets and train one network per modality, or take it from the cache."""
    counts = {"train": s.train, "val": s.val, "test": s.test}
    data: dict[str, dict[str, TensorDataset]] = {"image": {}, "depth": {}}
    for i, (split, count) in enumerate(counts.items()):
        images, depths, labels = draw_measured(count, seed=1000 * seed + i, noise=s.noise)
        if split == "train":
            pixels = images.float() / 255
            scale = pixels.mean((0, 2, 3))[:, None, None], pixels.std((0, 2, 3))[:, None, None], depths.mean(), depths.std()
        depths = ((depths - scale[2]) / scale[3])[:, None].expand(-1, 3, -1, -1)
        x = {"image": (images.float() / 255 - scale[0]) / scale[1], "depth": depths}
        for m in data:
            data[m][split] = TensorDataset(x[m].contiguous(), labels)
    nets, weights = {}, segmentation.class_weights([data["image"]["train"].tensors[1]], num_classes=len(CLASSES))
    for m in data:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            nets[m] = SegmentationNetwork(len(CLASSES), channels=getattr(s.channels, m), blocks=s.blocks)
        code = experiment.code_hash(["eenotes.models.segmentation", "eenotes.data.scenes", STUDY])
        training.fit(
            nets[m],
            data[m]["train"],
            loss=partial(segmentation.exits_loss, weights=weights),
            epochs=s.epochs,
            batch_size=s.batch_size,
            optimizer=partial(training.adamw, lr=s.learning_rate),
            seed=seed,
            checkpoint=experiment.cached(f"streets-{m}", seed=seed, counts=counts, recipe=s, code=code),
            title=f"streets: {m}",
        )
    return Senses(data, nets, s, seed)


def asked(v: Senses, plan: Sequence[Step], split: str) -> tuple[Tensor, Tensor, Costs]:
    """A cascade over several modalities as one list of exits: logits ``(S, N, K)`` after each step, classes ``(N,)``, costs.

    After a step everything that is known is used: the log-probabilities of the latest exit of each modality asked so far are added, as if
    the modalities erred independently (7.6).

    Raises:
        ValueError: no step, a modality or an exit that does not exist, or a modality's exits out of order.
    """
    known, labels = v.seen(split)
    latest: dict[str, Tensor] = {}
    logits, stages, exits = [], [], []
    for m, j in plan:
        position = sum(other == m for other, _ in plan[: len(logits)])
        if m not in known or j != position or j >= len(known[m]):
            raise ValueError(f"step {(m, j)}: a plan names the exits of {', '.join(known)} from 0 on, each modality's in order")
        latest[m] = known[m][j]
        logits.append(torch.stack(list(latest.values())).sum(0))
        stages.append(v.costs[m].stages[j])
        exits.append(v.costs[m].exits[j] if j < len(v.costs[m].exits) else 0)
    if not logits:
        raise ValueError("the plan has no step: nobody would be asked")
    return torch.stack(logits), labels, Costs(tuple(stages), tuple(exits[:-1]))


def class_table(v: Senses, split: str = "test") -> pd.DataFrame:
    """IoU of every class (rows) at every exit of each modality alone, and of both last exits together (columns)."""
    known, labels = v.seen(split)
    columns = {f"{m} {j + 1}": z for m, logits in known.items() for j, z in enumerate(logits)}
    columns["both"] = known["image"][-1] + known["depth"][-1]
    return pd.DataFrame({name: _iou(z.argmax(1), labels) for name, z in columns.items()}, index=CLASSES)


def sufficient(table: pd.DataFrame, cost: pd.Series, *, within: float = 0.02, least: float = 0.1) -> pd.Series:
    """Per class the cheapest source whose IoU is at most ``within`` below that of both last exits together.

    Args:
        table: IoU, one row per class, one column per source, one of them called ``both``.
        cost: of each column.
        within: of IoU.
        least: a class that no source finds with at least this IoU has no sufficient source: ``"none"``.
    """
    good = table.ge(table["both"] - within, axis=0) & (table >= least)
    return good.apply(lambda row: cost[row.index[row]].idxmin() if row.any() else "none", axis=1)


def source_costs(v: Senses) -> pd.Series:
    """Relative cost of each column of `class_table`; 1 is the whole image network without exits."""
    unit = v.costs["image"].backbone
    cost = {f"{m} {j + 1}": w / unit for m, c in v.costs.items() for j, w in enumerate(c.cumulative.tolist())}
    return pd.Series(cost | {"both": cost["image 3"] + cost["depth 3"]})


def modality_table(v: Senses, budgets: Sequence[float], plans: Sequence[str] = tuple(PLANS)) -> pd.DataFrame:
    """Thresholds chosen on validation for every plan and budget; ``plan``, ``thresholds``, ``budget``, and on test ``cost``, ``miou``.

    Thresholds: one per step for all classes, or one per step and class, both at equal marginal loss (chapter 4).  Costs are relative to the
    whole image network; places that have left are not computed, and nothing is filled in for them (their neighbours see them).
    """
    rows, unit = [], v.costs["image"].backbone
    for name in plans:
        found = cbt.Validation(*asked(v, PLANS[name], "val"))
        test = cbt.Validation(*asked(v, PLANS[name], "test"))
        scale = found.costs.backbone / unit
        for budget in budgets:
            for kind, per_class in (("per step", False), ("per step and class", True)):
                try:
                    chosen = cbt.priced_for_budget(found, budget=budget / scale, per_class=per_class)
                except ValueError:  # even the first step costs more
                    continue
                done = test.choice(chosen.thresholds)
                rows.append({"plan": name, "thresholds": kind, "budget": budget, "cost": done.relative_cost * scale, "miou": done.score})
    return pd.DataFrame(rows)


def leaving_table(v: Senses, plan: str, budget: float) -> pd.DataFrame:
    """Of the places of each class (rows) the share that leaves at each step (columns), with thresholds per step and class."""
    found, unit = cbt.Validation(*asked(v, PLANS[plan], "val")), v.costs["image"].backbone
    chosen = cbt.priced_for_budget(found, budget=budget * unit / found.costs.backbone)
    test = cbt.Validation(*asked(v, PLANS[plan], "test"))
    at = test.exit_index(chosen.thresholds)
    names = [f"{m} {j + 1}" for m, j in PLANS[plan]]
    rows = [torch.bincount(at[test.labels == k], minlength=len(names)) / (test.labels == k).sum() for k in range(test.K)]
    return pd.DataFrame(torch.stack(rows).tolist(), index=CLASSES, columns=names)


def _iou(prediction: Tensor, labels: Tensor) -> list[float]:
    pairs = torch.bincount(labels * len(CLASSES) + prediction, minlength=len(CLASSES) ** 2).view(len(CLASSES), -1).double()
    hit = pairs.diag()
    return (hit / (pairs.sum(0) + pairs.sum(1) - hit).clamp_min(1)).tolist()


# --------------------------------------------------------------------------- 5: dropping points to cluster, rows to read


KEPT = ("drop agreeing", "random", "drop disagreeing")


def drop_rows(values: Tensor, ratio: float, how: str, *, seed: int = 0) -> Tensor:
    """The rows that stay, ascending, when the share ``ratio`` is dropped.

    Args:
        values: ``(N,)``, how much early exit and last exit agree on each row.
        ratio: in [0, 1).
        how: one of `KEPT`: drop the rows with the largest values, any rows, or those with the smallest.
        seed: of the random choice.

    Raises:
        ValueError: another ratio or word, or values of more than one dimension.
    """
    if how not in KEPT:
        raise ValueError(f"how={how!r} must be one of {', '.join(KEPT)}")
    selection.check_ratio(ratio)
    if values.ndim != 1:
        raise ValueError(f"values must have one number per row, got {tuple(values.shape)}")
    drawn = torch.rand(len(values), generator=torch.Generator().manual_seed(seed)).to(values.device)
    order = {"drop agreeing": values, "random": drawn, "drop disagreeing": -values}[how]
    return order.argsort(stable=True)[: len(values) - int(ratio * len(values))].sort().values


def clustered(x: Tensor, s: SimpleNamespace, *, rows: Tensor, num_clusters: int, seed: int) -> EarlyExitNetwork:
    """Deep embedded clustering of some rows of ``x`` ``(N, D)``, with class-mean exits; as many steps whatever the number of rows.

    Taken from the cache if it is there.
    """
    part, epochs = x[rows], round(s.epochs * len(x) / len(rows))
    options = {name: getattr(s, name) for name in ("steps", "widths", "distortion", "batch_size")}

    def compute() -> dict[str, Tensor]:
        found = clustering.fit(part, num_clusters=num_clusters, epochs=epochs, **options, seed=seed)
        return {"centroids": found.centroids, "assignments": found.assignments, **found.encoder.state_dict()}

    facts = {"x": _digest(x), "rows": _digest(rows), "code": experiment.code_hash(["eenotes.clustering"])}
    weights = training.remember(experiment.cached("clusters", seed=seed, recipe=[num_clusters, epochs, options], **facts), compute)
    centroids, assigned = (weights.pop(key).to(x.device) for key in ("centroids", "assignments"))
    encoder, _ = clustering.autoencoder(x.shape[1], s.widths)
    encoder.load_state_dict(weights)
    return second.exits_for(encoder.to(x.device).eval(), centroids, TensorDataset(part, assigned))


@torch.no_grad()
def assignments(net: EarlyExitNetwork, x: Tensor) -> Tensor:
    """The cluster of every point ``(N, D)``, on the CPU."""
    return net(x.to(_device(net)))[-1].argmax(1).cpu()


def clusters_right(net: EarlyExitNetwork, split: TensorDataset) -> float:
    """Clustering accuracy on a split of pictures."""
    x, labels = second.flat(split).tensors
    return clustering.clustering_accuracy(assignments(net, x), labels)


@torch.no_grad()
def agreement(net: EarlyExitNetwork, x: Tensor, *, exit_index: int) -> Tensor:
    """The E²CM confidence of an early exit where it names the cluster of the last exit, 0 where it does not (7.7): ``(N,)``."""
    logits, rule = net(x), e2cm.rule(net)
    prediction, confidence, _ = rule.observe(exit_index, logits[exit_index])
    return torch.where(prediction == logits[-1].argmax(1), confidence, 0.0)


def cluster_runs(data: vision.Vision, s: SimpleNamespace, *, ratio: float, seeds: int) -> pd.DataFrame:
    """Cluster, drop points, cluster what is left from scratch: ``seed``, ``kept`` (one of `KEPT`, or everything), ``accuracy`` on test,
    and ``agree``, the share of training points on which both exits agree."""
    spare_garbage()
    K, rows = len(data.classes), []
    points = second.flat(data.train).tensors[0].to(experiment.device())
    for seed in range(seeds):
        net = clustered(points, s, rows=torch.arange(len(points)), num_clusters=K, seed=seed)
        values = agreement(net, points, exit_index=eeprune.middle(net))
        agree = (values > 0).double().mean().item()
        rows.append({"seed": seed, "kept": "everything", "accuracy": clusters_right(net, data.test), "agree": agree})
        for how in KEPT:
            left = drop_rows(values, ratio, how, seed=seed)
            again = clustered(points, s, rows=left, num_clusters=K, seed=seed)
            rows.append({"seed": seed, "kept": how, "accuracy": clusters_right(again, data.test)})
    return pd.DataFrame(rows)


def text_bench(s: SimpleNamespace, *, seed: int = 0) -> sixth.Bench:
    """A small language model, as in chapter 6."""
    return sixth.bench(s, seed=seed)


def class_mean_exit(b: sixth.Bench, factor: float) -> class_aware.Linear:
    """The class-mean head of the exit at $N_0$ = ``factor`` times its plug-in value."""
    found = class_aware.statistics(b.exited(), b.text.train[: b.s.statistics].split(32))
    return class_aware.class_mean_head(found, n0=factor * found.plug_in_n0(), unseen=class_aware.copied_head(b.model)[0])


@torch.no_grad()
def row_agreement(b: sixth.Bench, head: class_aware.Linear) -> Tensor:
    """For every training row ``(N,)`` the share of tokens that early exit and final head both get right."""
    exited, shares = class_aware.load(b.exited(), head), []
    for ids in b.text.train.split(64):
        early, final = (z[:, :-1].argmax(2).cpu() for z in exited(ids.to(b.model.device)))
        shares.append(((early == ids[:, 1:]) & (final == ids[:, 1:])).double().mean(1))
    return torch.cat(shares)


def reading_runs(b: sixth.Bench, values: Tensor, *, ratio: float, seeds: int, reads: int) -> pd.DataFrame:
    """Train fresh language models on the rows that stay, each on ``reads`` rows: ``seed``, ``kept``, and ``perplexity`` and ``accuracy`` of
    its final head on test."""
    spare_garbage()
    rows = []
    for seed in range(1, seeds + 1):  # the scoring model has seed 0
        for how in KEPT:
            fresh = trained_on(b, drop_rows(values, ratio, how, seed=seed), seed=seed, length=reads)
            found = class_aware.evaluate(class_aware.attach(fresh, at=b.s.at).eval(), b.text.test.split(64))
            rows.append({"seed": seed, "kept": how, "perplexity": found["final_perplexity"], "accuracy": found["final_accuracy"]})
    return pd.DataFrame(rows)


def trained_on(b: sixth.Bench, rows: Tensor, *, seed: int, length: int) -> nn.Module:
    """A language model of the same size, trained from scratch on ``length`` rows drawn in turn from those given."""
    torch.manual_seed(seed)
    model = sixth.language_model(b.text, b.s)
    facts = {"text": b.text.digest, "rows": _digest(rows), "length": length, "recipe": b.s, "code": experiment.code_hash(sixth._CODE)}
    training.fit(
        class_aware.FullPrecision(model),
        fifth.Passes(TensorDataset(b.text.train), rows, length),
        loss=sixth._next_token_loss,
        epochs=1,
        batch_size=b.s.batch_size,
        optimizer=partial(training.adamw, lr=b.s.learning_rate),
        seed=seed,
        checkpoint=experiment.cached("reader", seed=seed, **facts),
        title="a fresh language model",
    )
    return model.eval()


# --------------------------------------------------------------------------------- 6: exits of a model that is fine-tuned


FRESH = "re-estimated"
SOURCES = ("argparse", "ast", "calendar", "csv", "dataclasses", "difflib", "enum", "inspect", "random", "shutil")


def other_text(b: sixth.Bench, *, train: int, test: int) -> tuple[Tensor, Tensor]:
    """Rows of another text in the first one's tokens: the source code of some modules of Python's standard library.

    It comes with every Python, and differs between versions as the manual does.

    Raises:
        ValueError: fewer rows than asked for.
    """
    whole = "\n".join(inspect.getsource(importlib.import_module(name)) for name in SOURCES)
    length = b.text.train.shape[1]
    ids = b.text.encode(whole[: 10 * (train + test) * length])
    rows = ids[: len(ids) // length * length].view(-1, length)
    if min(train, test) < 1 or len(rows) < train + test:
        raise ValueError(f"the source code gives {len(rows)} rows of {length} tokens, asked for {train} + {test}")
    return rows[:train], rows[train : train + test]


class CarriedMeans:
    r"""Class means that move along with a model (7.9): $M_v \leftarrow M_v + \frac{n}{n + h_v}(\bar r_v - M_v)$ for n vectors of a batch.

    A batch that is trained on has its hidden vectors computed anyway, so carrying the means along costs no pass.  $h_v$, how many vectors
    the mean so far stands for, is their count, at most ``memory``.

    Args:
        found: where they begin.
        memory: positions; a small number forgets quickly.

    Raises:
        ValueError: a memory that is not positive.
    """

    def __init__(self, found: class_aware.Statistics, *, memory: float):
        if not memory > 0:
            raise ValueError(f"memory must be a positive number of positions, got {memory}")
        self.means, self.counts, self.memory = found.class_means.clone(), found.counts.clone().float(), memory

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add features ``(N, D)`` of classes ``(N,)``."""
        new = torch.bincount(labels, minlength=len(self.counts)).to(self.means)
        sums = torch.zeros_like(self.means).index_add_(0, labels, features.to(self.means))
        weight = new / (new + self.counts.clamp_max(self.memory)).clamp_min(1e-9)
        self.means += weight[:, None] * (sums / new.clamp_min(1)[:, None] - self.means)
        self.counts += new


@dataclass
class Exits:
    """Ways to set the exit of a model that changes; each gives a linear head for the model as it is now."""

    exited: class_aware.ExitModel
    old: class_aware.Statistics  # of the first text, before
    new: class_aware.Statistics  # of the other text, before
    carried: CarriedMeans
    factor: float  # N₀ in units of the plug-in value, chosen on the first text's validation split

    def heads(self, fresh: class_aware.Statistics) -> dict[str, class_aware.Linear]:
        """``fresh``: statistics of the other text with the model as it is now."""
        copied = class_aware.copied_head(self.exited.model)
        seen = {"old text, before": self.old, "new text, before": self.new, FRESH: fresh}
        heads = {name: class_aware.class_mean_head(f, n0=self.factor * f.plug_in_n0(), unseen=copied[0]) for name, f in seen.items()}
        weight, bias = detection.map_detector(
            self.carried.means, n0=self.factor * self.new.plug_in_n0(), prior=self.new.prior().to(self.carried.means)
        )
        unseen = (self.carried.counts == 0)[:, None]
        carried = (torch.where(unseen, copied[0].to(weight), weight), bias)
        return {"copied head": copied, **heads, "carried along": carried}


def exits_of(model: nn.Module, b: sixth.Bench, rows: Tensor, *, factor: float, memory: float) -> Exits:
    """Statistics of both texts before anything is fine-tuned."""
    exited = class_aware.attach(model, at=b.s.at).eval()
    old, new = (class_aware.statistics(exited, part.split(32)) for part in (b.text.train[: b.s.statistics], rows))
    return Exits(exited, old, new, CarriedMeans(new, memory=memory), factor)


def n0_factor(b: sixth.Bench) -> float:
    """$N_0$ over its plug-in value, chosen on validation as in chapter 6."""
    p = sixth.probe(b)
    return p.n0[0] / p.found.plug_in_n0()


def moved(now: class_aware.Statistics, before: class_aware.Statistics) -> float:
    r"""How far the class means have moved, in units of the spread within the classes (7.8); 0 is fresh.

    $\sqrt{\sum_v n_v \lVert M_v' - M_v\rVert^2 / \sum_v n_v} \big/ \sqrt{D \hat\sigma^2}$ over the tokens that both have seen.
    """
    both = now.seen & before.seen
    weight = now.counts.double() * both
    squared = (now.class_means - before.class_means).double().square().sum(1)
    spread = before.plug_in_n0() / 2 * now.class_means.shape[1]
    return ((weight * squared).sum() / weight.sum() / spread).sqrt().item()


def tuning_run(b: sixth.Bench, s: SimpleNamespace, *, factor: float, seed: int) -> pd.DataFrame:
    """Fine-tune the whole model on the other text by its final head only, and look at the exit while it does.

    Returns:
        One row per look and way of setting the exit: ``samples`` seen, ``head``, ``accuracy`` of the exit on unseen rows of the other text,
        ``final`` (of the final head), ``moved``.
    """
    model, (train, test), rows = copy.deepcopy(b.model), other_text(b, train=s.train, test=s.test), []
    ways = exits_of(model, b, train, factor=factor, memory=s.memory)

    def loss(wrapped: nn.Module, batch: tuple[Tensor]) -> Tensor:
        out = wrapped(input_ids=batch[0], use_cache=False, output_hidden_states=True)
        hidden = out.hidden_states[b.s.at][:, :-1].detach().float()
        ways.carried.update(hidden.flatten(0, 1), batch[0][:, 1:].flatten())
        return class_aware.lm_loss(out.logits, batch[0])

    def look() -> dict:
        with torch.autocast(_device(model).type, enabled=False):  # a training step is on, and it may round
            return measured()

    def measured() -> dict:
        fresh = class_aware.statistics(ways.exited.eval(), train.split(32))
        x, y = class_aware.collect(ways.exited, test.split(32))
        final = class_aware.evaluate(ways.exited, test.split(32))["final_accuracy"]
        heads = ways.heads(fresh)
        return {"moved": moved(fresh, ways.new), "final": final, "exit": {k: class_aware.accuracy(x, y, h) for k, h in heads.items()}}

    watch = fifth.Watch(loss, [round(share * s.epochs * len(train)) for share in s.looks], look)
    wrapped = class_aware.FullPrecision(model)
    training.fit(
        wrapped,
        TensorDataset(train),
        loss=watch,
        epochs=s.epochs,
        batch_size=s.batch_size,
        optimizer=partial(training.adamw, lr=s.learning_rate),
        seed=seed,
        title="fine-tuning on source code",
    )
    watch.catch_up(wrapped)
    for samples, seen in watch.found.items():
        common = {"seed": seed, "samples": samples, "final": seen["final"], "moved": seen["moved"]}
        rows += [common | {"head": name, "accuracy": accuracy} for name, accuracy in seen["exit"].items()]
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------------- 6b: a reward instead of a text


def word_reward(b: sixth.Bench) -> Tensor:
    """``(V,)``: 1 for tokens that are a space and letters, the beginning of a plain word, else 0."""
    pieces = [b.text.decode([v]) for v in range(b.text.vocabulary)]
    return torch.tensor([float(piece.startswith(" ") and piece[1:].isalpha()) for piece in pieces])


@torch.no_grad()
def sample(model: nn.Module, prompts: Tensor, *, new: int, generator: torch.Generator) -> Tensor:
    """Continue prompts ``(N, T)`` by ``new`` tokens each, drawn from the model: ``(N, T + new)``."""
    ids = prompts
    with in_mode(model):
        for _ in range(new):
            chances = model(input_ids=ids, use_cache=False).logits[:, -1].float().softmax(1).cpu()
            ids = torch.cat([ids, torch.multinomial(chances, 1, generator=generator).to(ids.device)], 1)
    return ids


def reward_run(b: sixth.Bench, s: SimpleNamespace, *, factor: float, seed: int) -> pd.DataFrame:
    """Reward-ranked fine-tuning (Dong et al., 2023) in its smallest form, and what it does to an exit that was set before.

    In each round the model continues prompts, the continuations with the largest share of plain words are kept, and it is trained on them.

    Returns:
        One row per round (0: before) and way of setting the exit: ``round``, ``head``, ``agreement`` of the exit with the final head on
        what the model of that round writes, ``reward`` of what it writes, ``moved``.
    """
    model, generator = copy.deepcopy(b.model), torch.Generator().manual_seed(seed)
    exited, good, device = class_aware.attach(model, at=b.s.at).eval(), word_reward(b), _device(model)
    prompts = b.text.train[: s.samples, : s.prompt].to(device)
    rows, start = [], None
    for number in range(s.rounds + 1):
        written = sample(model, prompts, new=s.new, generator=generator)
        reward = good[written[:, s.prompt :].cpu()].mean(1)
        fresh = class_aware.statistics(exited, written.split(64))
        start = fresh if start is None else start
        copied = class_aware.copied_head(model)
        heads = {"copied head": copied}
        for name, found in (("before", start), (FRESH, fresh)):
            heads[name] = class_aware.class_mean_head(found, n0=factor * found.plug_in_n0(), unseen=copied[0])
        for name, head in heads.items():
            same = torch.cat([_same(class_aware.load(exited, head), part) for part in written.split(64)])
            numbers = {"agreement": same.double().mean().item(), "reward": reward.mean().item(), "moved": moved(fresh, start)}
            rows.append({"seed": seed, "round": number, "head": name, **numbers})
        if number < s.rounds:
            best = written[reward.argsort(descending=True)[: s.keep].to(device)].cpu()
            training.fit(
                class_aware.FullPrecision(model),
                TensorDataset(best),
                loss=sixth._next_token_loss,
                epochs=s.epochs,
                batch_size=s.batch_size,
                optimizer=partial(training.adamw, lr=s.learning_rate),
                seed=seed + number,
                title=f"round {number + 1}",
            )
    return pd.DataFrame(rows)


@torch.no_grad()
def _same(exited: class_aware.ExitModel, ids: Tensor) -> Tensor:
    """Where early exit and final head name the same next token."""
    early, final = exited(ids)
    return (early.argmax(2) == final.argmax(2)).flatten()


# ----------------------------------------------------------------------------------------------- sentences, claims, records


FUTURE = "future work"  # there are no numbers of the thesis to stand beside


@dataclass
class Found:
    """The numbers of one run of the chapter."""

    novelty: list[dict]
    compact: pd.DataFrame  # with ``seed``
    order: pd.DataFrame
    streets: pd.DataFrame  # of `modality_table`
    whole: float  # mean IoU of the whole image network
    clusters: pd.DataFrame
    reading: pd.DataFrame
    tuning: pd.DataFrame
    reward: pd.DataFrame

    @property
    def plain(self) -> dict:
        """The same as plain numbers, for a record."""
        tables = {name: value.astype(object).where(value.notna(), None).to_dict("records") for name, value in vars(self).items()
                  if isinstance(value, pd.DataFrame)}  # fmt: skip
        return {"novelty": self.novelty, "whole": self.whole, **tables}


def novelty_table(runs: Sequence[dict]) -> pd.DataFrame:
    """One row per split, measure and exit: ``split``, ``measure``, ``exit`` (from 1), ``auroc``."""
    return pd.DataFrame(
        [
            {"split": run["seed"], "measure": name, "exit": j, "auroc": value}
            for run in runs
            for name, values in run["auroc"].items()
            for j, value in enumerate(values, 1)
        ]
    )


def novelty_leads(runs: Sequence[dict]) -> pd.DataFrame:
    """AUROC of the distance minus that of the softmax: one row per split, one column per exit (from 1)."""
    table = novelty_table(runs).pivot(index=["split", "exit"], columns="measure", values="auroc")
    return (table["distance"] - table["softmax"]).unstack("exit")


def gate_costs(runs: Sequence[dict]) -> pd.DataFrame:
    """Mean relative cost of images of seen and of unseen classes: without a gate, and with one on each of two scores."""
    first = pd.DataFrame([run["gate"]["distance"] for run in runs]).mean()
    rows = {"no gate": [first.known_open, first.unknown_open]}
    for name in runs[0]["gate"]:
        mean = pd.DataFrame([run["gate"][name] for run in runs]).mean()
        rows[f"gate: {name}"] = [mean.known, mean.unknown]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["seen classes", "unseen classes"])


def order_groups(table: pd.DataFrame, bits: int) -> pd.DataFrame:
    """Per seed: ``before``, ``after``, the mean accuracy of the orders that prune before and after rounding; ``PQD`` and ``PQC``; ``range``
    between the best and the worst of the six orders."""
    wide = table[table.bits == bits].pivot(index="seed", columns="order", values="mean")
    six = [order for order in ORDERS if "C" not in order]
    before = [order for order in six if order.index("P") < order.index("Q")]
    after = [order for order in six if order not in before]
    columns = {"before": wide[before].mean(axis=1), "after": wide[after].mean(axis=1), "PQD": wide["PQD"], "PQC": wide["PQC"]}
    return pd.DataFrame(columns).assign(range=wide[six].mean().max() - wide[six].mean().min())


def class_leads(streets: pd.DataFrame, plan: str = "depth first") -> pd.Series:
    """Mean IoU with thresholds per step and class minus that with thresholds per step, by budget."""
    table = streets[streets.plan == plan].pivot(index="budget", columns="thresholds", values="miou")
    return table["per step and class"] - table["per step"]


def cheapest_as_good(streets: pd.DataFrame, whole: float, plan: str = "depth first") -> float | None:
    """The lowest cost at which a plan has at least the mean IoU of the whole image network."""
    good = streets[(streets.plan == plan) & (streets.miou >= whole)]
    return float(good.cost.min()) if len(good) else None


def kept_leads(table: pd.DataFrame, column: str, how: str = "drop agreeing") -> list[float]:
    """What dropping in one way has over dropping at random, seed by seed, in units of the column."""
    wide = table.pivot(index="seed", columns="kept", values=column)
    return (wide[how] - wide["random"]).tolist()


def last_look(table: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """The last row of each seed, one column per way of setting the exit."""
    return table[table[x] == table[x].max()].pivot(index="seed", columns="head", values=y)


def novelty_sentence(runs: Sequence[dict]) -> str:
    leads, gates = novelty_leads(runs), pd.DataFrame([run["gate"]["distance"] for run in runs]).mean()
    told = ", ".join(f"{plus_minus(leads[j])} at exit {j}" for j in leads)
    return (
        f"The distance is ahead of the trained exit's softmax by {told} (points of AUROC, mean and deviation over "
        f"{len(runs)} splits). Without "
        f"a gate an unseen class costs {gates.unknown_open / gates.known_open:.1f} times as much as a seen one; a gate "
        "on the distance rejects "
        f"{gates.rejected:.0%} of the unseen images, refuses {gates.refused:.0%} of the seen, and takes the accuracy on seen classes "
        f"from {gates.accuracy_open:.3f} to {gates.accuracy:.3f}."
    )


def compact_sentence(table: pd.DataFrame) -> str:
    mean = table.groupby(["grid", "bits"]).mean(numeric_only=True)
    full, small, one = mean.loc[(table.grid.max(), 32)], mean.loc[(2, 4)], mean.loc[(1, 4)]
    return (
        f"4 bits on 2 × 2 averages take {small.bytes:,.0f} instead of {full.bytes:,.0f} bytes "
        f"({full.bytes / small.bytes:.0f} times less) and "
        f"{full.macs / small.macs:.1f} times fewer MACs, and change the accuracy by "
        f"{100 * (small.accuracy - full.accuracy):+.1f} points; a single "
        f"average per map changes it by {100 * (one.accuracy - full.accuracy):+.1f}."
    )


def order_sentence(table: pd.DataFrame) -> str:
    parts = []
    for bits in sorted(set(table[table.order != "dense"].bits), reverse=True):
        g = order_groups(table, bits)
        parts.append(
            f"with {bits} bits the six orders differ by {100 * g.range.iloc[0]:.1f} points, pruning before rounding is ahead by "
            f"{plus_minus(g.before - g.after)} and distillation worth {plus_minus(g.PQD - g.PQC)}"
        )
    size = table.groupby(["bits", "order"]).bytes.mean()
    first = size[(32, "dense")]
    told = ", ".join(f"{bits} bits: {first / size[(bits, 'PQD')]:.0f} times" for bits in sorted(set(table.bits) - {32}, reverse=True))
    return f"{'; '.join(parts)[0].upper()}{'; '.join(parts)[1:]}. Compressed weights shrink ({told})."


def street_sentence(streets: pd.DataFrame, whole: float, enough: pd.Series) -> str:
    cost, lead = cheapest_as_good(streets, whole), class_leads(streets)
    reached = "does not reach it" if cost is None else f"reaches it at {cost:.2f} of its cost"
    by_source = {source: [name for name in enough.index if enough[name] == source] for source in dict.fromkeys(enough)}
    told = "; ".join(f"{source}: {', '.join(names)}" for source, names in by_source.items())
    return (
        f"Sufficient for each class is {told}. The whole image network has a mean IoU of {whole:.3f}; asking the depth "
        f"map first {reached}. "
        f"Thresholds per class change the mean IoU by {100 * lead.mean():+.1f} points on average over the budgets."
    )


def dropping_sentence(clusters: pd.DataFrame, reading: pd.DataFrame) -> str:
    points, rows = kept_leads(clusters, "accuracy"), kept_leads(reading, "perplexity")
    other = kept_leads(reading, "perplexity", "drop disagreeing")
    return (
        "Against dropping at random, dropping what the exits agree on changes the clustering accuracy by "
        f"{plus_minus(points)} points, and the "
        f"language model's perplexity by {plus_minus(rows, unit=1)} (lower is better); dropping what they disagree on "
        "changes the latter by "
        f"{plus_minus(other, unit=1)}."
    )


def stale_sentence(tuning: pd.DataFrame, reward: pd.DataFrame) -> str:
    end, rounds = last_look(tuning, "samples", "accuracy"), last_look(reward, "round", "agreement")
    first, last = (reward[reward["round"] == r].reward.mean() for r in (0, reward["round"].max()))
    moved = [table[table[x] == table[x].max()].moved.mean() for table, x in ((tuning, "samples"), (reward, "round"))]
    return (
        f"Left: at the end the means of the new text from before are {plus_minus(end['new text, before'] - end[FRESH])} points from "
        "estimating anew, those "
        f"carried along {plus_minus(end['carried along'] - end[FRESH])}, the copied head "
        f"{plus_minus(end['copied head'] - end[FRESH])}; the means "
        f"have moved by {moved[0]:.2f} of the spread within a class. Right: the reward rises from {first:.2f} to "
        f"{last:.2f}, the means move by "
        f"{moved[1]:.2f}, and those from before are {plus_minus(rounds['before'] - rounds[FRESH])} points of agreement "
        "from estimating anew."
    )


def plus_minus(values: Sequence[float], *, unit: float = 100, digits: int = 1) -> str:
    """``"+1.2 ± 0.3"``: mean and standard deviation, times ``unit``; one number without a spread."""
    values = pd.Series(list(values)) * unit
    return f"{values.mean():+.{digits}f}" + (f" ± {values.std():.{digits}f}" if len(values) > 1 else "")


def decide(differences: Sequence[float], *, least: float = 0.005) -> bool | None:
    """Whether a difference is positive; ``None`` within two standard errors of its mean, or within ``least``.

    Two or three seeds can agree by chance, hence the second condition; a single run is as good as its ``least``.

    Args:
        differences: one per seed.
        least: by default half a point of accuracy.

    Raises:
        ValueError: no difference.
    """
    if not len(differences):
        raise ValueError("no run, no difference: nothing can be decided")
    return None if abs(sum(differences)) <= least * len(differences) else third.decide(differences)


def everywhere(verdicts: Sequence[bool | None]) -> bool | None:
    """One "no" refutes what is claimed of every exit; without it, one undecided exit leaves the claim undecided."""
    return False if False in verdicts else None if None in verdicts else True


def claim_all(record: experiment.Record, f: Found) -> None:
    """Our hypotheses, one by one, beside what this run found.  The thesis has no numbers here.

    Whether a difference is positive is said by `decide`.
    """
    _claim_images(record, f)
    _claim_streets(record, f.streets, f.whole)
    _claim_dropping(record, f)
    _claim_stale(record, f)


def _claim(record: experiment.Record, number: str, statement: str, values: Sequence[float], holds: bool | None) -> None:
    values = pd.Series(list(values), dtype=float)
    spread = float(values.std()) if len(values) > 1 else None
    ours = float(values.mean())
    record.claim(f"H{number}: {statement}", thesis=FUTURE, ours=ours, spread=spread, holds=holds, where=WHERE[number[0]])


def _claim_images(record: experiment.Record, f: Found) -> None:
    """Open world, compact means, order."""
    leads = novelty_leads(f.novelty)
    worst = leads[leads.mean().idxmin()]
    told = f"the distance tells unseen classes better than the softmax at every exit; ours: smallest lead in AUROC, exit {worst.name}"
    _claim(record, "1a", told, worst, everywhere([decide(leads[j].tolist()) for j in leads]))
    extra = [run["gate"]["distance"]["unknown_open"] - run["gate"]["distance"]["known_open"] for run in f.novelty]
    _claim(record, "1b", "an unseen class costs more than a seen one; ours: difference in relative cost", extra, decide(extra))
    loss = compact_loss(f.compact, grid=2, bits=4)
    _claim(record, "2", "4 bits on 2 × 2 averages lose at most a point at the same budget; ours: loss", loss, bool(loss.mean() <= 0.01))
    rounded = f.order[f.order.order != "dense"]
    most, least = int(rounded.bits.max()), int(rounded.bits.min())
    high, low = order_groups(f.order, most), order_groups(f.order, least)
    width = high.range.iloc[:1]
    told = f"with {most} bits the order matters by less than a point; ours: best minus worst of six"
    _claim(record, "3a", told, width, bool(width.iloc[0] < 0.01))
    gain = (low.before - low.after).tolist()
    _claim(record, "3b", f"with {least} bits pruning has to come before rounding; ours: what it gains", gain, decide(gain))
    gain = (high.PQD - high.PQC).tolist()
    _claim(record, "3c", "distilling at the end beats training on as long; ours: what it gains", gain, decide(gain))


def _claim_streets(record: experiment.Record, streets: pd.DataFrame, whole: float) -> None:
    gain = [float(class_leads(streets).mean())]
    told = "thresholds per class beat one per step, depth asked first; ours: mean lead in mean IoU at equal budgets"
    _claim(record, "4a", told, gain, decide(gain, least=0.01))
    cost = cheapest_as_good(streets, whole)
    told = "H4b: asking the depth map first reaches the whole image network's mean IoU at half its cost; ours: cost"
    ours = "not reached" if cost is None else cost
    record.claim(told, thesis=FUTURE, ours=ours, holds=cost is not None and cost <= 0.5, where=WHERE["4"])


def _claim_dropping(record: experiment.Record, f: Found) -> None:
    gain = kept_leads(f.clusters, "accuracy")
    told = "dropping the points on which the exits agree beats dropping any; ours: lead in clustering accuracy"
    _claim(record, "5a", told, gain, decide(gain))
    gain = [-value for value in kept_leads(f.reading, "perplexity")]
    told = "dropping the rows on which the exits agree beats dropping any; ours: perplexity saved"
    _claim(record, "5b", told, gain, decide(gain, least=1.0))


def _claim_stale(record: experiment.Record, f: Found) -> None:
    end = last_look(f.tuning, "samples", "accuracy")
    gap = end[FRESH] - end["new text, before"]
    told = "class means go stale: after fine-tuning those from before are more than 2 points behind; ours: gap"
    _claim(record, "6a", told, gap, bool(gap.mean() > 0.02))
    gap = end[FRESH] - end["carried along"]
    _claim(record, "6b", "carried along, they stay within a point of estimating anew; ours: gap", gap, bool(gap.mean() <= 0.01))
    end = last_look(f.reward, "round", "agreement")
    gap = end[FRESH] - end["before"]
    told = "training on a reward makes them stale, too: more than 2 points of agreement; ours: gap"
    _claim(record, "6c", told, gap, bool(gap.mean() > 0.02))


WHERE = {"1": "open-world", "2": "compact", "3": "order", "4": "modalities", "5": "dropping", "6": "stale"}  # the cells' labels


def compact_loss(table: pd.DataFrame, *, grid: int, bits: int) -> pd.Series:
    """Accuracy at the budget that the finest grid in 32 bits has more, one number per seed."""
    def accuracy(g: int, b: int) -> pd.Series:
        return table[(table.grid == g) & (table.bits == b)].set_index("seed").accuracy

    return accuracy(table.grid.max(), 32) - accuracy(grid, bits)
