"""Now: inference that stops.

`predict` computes no stage for a sample that has left; `simulate` answers from cached logits what
`predict` would have said.  Both are one loop, `_cascade`, which differs only in where the logits of
the samples still there come from.  `predict_stream` lets those who stay of several batches wait for
one another, so that late stages, too, see full batches.
"""

from collections import deque
from collections.abc import Iterable

import torch
from torch import Tensor

from eenotes.inference import Outcome, check_answers, check_ready, empty_rows, run_stage
from eenotes.network import EarlyExitNetwork, full_precision
from eenotes.rules import Rule


@torch.inference_mode()
def predict_stream(
    net: EarlyExitNetwork, batches: Iterable[Tensor], rule: Rule, *, batch_size: int
) -> Outcome:
    """The `Outcome` of `predict` for a stream of batches, put together; a stage always runs on
    ``batch_size`` samples.

    A stage that sees the five survivors of one batch takes nearly as long as for twenty.  Here
    survivors wait for those of the next batches (rebatching), and only what still waits at the end
    of the stream runs as it is.  That buys throughput with latency: for answers at once, use
    `predict`.

    Args:
        net: in evaluation mode.
        batches: inputs ``(B, ...)``, B may vary, on the network's device.
        rule: see `eenotes.rules`.
        batch_size: samples that a stage waits for, and takes at once; at least 1.

    Raises:
        ValueError: a batch size below 1, a stream without samples or with samples of different
            shapes, types or devices, or what `predict` raises.
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
        features, logits = run_stage(net, j, features)
        decision = rule(j, full_precision(logits), state)
        # Who leaves, and whether an answer is NaN, is sorted out once, at the end: beside a small
        # stage every small operation counts.
        asked.append((rows, decision.leave, decision.prediction, decision.confidence))
        exits.append(j)
        keep = (~decision.leave).nonzero().squeeze(1) if j < net.num_exits - 1 else ()
        if len(keep):
            waiting[j + 1].add(
                features,
                keep,
                rows.index_select(0, keep),
                None if decision.state is None else decision.state[keep],
            )

    for x in batches:
        if not isinstance(x, Tensor):
            raise TypeError(
                f"a stream is made of tensors (B, ...), without labels; got {type(x).__name__}"
            )
        kind = (tuple(x.shape[1:]), x.dtype, x.device)
        if known is None:
            check_ready(net, x)
            known = kind
        if kind != known:
            raise ValueError(
                f"the samples of a stream must have one shape, type and device: after {known} came {kind}"
            )
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
    exit_index = (
        torch.tensor(exits)
        .repeat_interleave(torch.tensor([len(part[0]) for part in asked]))
        .to(rows.device)
    )
    for j in range(net.num_exits):
        check_answers(j, confidence[exit_index == j])
    left = (leave | (exit_index == net.num_exits - 1)).nonzero().squeeze(1)
    order = left[rows[left].argsort()]
    return Outcome(prediction[order], exit_index[order], confidence[order].float())


class _Queue:
    """Who waits before a stage, in batches of one size.

    Samples are copied when they come, so that nothing keeps the others' memory.

    Args:
        size: of a batch.
    """

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
        """Add the rows ``keep`` ``(n,)`` of features ``(B, ...)``; ``rows`` and ``state`` ``(n,
        ...)`` are theirs already.
        """
        if not self.count and len(keep) == len(features) == self.size:
            self.full.append((features, rows, state))
            return
        for start in range(-self.count, len(keep), self.size):
            part = slice(max(start, 0), start + self.size)
            if self.features is None:
                self.features = empty_rows(features, self.size)
            n = len(keep[part])
            torch.index_select(
                features, 0, keep[part], out=self.features[self.count : self.count + n]
            )
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
