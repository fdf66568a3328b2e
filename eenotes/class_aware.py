r"""Class-aware initialisation of early exits in language models (Görmez and Koyuncu; Görmez's thesis, 2024).

An exit after some decoder sees a hidden vector and has to name the next token: a detector in a noisy channel with one message per token of
the vocabulary.  Its weights follow from class means and token counts, without a gradient: `eenotes.detection.map_detector`.
Works on any causal language model of `transformers` that keeps its decoders in one list; nothing here imports `transformers` itself.
Equation numbers are those of chapter 6.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from eenotes import training
from eenotes.detection import linear_discriminant, map_detector
from eenotes.means import ClassMeans
from eenotes.network import in_mode

IGNORED = -100  # the label that transformers' losses leave out
INITIALISATIONS = ("random", "copy", "class mean", "class mean + random", "class mean + copy")
Linear = tuple[Tensor, Tensor]  # weight (V, D), bias (V,)


@dataclass(frozen=True)
class Anatomy:
    """Where a causal language model keeps what an exit needs.

    Attributes:
        owner: the module with the list of decoders.
        name: of that list in it.
        final_norm: between the last decoder and the head; ``None`` if the model has none (OPT-350m).
        projection: from the decoders' width to the head's; ``None`` if they are equal.
        head: the final head.
    """

    owner: nn.Module
    name: str
    final_norm: nn.Module | None
    projection: nn.Module | None
    head: nn.Linear

    @property
    def decoders(self) -> nn.ModuleList:
        return getattr(self.owner, self.name)


def anatomy(model: nn.Module) -> Anatomy:
    """Find decoders, final norm, projection and head of a causal language model (OPT, Llama, GPT-NeoX, GPT-2 and their kin).

    Raises:
        TypeError: no single list of decoders, or no linear head.
    """
    depth = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    found = [
        (owner, name)
        for owner in model.modules()
        for name, child in owner.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == depth
    ]
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if len(found) != 1 or not isinstance(head, nn.Linear):
        raise TypeError(
            f"{type(model).__name__} is not a causal language model with one list of config.num_hidden_layers decoders and a linear head"
        )
    owner, name = found[0]
    norms = (getattr(owner, key, None) for key in ("final_layer_norm", "norm", "ln_f", "final_layernorm"))
    final_norm = next((norm for norm in norms if norm is not None), None)
    return Anatomy(owner, name, final_norm, getattr(owner, "project_out", None), head)


class ExitHead(nn.Module):
    """An exit after a decoder: optionally a norm, then one linear layer; ``(..., D)`` → ``(..., V)``, the logits of equation (6.8)."""

    def __init__(self, width: int, vocabulary: int, *, norm: nn.Module | None = None):
        super().__init__()
        self.norm, self.linear = norm, nn.Linear(width, vocabulary)

    def features(self, hidden: Tensor) -> Tensor:
        """What the linear layer sees, ``(..., D)``."""
        return hidden if self.norm is None else self.norm(hidden)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear(self.features(hidden))


class ExitModel(nn.Module):
    """A causal language model with one early exit; ``ids (B, T)`` → logits of the exit and of the final head, both ``(B, T, V)``.

    Made by `attach`.  The language model is the very one that was given, not a copy.
    """

    def __init__(self, model: nn.Module, exit_head: ExitHead, at: int):
        super().__init__()
        self.model, self.exit_head, self.at = model, exit_head, at

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        with _recorded(self.model, self.at) as seen:
            final = self.model(input_ids=ids, use_cache=False).logits
        return self.exit_head(seen[0]), final

    def exit_logits(self, ids: Tensor) -> Tensor:
        """The exit alone, ``ids (B, T)`` → ``(B, T, V)``: only the first decoders run."""
        return self.exit_head(hidden_states(self.model, ids, at=self.at))

    def features(self, ids: Tensor) -> Tensor:
        """What the exit's linear layer sees, ``(B, T, D)``."""
        return self.exit_head.features(hidden_states(self.model, ids, at=self.at))


def attach(model: nn.Module, *, at: int, norm: bool = False) -> ExitModel:
    """Attach an exit after the first ``at`` decoders; its linear layer has a bias and PyTorch's own random weights.

    Args:
        model: a causal language model of `transformers`.
        at: how many decoders run before the exit, from 1 to all but one.
        norm: put a copy of the model's final norm before the linear layer, instead of giving it the raw output of the decoder.

    Raises:
        TypeError: see `anatomy`.
        ValueError: an exit out of range, or ``norm`` on a model without a final norm.
    """
    parts = anatomy(model)
    _check_at(parts, at)
    if norm and parts.final_norm is None:
        raise ValueError("this model has no final norm to copy: attach with norm=False")
    own_norm = copy.deepcopy(parts.final_norm) if norm else None
    reference = parts.head.weight
    exit_head = ExitHead(model.config.hidden_size, parts.head.out_features, norm=own_norm).to(reference.device, reference.dtype)
    return ExitModel(model, exit_head, at)


def hidden_states(model: nn.Module, ids: Tensor, *, at: int, **inputs) -> Tensor:
    """The output of decoder number ``at`` (from 1), raw, for ``ids (B, T)``: ``(B, T, D)``.  The decoders after it do not run.

    Args:
        model: a causal language model.
        ids: token numbers.
        at: from 1 to the number of decoders.
        inputs: more of the model's own arguments, for example ``past_key_values``.

    Raises:
        TypeError: see `anatomy`.
        ValueError: ``at`` out of range.
    """
    parts = anatomy(model)
    if not 1 <= at <= len(parts.decoders):
        raise ValueError(f"the model has {len(parts.decoders)} decoders; at={at} must lie in 1..{len(parts.decoders)}")
    inputs.setdefault("use_cache", "past_key_values" in inputs)
    with _recorded(model, at) as seen, only(parts, slice(0, at)):
        parts.owner(input_ids=ids, **inputs)
    return seen[0]


@contextmanager
def only(parts: Anatomy, which: slice) -> Iterator[None]:
    """Let the model run a part of its decoders; everything else, the key-value cache too, stays the model's own business."""
    everything = parts.decoders
    setattr(parts.owner, parts.name, everything[which])
    try:
        yield
    finally:
        setattr(parts.owner, parts.name, everything)


# ---------------------------------------------------------------------------------------------------------- statistics


@torch.no_grad()
def statistics(
    model: ExitModel, batches: Iterable[Tensor], *, target: Literal["next", "input"] = "next", covariance: bool = False
) -> "Statistics":
    r"""Class means of the exit's features in one pass (6.15): $M_v = \frac{1}{|S_v|}\sum_{i \in S_v} r_i$.

    Memory: one V × D array, V counts and one number, however long the text (and D × D with ``covariance``).

    Args:
        model: from `attach`, in evaluation mode.
        batches: token numbers ``(B, T)``, from any iterator; or pairs of them and labels ``(B, T)`` in the manner of transformers, where
            -100 marks positions to leave out.  Positions belong to the same text only within a row.
        target: whose class a position belongs to: the token that comes ``"next"``, which is what the exit shall detect, or the one
            that was put in.
        covariance: also add up the products of the features, for `class_mean_head` with ``whiten=True``.

    Raises:
        ValueError: an empty corpus, token numbers that the head does not know, another ``target``, a model in training mode.
    """
    if target not in ("next", "input"):
        raise ValueError(f"target={target!r} must be 'next' or 'input'")
    if any(module.training for module in model.modules()):
        raise ValueError("the model is in training mode: call eval(), or dropout would be averaged into the class means")
    head = model.exit_head.linear
    found = Statistics(ClassMeans(head.out_features).to(head.weight.device), torch.zeros(head.in_features, head.in_features).double())
    for batch in batches:
        ids, labels = batch if isinstance(batch, tuple | list) else (batch, batch)
        check_ids(ids, head.out_features)
        ids, labels = ids.to(head.weight.device), labels.to(head.weight.device)
        features, labels = _aligned(model.features(ids), labels, target)
        if len(labels):
            found.means.update(features, labels)
            if covariance:
                found.products.add_((features.float().T @ features.float()).cpu())
    return found.summed()


@dataclass
class Statistics:
    """What one pass over a text has added up, summed over the processes of ``torch.distributed``.

    Attributes:
        means: the shared part of the package, with V classes; unseen tokens allowed.
        products: ``(D, D)``, sum of $r r^T$; zeros unless it was asked for.
    """

    means: ClassMeans
    products: Tensor

    @property
    def counts(self) -> Tensor:
        """``(V,)``: how often each token was the class of a position."""
        return self.means.counts

    @property
    def seen(self) -> Tensor:
        """``(V,)``: whether it occurred at all."""
        return self.counts > 0

    @property
    def class_means(self) -> Tensor:
        """``(V, D)``; zeros for tokens that were never seen."""
        return self.means.sums / self.counts.clamp_min(1)[:, None]

    def prior(self, *, smoothing: float = 0.5) -> Tensor:
        r"""``(V,)``, in double precision: $P_v = (n_v + \lambda) / (n + \lambda V)$ (6.16); above 0 for unseen tokens, too.

        Raises:
            ValueError: a ``smoothing`` that is not positive.
        """
        if not smoothing > 0:
            raise ValueError(f"smoothing must be positive, got {smoothing}: a token of probability 0 could never be decided")
        counts = self.counts.double() + smoothing
        return counts / counts.sum()

    def plug_in_n0(self) -> float:
        r"""$\hat N_0 = 2\hat\sigma^2$ (6.17), the pooled variance within the classes, per dimension.

        $\hat\sigma^2 = \bigl(\sum_i \lVert r_i\rVert^2 - \sum_v n_v \lVert M_v\rVert^2\bigr) / \bigl((n - V_{\text{seen}}) D\bigr)$.

        Raises:
            ValueError: if no token occurs twice: there is no variance within a class then.
        """
        return 2 * self._within() / self.means.sums.shape[1]

    def within_covariance(self) -> Tensor:
        """``(D, D)``, pooled within the classes, in double precision; its mean eigenvalue is half of `plug_in_n0`.

        Raises:
            ValueError: if `statistics` was not asked for it.
        """
        if not self.products.any():
            raise ValueError("the products were not added up: call statistics(..., covariance=True)")
        self._within()  # raises if undefined
        means = self.class_means.double().cpu()
        between = (means * self.counts.cpu()[:, None]).T @ means
        return (self.products - between) / (self.counts.sum() - self.seen.sum()).item()

    def summed(self) -> "Statistics":
        """Add up over all processes; alone, nothing happens.

        Raises:
            ValueError: if nothing was seen at all.
        """
        if int(self.counts.sum()) == 0:
            raise ValueError("no position to learn from: the corpus (in this process) is empty, or every label is ignored")
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self.means.sync()
            device = self.means.device  # gloo sums on the CPU, nccl on the GPU
            products = self.products.to(device)
            torch.distributed.all_reduce(products)
            self.products = products.cpu()
        return self

    def _within(self) -> float:
        counts, degrees = self.counts.double(), int(self.counts.sum() - self.seen.sum())
        if degrees < 1:
            raise ValueError("no token occurs twice: the noise cannot be estimated; give more text, or n0 yourself")
        explained = (counts * self.class_means.double().square().sum(1)).sum()
        return max(float(self.means.squares - explained) / degrees, 1e-12)


# ----------------------------------------------------------------------------------------------------- initialisations


def class_mean_head(
    found: Statistics,
    *,
    n0: float | None = None,
    smoothing: float = 0.5,
    scale: bool = False,
    unseen: Tensor | None = None,
    whiten: bool = False,
) -> Linear:
    r"""Weight and bias of an exit from class means: the MAP detector (6.9) with the tokens as messages.

    $w_v = M_v$, $b_v = \frac{N_0}{2}\ln P_v - \frac12\lVert M_v\rVert^2$.

    Args:
        found: from `statistics`.
        n0: $N_0$; ``None``: `Statistics.plug_in_n0`.
        smoothing: of the prior.
        scale: multiply both by $2/N_0$ (6.10).  The decision stays; the logits become log posteriors, as a cross-entropy wants them.
        unseen: ``(V, D)``, weights for tokens that never occurred, usually the copied head's, whose logits are log probabilities up to a
            constant; without ``scale`` they are multiplied by $N_0/2$ like everything else, so that the decision stays.  Their bias
            keeps the smoothed prior's part.  ``None``: weight 0.
        whiten: use the covariance within the classes instead of $\frac{N_0}{2} I$ (6.14): linear discriminant analysis.  It is multiplied
            so that its mean eigenvalue is $N_0/2$, and the logits are log posteriors, whatever ``scale``.

    Raises:
        ValueError: ``n0`` or ``smoothing`` not positive; ``unseen`` of another shape.
    """
    means, prior = found.class_means, found.prior(smoothing=smoothing)
    if unseen is not None and unseen.shape != means.shape:
        raise ValueError(f"unseen must have the shape of the class means, {tuple(means.shape)}, got {tuple(unseen.shape)}")
    n0 = found.plug_in_n0() if n0 is None else n0
    if not (n0 > 0 and math.isfinite(n0)):
        raise ValueError(f"n0 must be a positive number, twice the noise variance per dimension, got {n0}")
    if whiten:
        covariance = found.within_covariance() * n0 / found.plug_in_n0()
        covariance += 1e-4 * covariance.diagonal().mean() * torch.eye(len(covariance)).to(covariance)
        weight, bias = linear_discriminant(means.double().cpu(), covariance, prior=prior.cpu())
        weight, bias, floor = weight.to(means), bias.to(means), prior.log()
    else:
        weight, bias = map_detector(means, n0=n0, prior=prior)
        if scale:
            weight, bias = 2 / n0 * weight, 2 / n0 * bias
        unit = 1 if scale else n0 / 2
        floor, unseen = unit * prior.log(), None if unseen is None else unit * unseen
    missing = ~found.seen[:, None]
    if unseen is not None:
        weight = torch.where(missing, unseen.to(weight), weight)
    return weight, torch.where(missing[:, 0], floor.to(bias), bias)


def copied_head(model: nn.Module) -> Linear:
    """The final head as an exit's weight ``(V, D)`` and bias (0 without one); with OPT-350m's projection multiplied into it."""
    parts = anatomy(model)
    weight = parts.head.weight.detach()
    bias = torch.zeros(len(weight)).to(weight) if parts.head.bias is None else parts.head.bias.detach().clone()
    if parts.projection is None:
        return weight.clone(), bias
    if parts.projection.bias is not None:
        bias = bias + weight @ parts.projection.bias.detach()
    return weight @ parts.projection.weight.detach(), bias


def random_head(model: nn.Module, *, seed: int) -> Linear:
    r"""Uniform weights and biases within $\pm 1/\sqrt D$, as `torch.nn.Linear` begins."""
    parts, width = anatomy(model), model.config.hidden_size
    generator, bound = torch.Generator().manual_seed(seed), 1 / math.sqrt(width)
    drawn = (2 * torch.rand(parts.head.out_features, width + 1, generator=generator) - 1) * bound
    return drawn[:, :width].to(parts.head.weight), drawn[:, width].to(parts.head.weight)


def mix(first: Linear, other: Linear, *, alpha: float) -> Linear:
    r"""$\alpha$ times the first head plus $1-\alpha$ times the other (6.18), weight and bias alike.

    Raises:
        ValueError: $\alpha$ outside [0, 1], or heads of different shapes.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
    if first[0].shape != other[0].shape:
        raise ValueError(f"the heads differ in shape: {tuple(first[0].shape)} and {tuple(other[0].shape)}")
    return tuple(alpha * a + (1 - alpha) * b.to(a) for a, b in zip(first, other, strict=True))


@torch.no_grad()
def load(model: ExitModel, head: Linear) -> ExitModel:
    """Write weight and bias into the exit, in place; the model is returned.

    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite.
    """
    linear = model.exit_head.linear
    if head[0].shape != linear.weight.shape or head[1].shape != linear.bias.shape:
        raise ValueError(f"the exit's weight is {tuple(linear.weight.shape)}, the head given {tuple(head[0].shape)}")
    if not all(tensor.isfinite().all() for tensor in head):
        raise ValueError("the head given holds NaN or infinite values")
    linear.weight.copy_(head[0])
    linear.bias.copy_(head[1])
    return model


def initialise(
    model: ExitModel,
    how: str,
    *,
    found: Statistics | None = None,
    alpha: float = 0.5,
    n0: float | None = None,
    scale: bool = False,
    seed: int = 0,
) -> ExitModel:
    r"""Initialise the exit one of five ways (`INITIALISATIONS`), in place.

    Args:
        model: from `attach`.
        how: ``"random"``, ``"copy"``, ``"class mean"``, ``"class mean + random"`` or ``"class mean + copy"``.
        found: from `statistics`, for those with class means.  Tokens it has not seen get the copied head's weight.
        alpha: share of the class means in a mixture.
        n0: as in `class_mean_head`.
        scale: as in `class_mean_head`.
        seed: of the random weights.

    Raises:
        ValueError: another word, missing statistics, or what the parts raise.
    """
    if how not in INITIALISATIONS:
        raise ValueError(f"how={how!r} must be one of {', '.join(INITIALISATIONS)}")
    if "class mean" in how and found is None:
        raise ValueError(f"{how!r} needs found=statistics(...)")
    copied = copied_head(model.model)
    other = random_head(model.model, seed=seed) if "random" in how else copied
    if "class mean" not in how:
        return load(model, other)
    head = class_mean_head(found, n0=n0, scale=scale, unseen=copied[0])
    return load(model, head if how == "class mean" else mix(head, other, alpha=alpha))


# ------------------------------------------------------------------------------------------------ scoring and choosing


@torch.no_grad()
def collect(model: ExitModel, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Features of all positions that have a next token, ``(N, D)``, and that token, ``(N,)``, of batches ``(B, T)``; on the CPU.

    Raises:
        ValueError: no batch, or token numbers that the head does not know.
    """
    pairs = []
    with in_mode(model):
        for ids in batches:
            check_ids(ids, model.exit_head.linear.out_features)
            ids = ids.to(model.exit_head.linear.weight.device)
            pairs.append([tensor.cpu() for tensor in _aligned(model.features(ids), ids, "next")])
    if not pairs:
        raise ValueError("no batch: there is nothing to collect")
    features, labels = zip(*pairs, strict=True)
    return torch.cat(features), torch.cat(labels)


@torch.no_grad()
def accuracy(features: Tensor, labels: Tensor, head: Linear) -> float:
    """Next-token accuracy of a linear head on features ``(N, D)`` and labels ``(N,)``, as `collect` gives them."""
    weight, bias = (tensor.to(features) for tensor in head)
    right = [(torch.addmm(bias, x, weight.T).argmax(1) == y).sum() for x, y in zip(features.split(4096), labels.split(4096), strict=True)]
    return (torch.stack(right).sum() / len(labels)).item()


def choose(candidates: Iterable[float], score: Callable[[float], float]) -> tuple[float, dict[float, float]]:
    """The candidate with the highest score, the first of equals, and all scores: for $N_0$ and α on a validation split.

    Raises:
        ValueError: no candidate.
    """
    scores = {value: score(value) for value in candidates}
    if not scores:
        raise ValueError("no candidate to choose from")
    return max(scores, key=scores.get), scores


@torch.no_grad()
def evaluate(model: ExitModel, batches: Iterable[Tensor]) -> dict[str, float]:
    """Next-token accuracy and perplexity of the exit and of the final head: ``exit_accuracy``, ``exit_perplexity``, ``final_…``.

    Args:
        model: from `attach`; its mode is put back afterwards.
        batches: token numbers ``(B, T)``.

    Raises:
        ValueError: no batch.
    """
    totals, count = torch.zeros(2, 2, dtype=torch.float64), 0
    device = model.exit_head.linear.weight.device
    with in_mode(model):
        for ids in batches:
            ids = ids.to(device)
            for row, logits in zip(totals, model(ids), strict=True):
                logits, labels = _aligned(logits, ids, "next")
                row += _right_and_loss(logits, labels)
            count += len(labels)
    if not count:
        raise ValueError("no batch: there is nothing to evaluate")
    named = zip(("exit", "final"), totals, strict=True)
    return {f"{name}_{what}": value for name, row in named for what, value in _rates(row, count).items()}


def _right_and_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """How many are right, and the summed cross-entropy, ``(2,)``."""
    loss = nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
    return torch.stack([(logits.argmax(1) == labels).sum(), loss]).double().cpu()


def _rates(sums: Tensor, count: int) -> dict[str, float]:
    right, loss = (sums / count).tolist()
    return {"accuracy": right, "perplexity": math.exp(min(loss, 50))}  # a random head's can leave the range of a float


# ------------------------------------------------------------------------------------------------------------ training


def lm_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy of the next token: logits ``(B, T, V)``, ids ``(B, T)``."""
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


def train(
    model: ExitModel,
    ids: Tensor,
    *,
    freeze: bool,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    held_out: Tensor,
    weights: tuple[float, float] = (0.5, 0.5),
    features: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
) -> list[dict[str, float]]:
    """Train the exit alone, or everything; through `accelerate`, with AdamW and a learning rate that stays as it is.

    Args:
        model: from `attach`, initialised; trained in place and left in evaluation mode.
        ids: text to train on, ``(N, T)``.
        freeze: train only the exit's linear layer, on features that are computed once; otherwise all weights.
        epochs: passes over the text; 0 only evaluates.
        batch_size: rows of ``ids`` per step.
        learning_rate: AdamW's.
        held_out: text to evaluate on, ``(N, T)``.
        weights: of the exit's and the final head's loss, without freezing.
        features: for ``freeze``, from `collect` on ``ids``, if they are at hand.
        seed: of the order of the samples.

    Returns:
        One row per epoch, the first (epoch 0) before any training: `evaluate`'s numbers and ``epoch``.

    Raises:
        ValueError: no text, or a loss that is not finite.
    """
    if not len(ids) or not len(held_out) or epochs < 0 or batch_size < 1:
        raise ValueError(f"need text, text to evaluate on and a batch size of at least 1: got {len(ids)}, {len(held_out)}, {batch_size}")
    check_ids(ids, model.exit_head.linear.out_features)
    accelerator = training.accelerator()
    model.to(accelerator.device)
    score = _scorer(model, held_out.split(32), freeze=freeze)
    history = [{"epoch": 0, **score()}]
    if epochs and freeze:
        found = collect(model, ids.split(32)) if features is None else features
        rows = [tensor.unflatten(0, (len(ids), -1)) for tensor in found]  # a step sees as much text as without freezing
        module, data = model.exit_head.linear, torch.utils.data.TensorDataset(*rows)
        loss = _head_loss
    else:
        module, data, loss = model, torch.utils.data.TensorDataset(ids), _both_losses(weights)
    if epochs:
        module = FullPrecision(module)
        optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=0.01)
        loader = torch.utils.data.DataLoader(data, batch_size, shuffle=True)
        # The frame of eenotes.training.fit, whose loop has no place for an evaluation between two epochs.
        with training._own_randomness(seed), training._prepared(module, module, optimizer, loader) as (prepared, stepper, batches):
            for epoch in range(1, epochs + 1):
                module.train()
                batches.set_epoch(epoch)
                for batch in batches:
                    with accelerator.autocast():
                        value = loss(prepared, *batch)
                    if not value.isfinite():
                        raise ValueError(f"the loss of epoch {epoch} is not finite; lower the learning rate")
                    accelerator.backward(value)
                    stepper.step()
                    stepper.zero_grad()
                history.append({"epoch": epoch, **score()})
    model.eval()
    return history


class FullPrecision(nn.Module):
    """A module without autocast on the CPU, where converting a small model's numbers to bfloat16 takes longer than multiplying them."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, *inputs, **named):
        if next(self.inner.parameters()).device.type != "cpu":
            return self.inner(*inputs, **named)
        with torch.autocast("cpu", enabled=False):
            return self.inner(*inputs, **named)


def check_ids(ids: Tensor, vocabulary: int) -> None:
    """Check token numbers.

    Raises:
        ValueError: unless ``ids`` are whole numbers ``(B, T)`` below the size of the head.
    """
    if ids.ndim != 2 or ids.is_floating_point():
        raise ValueError(f"token numbers must be whole numbers (B, T), got {ids.dtype} {tuple(ids.shape)}")
    if ids.numel() and (ids.min() < 0 or ids.max() >= vocabulary):
        raise ValueError(f"the text has token numbers {int(ids.min())}..{int(ids.max())}, the head {vocabulary} tokens: another tokenizer?")


def _scorer(model: ExitModel, held_out: Sequence[Tensor], *, freeze: bool) -> Callable[[], dict[str, float]]:
    """`evaluate` on held-out text; frozen, what does not change between epochs is computed only once."""
    if not freeze:
        return lambda: evaluate(model, held_out)
    (x, y), first, device = collect(model, held_out), evaluate(model, held_out), model.exit_head.linear.weight.device

    @torch.no_grad()
    def score() -> dict[str, float]:
        pairs = zip(x.split(4096), y.split(4096), strict=True)
        sums = sum(_right_and_loss(model.exit_head.linear(a.to(device)), b.to(device)) for a, b in pairs)
        return first | {f"exit_{what}": value for what, value in _rates(sums, len(y)).items()}

    return score


def _head_loss(linear: nn.Linear, features: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(linear(features.flatten(0, 1)).float(), labels.flatten())


def _both_losses(weights: tuple[float, float]) -> Callable:
    def loss(model: ExitModel, ids: Tensor) -> Tensor:
        return sum(weight * lm_loss(logits, ids) for weight, logits in zip(weights, model(ids), strict=True))

    return loss


def _aligned(values: Tensor, labels: Tensor, target: str) -> tuple[Tensor, Tensor]:
    """Positions and their classes as one long list, ignored ones left out: ``(B, T, D)``, ``(B, T)`` → ``(N, D)``, ``(N,)``."""
    if target == "next":
        values, labels = values[:, :-1], labels[:, 1:]
    kept = labels != IGNORED
    return values[kept], labels[kept]


@contextmanager
def _recorded(model: nn.Module, at: int) -> Iterator[list[Tensor]]:
    """What decoder number ``at`` (from 1) puts out while it lasts; a list of hidden states ``(B, T, D)``, one per call."""
    seen: list[Tensor] = []

    def note(_, __, output) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    handle = anatomy(model).decoders[at - 1].register_forward_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


def _check_at(parts: Anatomy, at: int) -> None:
    last = len(parts.decoders) - 1
    if isinstance(at, bool) or not isinstance(at, int) or not 1 <= at <= last:
        raise ValueError(f"an early exit of this model comes after decoder 1..{last}, got at={at!r}")
