"""Now: inference that stops.

`predict` computes no stage for a sample that has left; `simulate` answers from cached logits what `predict` would have said.  Both
are one loop, `_cascade`, which differs only in where the logits of the samples still there come from.  `predict_stream` lets those
who stay of several batches wait for one another, so that late stages, too, see full batches.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eenotes.network import EarlyExitNetwork, full_precision
from eenotes.rules import Decision, Rule


@dataclass(frozen=True)
class Outcome:
    """What became of N samples."""

    prediction: Tensor  #: ``(N,)`` int64
    exit_index: Tensor  #: ``(N,)`` int64, from 0
    confidence: Tensor  #: ``(N,)`` float32, the rule's, at the exit where the sample left


@torch.inference_mode()
def predict(net: EarlyExitNetwork, x: Tensor, rule: Rule) -> Outcome:
    """Classify a batch stage by stage (1.2); who leaves is taken out of the batch, and the rest goes on.

    Args:
        net: in evaluation mode: batch statistics would make a sample's answer depend on who else is still there.
        x: ``(B, ...)``, on the network's device.
        rule: see `eenotes.rules`.

    Raises:
        ValueError: a network in training mode, an empty batch, mixed devices, NaN logits, a rule that does not fit, a stage that does
            not keep the batch first, or an exit that gives something else than ``(B, K)``.
    """
    _check(net, x)
    features = x

    def observe(j: int, keep: Tensor | None) -> Tensor:
        nonlocal features
        features, logits = _step(net, j, features if keep is None else _gather(features, keep))
        return logits

    return _cascade(observe, count=len(x), num_exits=net.num_exits, rule=rule, device=x.device)


@torch.inference_mode()
def predict_stream(net: EarlyExitNetwork, batches: Iterable[Tensor], rule: Rule, *, batch_size: int) -> Outcome:
    """The `Outcome` of `predict` for a stream of batches, put together; a stage always runs on ``batch_size`` samples.

    A stage that sees the five survivors of one batch takes nearly as long as for twenty.  Here survivors wait for those of the next
    batches (rebatching), and only what still waits at the end of the stream runs as it is.  That buys throughput with latency: for
    answers at once, use `predict`.

    Args:
        net: in evaluation mode.
        batches: inputs ``(B, ...)``, B may vary, on the network's device.
        rule: see `eenotes.rules`.
        batch_size: samples that a stage waits for, and takes at once; at least 1.

    Raises:
        ValueError: a batch size below 1, a stream without samples or with samples of different shapes, types or devices, or what
            `predict` raises.
        TypeError: a stream of something else than tensors.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    rule.check(net.num_exits)
    waiting = [_Queue(batch_size) for _ in range(net.num_exits)]
    asked: list[tuple[Tensor, ...]] = []
    exits: list[int] = []
    count, known = 0, None

    def run(j: int) -> None:
        features, rows, state = waiting[j].full.popleft()
        features, logits = _step(net, j, features)
        decision = rule(j, full_precision(logits), state)
        # Who leaves, and whether an answer is NaN, is sorted out once, at the end: beside a small stage every small operation counts.
        asked.append((rows, decision.leave, decision.prediction, decision.confidence))
        exits.append(j)
        keep = (~decision.leave).nonzero().squeeze(1) if j < net.num_exits - 1 else ()
        if len(keep):
            waiting[j + 1].add(features, keep, rows.index_select(0, keep), None if decision.state is None else decision.state[keep])

    for x in batches:
        if not isinstance(x, Tensor):
            raise TypeError(f"a stream is made of tensors (B, ...), without labels; got {type(x).__name__}")
        kind = (tuple(x.shape[1:]), x.dtype, x.device)
        if known is None:
            _check(net, x)
            known = kind
        if kind != known:
            raise ValueError(f"the samples of a stream must have one shape, type and device: after {known} came {kind}")
        if len(x):
            everyone = torch.arange(len(x), device=x.device)
            waiting[0].add(x, everyone, everyone + count, None)
        count += len(x)
        for j in range(net.num_exits):
            while waiting[j].full:
                run(j)
    if not count:
        raise ValueError("the stream gave no samples: there is nothing to predict")
    for j in range(net.num_exits):
        waiting[j].close()
        while waiting[j].full:
            run(j)
    rows, leave, prediction, confidence = (torch.cat(column) for column in zip(*asked, strict=True))
    exit_index = torch.tensor(exits).repeat_interleave(torch.tensor([len(part[0]) for part in asked])).to(rows.device)
    for j in range(net.num_exits):
        check_answers(j, confidence[exit_index == j])
    left = (leave | (exit_index == net.num_exits - 1)).nonzero().squeeze(1)
    order = left[rows[left].argsort()]
    return Outcome(prediction[order], exit_index[order], confidence[order].float())


def check_answers(j: int, values: Tensor) -> None:
    """Nothing in the logits of exit ``j``, or in what follows from them, ``(...)``, may be NaN.

    Raises:
        ValueError: if something is.
    """
    if values.isnan().any():
        raise ValueError(f"exit {j} gave NaN logits: look at the features or at the head's weights")


@torch.inference_mode()
def simulate(logits: Sequence[Tensor] | Tensor, rule: Rule) -> Outcome:
    """The `Outcome` of `predict`, from the logits of all exits: J tensors ``(N, K)``, or one ``(J, N, K)``, as `collect` returns.

    Raises:
        ValueError: no samples, NaN logits, exits of different lengths, or a rule that does not fit.
    """
    if len({len(exit_logits) for exit_logits in logits}) != 1:
        raise ValueError(f"every exit must have logits for the same samples, got {[len(z) for z in logits]}")
    rows = torch.arange(len(logits[0]), device=logits[0].device)

    def observe(j: int, keep: Tensor | None) -> Tensor:
        nonlocal rows
        if keep is None:
            return logits[j] if len(rows) == len(logits[j]) else logits[j][rows]
        rows = rows[keep]
        return logits[j][rows]

    return _cascade(observe, count=len(rows), num_exits=len(logits), rule=rule, device=rows.device)


@torch.inference_mode()
def collect(net: EarlyExitNetwork, batches: Iterable) -> tuple[Tensor, Tensor]:
    """The logits of every exit, ``(J, N, K)``, and the labels ``(N,)``, over batches ``(x, y)``; both on the network's device.

    Raises:
        ValueError: a network in training mode, no batches, or labels that are not ``(B,)``.
    """
    if any(module.training for module in net.modules()):
        raise ValueError("the network is in training mode: call net.eval() before collect")
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    logits, labels = [], []
    for x, y in batches:
        if y.shape != (len(x),):
            raise ValueError(f"need one label per sample, (B,), got inputs {tuple(x.shape)} with labels {tuple(y.shape)}")
        logits.append(torch.stack([z.float() for z in net(x.to(device))]))
        labels.append(y.to(device))
    if not logits:
        raise ValueError("the loader gave no batch: nothing to collect")
    return torch.cat(logits, 1), torch.cat(labels)


def _cascade(
    observe: Callable[[int, Tensor | None], Tensor], *, count: int, num_exits: int, rule: Rule, device: torch.device
) -> Outcome:
    """Ask exit after exit; ``observe(j, keep)`` gives the logits of those that ``keep`` names among the ones asked last."""
    if count == 0:
        raise ValueError("the batch is empty: there is nothing to predict")
    rule.check(num_exits)
    prediction, exit_index = (torch.empty(count, dtype=torch.int64, device=device) for _ in range(2))
    confidence = torch.empty(count, device=device)
    active, keep, state = torch.arange(count, device=device), None, None
    for j in range(num_exits):
        logits = observe(j, keep)
        decision, stay = _decide(rule, j, logits, state, last=j == num_exits - 1)
        stay = stay.nonzero().squeeze(1)
        keep, state = None, decision.state
        if len(stay) < len(active):
            # Written for those who stay, too: what they leave with later overwrites it.
            prediction[active], confidence[active] = decision.prediction, decision.confidence.float()
            exit_index[active] = j
            if not len(stay):
                break
            keep, active = stay, active[stay]
            state = None if state is None else state[stay]
    return Outcome(prediction, exit_index, confidence)


def _decide(rule: Rule, j: int, logits: Tensor, state: Tensor | None, *, last: bool) -> tuple[Decision, Tensor]:
    """What the rule says at exit ``j``, and who stays, ``(B,)`` bool: at the last exit nobody."""
    decision = rule(j, full_precision(logits), state)
    check_answers(j, decision.confidence)
    return decision, torch.zeros_like(decision.leave) if last else ~decision.leave


class _Queue:
    """Who waits before a stage, in batches of one size.  Samples are copied when they come, so that nothing keeps the others' memory.

    Args:
        size: of a batch.
    """

    def __init__(self, size: int):
        self.size = size
        self.full: deque[tuple[Tensor, Tensor, Tensor | None]] = deque()  # features, places in the stream, the rule's state
        self._open()

    def _open(self) -> None:
        self.features: Tensor | None = None
        self.rows: list[Tensor] = []
        self.state: list[Tensor] = []
        self.count = 0

    def add(self, features: Tensor, keep: Tensor, rows: Tensor, state: Tensor | None) -> None:
        """Add the rows ``keep`` ``(n,)`` of features ``(B, ...)``; ``rows`` and ``state`` ``(n, ...)`` are theirs already."""
        if not self.count and len(keep) == len(features) == self.size:
            self.full.append((features, rows, state))
            return
        for start in range(-self.count, len(keep), self.size):
            part = slice(max(start, 0), start + self.size)
            if self.features is None:
                self.features = _like(features, self.size)
            n = len(keep[part])
            torch.index_select(features, 0, keep[part], out=self.features[self.count : self.count + n])
            self.rows.append(rows[part])
            self.state += [] if state is None else [state[part]]
            self.count += n
            if self.count == self.size:
                self.close()

    def close(self) -> None:
        """Let what waits go as it is."""
        if self.count:
            state = torch.cat(self.state) if self.state else None
            self.full.append((self.features[: self.count], torch.cat(self.rows), state))
        self._open()


def _like(features: Tensor, count: int) -> Tensor:
    """Memory for so many samples, in the same layout."""
    channels_last = features.ndim == 4 and features.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((count, *features.shape[1:]), dtype=features.dtype, device=features.device, memory_format=layout)


def _gather(features: Tensor, keep: Tensor) -> Tensor:
    """The rows ``keep`` ``(n,)`` of features ``(B, ...)``, in the same layout; on a CPU several times faster than indexing."""
    return features if len(keep) == len(features) else torch.index_select(features, 0, keep, out=_like(features, len(keep)))


def _step(net: EarlyExitNetwork, j: int, features: Tensor) -> tuple[Tensor, Tensor]:
    expected = len(features)
    features, logits = net.step(j, features)
    if len(features) != expected or len(logits) != expected:
        raise ValueError(f"stage {j} turned a batch of {expected} into {len(features)}: the batch must stay first")
    if logits.ndim != 2:
        raise ValueError(
            f"exit {j} gave logits {tuple(logits.shape)}: one vector (B, K) per sample is needed; a segmentation network has segment()"
        )
    return features, logits


def _check(net: EarlyExitNetwork, x: Tensor) -> None:
    """Evaluation mode, and one device for all."""
    modules = list(net.modules())
    if any(module.training for module in modules):
        raise ValueError("the network is in training mode: call net.eval() before predict")
    # net.parameters() and net.buffers() would each walk through the modules again: a millisecond, which counts at batch 1.
    held = (tensor for module in modules for tensors in (module._parameters, module._buffers) for tensor in tensors.values())
    devices = {tensor.device for tensor in held if tensor is not None} | {x.device}
    if len(devices) > 1:
        raise ValueError(f"network and input lie on different devices: {sorted(map(str, devices))}; move them to one")
