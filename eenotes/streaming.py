"""Inference on a stream of batches: every stage runs on full batches (rebatching)."""

from collections import deque
from collections.abc import Iterable

import torch
from torch import Tensor

from eenotes._checks import require_answers, require_at_least
from eenotes.inference import Outcome, check_ready, empty_rows, run_stage
from eenotes.network import EarlyExitNetwork, full_precision
from eenotes.rules import Rule, open_exits


@torch.inference_mode()
def predict_stream(
    net: EarlyExitNetwork, batches: Iterable[Tensor], rule: Rule, *, batch_size: int
) -> Outcome:
    """The `Outcome` of `predict` for a stream of batches ``(B, ...)``, put together.

    The samples that a batch leaves wait for those of the next until a stage can run on
    ``batch_size`` of them; only what still waits at the end runs in a smaller batch.  Throughput
    rises, and so does latency: where every batch needs its outcome at once, use `predict`.

    Raises:
        ValueError: a batch size below 1, no samples, different shapes, types or devices, or what
            `predict` raises.
        TypeError: a stream of something else than tensors.
    """
    require_at_least(1, batch_size=batch_size)
    rule.check(net.num_exits)
    is_open = open_exits(rule, net.num_exits)
    waiting = [_Queue(batch_size) for _ in range(net.num_exits)]
    decided: list[tuple[Tensor, ...]] = []
    exits: list[int] = []
    count, known = 0, None

    def run(j: int) -> None:
        features, rows, state = waiting[j].full.popleft()
        features, logits = run_stage(net, j, features, is_open=is_open[j])
        if logits is None:
            waiting[j + 1].add(features, torch.arange(len(rows), device=rows.device), rows, state)
            return
        decision = rule(j, full_precision(logits), state)
        # Which samples exit, and whether a confidence is NaN, is sorted out once, at the end:
        # beside a small stage every small operation counts.
        decided.append((rows, decision.leave, decision.prediction, decision.confidence))
        exits.append(j)
        keep = (~decision.leave).nonzero().squeeze(1) if j < net.num_exits - 1 else ()
        if len(keep):
            state = None if decision.state is None else decision.state[keep]
            waiting[j + 1].add(features, keep, rows.index_select(0, keep), state)

    for x in batches:
        if not isinstance(x, Tensor):
            kind = type(x).__name__
            raise TypeError(f"a stream is of tensors (B, ...), without labels, not {kind}")
        kind = (tuple(x.shape[1:]), x.dtype, x.device)
        if known is None:
            check_ready(net, x)
            known = kind
        if kind != known:
            raise ValueError(f"a stream has one shape, type and device: after {known} came {kind}")
        if len(x):
            whole = torch.arange(len(x), device=x.device)
            waiting[0].add(x, whole, whole + count, None)
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
    rows, leave, prediction, confidence = map(torch.cat, zip(*decided, strict=True))
    sizes = torch.tensor([len(part[0]) for part in decided])
    exit_index = torch.tensor(exits).repeat_interleave(sizes).to(rows.device)
    for j in range(net.num_exits):
        require_answers(j, confidence[exit_index == j])
    left = (leave | (exit_index == net.num_exits - 1)).nonzero().squeeze(1)
    order = left[rows[left].argsort()]
    return Outcome(prediction[order], exit_index[order], confidence[order].float())


class _Queue:
    """The samples that wait before a stage, in batches of one size, copied out of their own."""

    def __init__(self, size: int):
        self.size = size
        # features, places in the stream, the rule's state
        self.full: deque[tuple[Tensor, Tensor, Tensor | None]] = deque()
        self._open()

    def _open(self) -> None:
        self.features: Tensor | None = None
        self.rows: list[Tensor] = []
        self.state: list[Tensor] = []
        self.count = 0

    def add(self, features: Tensor, keep: Tensor, rows: Tensor, state: Tensor | None) -> None:
        """Add the rows ``keep`` of features ``(B, ...)``, n places in the stream, and n states."""
        if not self.count and len(keep) == len(features) == self.size:
            self.full.append((features, rows, state))
            return
        for start in range(-self.count, len(keep), self.size):
            part = slice(max(start, 0), start + self.size)
            if self.features is None:
                self.features = empty_rows(features, self.size)
            stop = self.count + len(keep[part])
            torch.index_select(features, 0, keep[part], out=self.features[self.count : stop])
            self.rows.append(rows[part])
            self.state += [] if state is None else [state[part]]
            self.count = stop
            if self.count == self.size:
                self.close()

    def close(self) -> None:
        """End the batch that is being filled, whatever its size."""
        if self.count:
            state = torch.cat(self.state) if self.state else None
            self.full.append((self.features[: self.count], torch.cat(self.rows), state))
        self._open()
