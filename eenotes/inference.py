"""Inference with early exits, batch by batch: `predict`, `simulate` and `collect`.

`predict` computes no further stage for a sample that has exited; `simulate` gives the same outcome
from cached logits, which `collect` makes.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from eenotes._checks import entering, pairs_on, require_answers, require_eval
from eenotes._processes import gathered
from eenotes.network import EarlyExitNetwork, full_precision
from eenotes.rules import Rule, open_exits


@dataclass(frozen=True)
class Outcome:
    """The result for N samples."""

    prediction: Tensor  #: ``(N,)`` int64
    exit_index: Tensor  #: ``(N,)`` int64, from 0
    confidence: Tensor  #: ``(N,)`` float32, the rule's, at the exit that the sample takes


@torch.inference_mode()
def predict(net: EarlyExitNetwork, x: Tensor, rule: Rule) -> Outcome:
    """Classify a batch ``x`` ``(B, ...)`` stage by stage (1.2), with a rule of `eenotes.rules`.

    Samples that exit are taken out of the batch; the next stage computes the rest.  The network is
    in evaluation mode: batch statistics would make a prediction depend on the samples that stay.
    Floats are read in its precision, as wherever a batch enters.

    Raises:
        ValueError: a network in training mode, an empty batch, mixed devices, a rule that does not
            fit, a stage that does not keep the batch first, or logits not ``(B, K)``, or NaN.
        TypeError: inputs of a type that the network does not take.
    """
    check_ready(net, x)
    features = x

    def observe(j: int, keep: Tensor | None, is_open: bool) -> Tensor | None:
        nonlocal features
        if keep is not None:  # on a CPU several times faster than indexing
            rows = empty_rows(features, len(keep))
            features = torch.index_select(features, 0, keep, out=rows)
        features, logits = run_stage(net, j, features, is_open=is_open)
        return logits

    samples = torch.arange(len(x), device=x.device)
    return _cascade(observe, rule, samples, num_exits=net.num_exits)


@torch.inference_mode()
def simulate(logits: Sequence[Tensor] | Tensor, rule: Rule) -> Outcome:
    """The `Outcome` of `predict`, from the logits of all exits: J of ``(N, K)``, or ``(J, N, K)``.

    Raises:
        ValueError: no samples, NaN logits, exits of different lengths, or a rule that does not fit.
    """
    if len({len(exit_logits) for exit_logits in logits}) != 1:
        raise ValueError(f"exits must have logits of the same samples, got {[*map(len, logits)]}")
    for j, exit_logits in enumerate(logits):
        _check_logits(j, exit_logits)
    rows = torch.arange(len(logits[0]), device=logits[0].device)

    def observe(j: int, keep: Tensor | None, is_open: bool) -> Tensor | None:
        nonlocal rows
        rows = rows if keep is None else rows[keep]
        if not is_open:
            return None
        return logits[j] if len(rows) == len(logits[j]) else logits[j][rows]

    return _cascade(observe, rule, rows, num_exits=len(logits))


@torch.no_grad()
def collect(net: EarlyExitNetwork, batches: Iterable) -> tuple[Tensor, Tensor]:
    """The logits of every exit, ``(J, N, K)``, and the labels, ``(N,)``, on the network's device.

    The network is in evaluation mode, ``batches`` are pairs ``(x, y)`` as a data loader gives them.
    The samples of all processes of ``torch.distributed`` come one process after the other.

    Raises:
        ValueError: a network in training mode, no batches, or labels or logits of another shape.
        TypeError: batches that are no pairs of tensors.
    """
    require_eval(net.modules(), what="network", before="collect")
    logits, labels, device = [], [], next((p.device for p in net.parameters()), "cpu")
    for x, y in pairs_on(net, batches):
        if y.shape != (len(x),):
            shapes = f"{tuple(x.shape)} with labels {tuple(y.shape)}"
            raise ValueError(f"need one label per sample, (B,), got inputs {shapes}")
        if not len(x):
            continue  # what a reshape makes of no samples is undefined
        with entering(x, net) as x:
            exits = net(x)
        for j, exit_logits in enumerate(exits):
            _check_logits(j, exit_logits)
        logits.append(torch.stack([z.float() for z in exits]))
        labels.append(y)
    parts = gathered((torch.cat(logits, 1).cpu(), torch.cat(labels).cpu()) if logits else None)
    parts = [part for part in parts if part is not None]
    if not parts:
        raise ValueError("the loader gave no batch: nothing to collect")
    every_logits, every_label = zip(*parts, strict=True)
    return torch.cat(every_logits, 1).to(device), torch.cat(every_label).to(device)


def first_exit(leave: Tensor) -> Tensor:
    """The exit of each sample, ``(N,)``: the first open one of ``(J-1, N)``, or the last, J-1."""
    return torch.cat([leave, leave.new_ones(1, leave.shape[1])]).int().argmax(0)


def _cascade(
    observe: Callable[[int, Tensor | None, bool], Tensor | None],
    rule: Rule,
    active: Tensor,
    *,
    num_exits: int,
) -> Outcome:
    """Exit after exit, until none of the samples that are ``active``, 0 to N-1, is left.

    ``observe(j, keep, is_open)`` gives the logits of exit j for the rows ``keep`` of those that
    were in the batch at exit j-1, all of them for ``None``; nothing where the exit is closed.
    """
    if not len(active):
        raise ValueError("the batch is empty: there is nothing to predict")
    rule.check(num_exits)
    prediction, exit_index = torch.empty_like(active), torch.empty_like(active)
    confidence = torch.empty(len(active), device=active.device)
    keep = state = None
    highest = {}  # confidence at each exit: NaN if one of them is
    for j, is_open in enumerate(open_exits(rule, num_exits)):
        logits, keep = observe(j, keep, is_open), None
        if logits is None:
            continue
        decision = rule(j, full_precision(logits), state)
        highest[j] = decision.confidence.amax()
        last = j == num_exits - 1
        stay = active[:0] if last else (~decision.leave).nonzero().squeeze(1)
        state = decision.state
        if len(stay) < len(active):
            # Written for the samples that stay, too: a later exit overwrites it.
            prediction[active] = decision.prediction
            confidence[active] = decision.confidence.float()
            exit_index[active] = j
            if not len(stay):
                break
            keep, active = stay, active[stay]
            state = None if state is None else state[stay]
    # Asked once, at the end: every question makes an accelerator wait.
    for j, value in zip(highest, torch.stack([*highest.values()]).cpu(), strict=True):
        require_answers(j, value)
    return Outcome(prediction, exit_index, confidence)


def empty_rows(features: Tensor, count: int) -> Tensor:
    """Memory for ``count`` samples, in the layout of ``features`` ``(B, ...)``."""
    channels_last = features.ndim == 4 and features.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    shape = count, *features.shape[1:]
    return torch.empty(shape, dtype=features.dtype, device=features.device, memory_format=layout)


def run_stage(
    net: EarlyExitNetwork, j: int, features: Tensor, *, is_open: bool = True
) -> tuple[Tensor, Tensor | None]:
    """The features ``(B, ...)`` and the logits ``(B, K)`` of stage ``j``.

    A closed exit is not run and has no logits.

    Raises:
        ValueError: a stage that changes the size of the batch, or logits of another shape.
    """
    expected = len(features)
    with entering(features, net) if j == 0 else nullcontext(features) as features:
        features, logits = net.step(j, features) if is_open else (net.stages[j](features), None)
    if is_open:
        _check_logits(j, logits)
    if len(features) != expected or (is_open and len(logits) != expected):
        what = f"stage {j} turned a batch of {expected} into {len(features)}"
        raise ValueError(f"{what}: the batch must stay first")
    return features, logits


def _check_logits(j: int, logits: Tensor) -> None:
    """Refuse what exit ``j`` gave unless it is logits ``(B, K)`` of at least two classes."""
    if not isinstance(logits, Tensor):
        kind = type(logits).__name__
        raise TypeError(f"exit {j} gave a {kind}, not a tensor (B, K): return the logits alone")
    if not logits.is_floating_point():
        raise TypeError(f"exit {j} gave {logits.dtype}: logits must be floats")
    if logits.ndim != 2:
        shape = tuple(logits.shape)
        raise ValueError(f"exit {j} gave logits {shape}, not (B, K); for pixels see segment()")
    if logits.shape[1] == 1:
        raise ValueError(
            f"exit {j} gave a single logit per sample, whose softmax is always 1: give two, as "
            "torch.cat([-z, z], 1) / 2 for the logit z of a sigmoid"
        )


def check_ready(net: EarlyExitNetwork, x: Tensor) -> None:
    """Refuse a network in training mode, or on another device than ``x`` ``(B, ...)``.

    Raises:
        ValueError: it is.
        TypeError: the input is no tensor.
    """
    if not isinstance(x, Tensor):
        kind = type(x).__name__
        raise TypeError(f"inputs must be one tensor (B, ...), got {kind}: take it out, or make one")
    modules = list(net.modules())
    require_eval(modules, what="network", before="predict")
    # net.parameters() and net.buffers() would each walk through the modules again: a millisecond,
    # which counts at batch 1.
    held = (t for m in modules for part in (m._parameters, m._buffers) for t in part.values())
    devices = {tensor.device for tensor in held if tensor is not None} | {x.device}
    if len(devices) > 1:
        found = sorted(map(str, devices))
        raise ValueError(f"network and input lie on different devices: {found}; move them to one")
