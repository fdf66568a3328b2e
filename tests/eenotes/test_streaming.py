"""Rebatching: late stages see full batches, and the outcome stays.

That the outcome is that of `predict` is tested in ``test_inference`` and ``test_fuzz``.
"""

import pytest
import torch
from torch import nn

from eenotes import Confidence, EarlyExitNetwork, Patience, predict, predict_stream

# (J, N, K) = (3, 4, 2): sample i is sure of class 0 from exit i on; the last is never sure
SURE, UNSURE = [4.0, 0.0], [0.2, 0.0]
LOGITS = torch.tensor(
    [[SURE, UNSURE, UNSURE, UNSURE], [SURE, SURE, UNSURE, UNSURE], [SURE, SURE, SURE, [0.0, 0.2]]]
)


@pytest.mark.parametrize(
    ("logits", "arrive", "batch_size", "seen", "exit_index"),
    [
        # of each pair one stays: stage 2 would see 1 and then 1, and sees 2 after waiting
        (
            [[SURE, UNSURE, SURE, UNSURE], [SURE, SURE, SURE, UNSURE], [SURE] * 4],
            *(2, 2, [[2, 2], [2], [1]], [0, 1, 0, 2]),
        ),
        # two batches of three, two at a time: only the end of the stream is smaller
        ([[SURE, UNSURE] * 3, [SURE] * 6], 3, 2, [[2, 2, 2], [2, 1]], [0, 1, 0, 1, 0, 1]),
        # what waits at the end runs, too
        (LOGITS, 1, 100, [[4], [3], [2]], [0, 1, 2, 2]),
    ],
)
def test_a_stage_waits_for_full_batches(
    table_net, rows, logits, arrive, batch_size, seen, exit_index
):
    net = table_net(logits)
    x = rows(len(exit_index)).split(arrive)
    outcome = predict_stream(net, x, Confidence(0.9), batch_size=batch_size)
    assert net.seen == seen
    assert outcome.exit_index.tolist() == exit_index


def test_patience_waits_with_its_sample(table_net, rows):
    predicted = torch.tensor([[0, 1, 0], [0, 0, 1], [2, 0, 1], [1, 0, 0]])  # 4 exits × 3 samples
    net = table_net(nn.functional.one_hot(predicted, 3).float())
    outcome = predict_stream(net, rows(3).split(1), Patience(1), batch_size=2)
    assert outcome.exit_index.tolist() == [1, 2, 2]


class _Layout(nn.Module):
    """Notes whether its input is channels last."""

    def forward(self, x):
        self.channels_last = x.is_contiguous(memory_format=torch.channels_last)
        return x.mean((2, 3))


@pytest.mark.parametrize(
    "infer", [predict, lambda *a: predict_stream(a[0], [a[1]], a[2], batch_size=2)]
)
def test_the_samples_that_stay_keep_the_memory_format(infer):
    """Images with a mean of 4 in one channel exit; two of four stay, as they are."""
    last = _Layout()
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = torch.zeros(4, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    x[::2, 0] = 4
    x[1::2, 1] = 0.1
    outcome = infer(EarlyExitNetwork([nn.Identity(), last], [head]).eval(), x, Confidence(0.9))
    assert outcome.exit_index.tolist() == [0, 1, 0, 1]
    assert outcome.prediction.tolist() == [0, 1, 0, 1]
    assert last.channels_last


def test_bad_streams(table_net, rows):
    net = table_net(LOGITS)
    with pytest.raises(ValueError, match="batch_size"):
        predict_stream(net, [rows(4)], Confidence(0.5), batch_size=0)
    for empty in ([], [rows(0)]):
        with pytest.raises(ValueError, match="no samples"):
            predict_stream(net, empty, Confidence(0.5), batch_size=2)
    with pytest.raises(ValueError, match="thresholds"):
        predict_stream(net, [rows(4)], Confidence([0.5] * 5), batch_size=2)
    with pytest.raises(TypeError, match="without labels, not tuple"):
        predict_stream(net, [(rows(4), torch.zeros(4))], Confidence(0.5), batch_size=2)


@pytest.mark.parametrize("size", [2, 3])  # whole batches, and such as are put together
@pytest.mark.parametrize(
    "other",
    [
        torch.zeros(2, 2, 3, 3),
        torch.zeros(2, 2, 2, 2, dtype=torch.float64),
        torch.zeros(2, 2, 2, 2, device="meta"),
    ],
)
def test_a_stream_of_different_samples(other, size):
    anything = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = EarlyExitNetwork([nn.Identity(), anything], [anything]).eval()
    with pytest.raises(ValueError, match="one shape, type and device"):
        predict_stream(net, [torch.zeros(2, 2, 2, 2), other], Confidence(1.0), batch_size=size)
