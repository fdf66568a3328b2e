"""The two kinds of exit: a linear layer on pooled features, and distances to class means."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from eenotes import ClassMeanExit, LinearExit, linear_exits, split
from eenotes.exits import pool
from eenotes.methods import e2cm
from eenotes_book.models.resnet import CifarResNet


@pytest.mark.parametrize(
    ("shape", "axes", "last"),
    [
        ((2, 3), None, None),
        ((2, 5, 3), 1, True),
        ((2, 3, 5), 2, False),
        ((2, 3, 4, 5), (2, 3), None),
        ((2, 4, 5, 3), (1, 2), True),
        ((2, 3, 4, 5, 6), (2, 3, 4), None),
    ],
)
def test_pool_averages_space_or_tokens(shape, axes, last):
    x = torch.randn(shape)
    pooled = pool(x, channels_last=last)
    assert torch.allclose(pooled, x if axes is None else x.mean(axes), atol=1e-6)
    assert pooled.shape == (2, 3)


class Turned(nn.Module):
    """Runs a layer, takes the first of a tuple, and exchanges the axes behind the batch."""

    def __init__(self, layer, turn=False):
        super().__init__()
        self.layer, self.turn = layer, turn

    def forward(self, x):
        out = (
            self.layer(x, x, x) if isinstance(self.layer, nn.MultiheadAttention) else self.layer(x)
        )
        out = out[0] if isinstance(out, tuple) else out
        return out.transpose(1, 2) if self.turn else out


def block(channels):
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=channels == "last")


CONV = nn.Sequential(nn.Conv1d(8, 8, 3, padding=1), nn.ReLU())
STEMS = {  # features (B, 8, 8): the numbers of the axes do not tell which one holds the channels
    "convolution": (CONV, False),
    "batch normalisation": (nn.Sequential(nn.Conv1d(8, 8, 1), nn.BatchNorm1d(8)), False),
    "pooling": (nn.Sequential(nn.Conv1d(8, 8, 2), nn.Tanh(), nn.MaxPool1d(2, 1, 1)), False),
    "convolution, turned": (Turned(CONV, turn=True), True),
    "linear": (nn.Linear(8, 8), True),
    "linear, turned": (Turned(nn.Linear(8, 8), turn=True), False),
    "layer norm": (nn.Sequential(nn.Conv1d(8, 8, 1), nn.LayerNorm(8)), True),
    "transformer": (block("last"), True),
    "attention": (Turned(nn.MultiheadAttention(8, 2, batch_first=True)), True),
    "LSTM": (Turned(nn.LSTM(8, 8, batch_first=True)), True),
    "GRU": (Turned(nn.GRU(8, 8, batch_first=True)), True),
    "channels last, 2-D": (nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.LayerNorm(8)), True),
    "convolution, 2-D": (nn.Sequential(nn.Conv2d(8, 8, 1), nn.GELU()), False),
}


@pytest.mark.parametrize("name", STEMS)
def test_channels_are_where_the_layers_put_them(name):
    stem, last = STEMS[name]
    torch.manual_seed(0)
    x = torch.randn(3, 8, 8, 8) if "2-D" in name else torch.randn(3, 8, 8)
    stages = [stem.eval(), nn.Identity(), nn.Identity()]
    exits = linear_exits(stages, x, num_classes=5)
    features = stem(x)
    space = tuple(range(1, x.ndim - 1)) if last else tuple(range(2, x.ndim))
    for head in exits:
        assert head.channels_last is last
        assert torch.allclose(head(features), head.linear(features.mean(space)), atol=1e-5)


@pytest.mark.parametrize(
    "stem", [Turned(nn.LSTM(8, 8)), Turned(nn.MultiheadAttention(8, 2)), block("first")]
)
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_batch_that_is_not_first_is_refused(stem, batch):
    with pytest.raises(ValueError, match="stage 0: .*batch_first=True"):
        linear_exits([stem, nn.Linear(8, 5)], torch.randn(batch, 5, 8), num_classes=5)


def test_three_axes_that_nothing_tells_apart_are_asked_for():
    stages, x = [nn.Identity(), nn.Flatten()], torch.randn(2, 3, 5)
    with pytest.raises(ValueError, match=r"\(B, C, L\) or \(B, T, C\)"):
        linear_exits(stages, x, num_classes=4)
    (head,) = linear_exits(stages, x, num_classes=4, channels_last=True)
    assert torch.allclose(head(x), head.linear(x.mean(1)))
    with pytest.raises(ValueError, match="channels_last"):
        LinearExit(3, 4)(x)


def test_linear_exit_by_hand():
    head = LinearExit(2, 3)
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [1, 1]]))
        head.linear.bias.copy_(torch.tensor([0.0, 0, 10]))
    # (1, 2, 1, 2): the averages are 2 and 6
    features = torch.tensor([[[[1.0, 3.0]], [[4.0, 8.0]]]])
    assert head(features).tolist() == [[2, 6, 18]]


def test_a_grid_averages_each_cell_by_hand():
    features = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert pool(features, grid=2).tolist() == [[2.5, 4.5, 10.5, 12.5]]
    head = LinearExit(4, 1, grid=2)
    nn.init.ones_(head.linear.weight)
    nn.init.zeros_(head.linear.bias)
    assert head(features).item() == 30


def test_a_grid_is_no_finer_than_the_feature_map():
    stages = split(CifarResNet(8, width=4), at=["stem", "group2", "group3"])  # 8×8, 4×4, 2×2
    exits = linear_exits(stages, torch.randn(2, 3, 8, 8), num_classes=7, grid=4)
    assert [head.grid for head in exits] == [4, 4, 2]
    assert [head.linear.in_features for head in exits] == [4 * 16, 8 * 16, 16 * 4]
    flat = linear_exits(
        [nn.Linear(3, 5), nn.Linear(5, 7)], torch.randn(2, 3), num_classes=7, grid=4
    )
    assert [head.linear.in_features for head in flat] == [5]


def test_linear_exits_have_the_width_of_their_stage(unchanged):
    backbone = CifarResNet(8, width=4).train()
    stages = split(backbone, at=["stem", "group2", "group3"])
    with unchanged(stages):
        exits = linear_exits(stages, torch.randn(2, 3, 8, 8), num_classes=7)
    assert [tuple(head.linear.weight.shape) for head in exits] == [(7, 4), (7, 8), (7, 16)]


# --- class means


def test_class_mean_exit_by_hand():
    head = ClassMeanExit(torch.tensor([[0.0, 0], [3, 4]]))
    assert torch.allclose(
        head(torch.tensor([[0.0, 0], [3, 4], [3, 0]])),
        -torch.tensor([[0, 5.0], [5, 0], [3, 4]]),
        atol=1e-3,
    )
    assert head.mean_distance.tolist() == [1, 1]


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 20), st.integers(0, 9))
def test_logits_are_negative_distances(batch, classes, width, seed):
    g = torch.Generator().manual_seed(seed)
    means, x = torch.randn(classes, width, generator=g), torch.randn(batch, width, generator=g)
    head = ClassMeanExit(means)
    assert torch.allclose(head(x), -torch.cdist(x, means), atol=1e-3)
    assert torch.allclose(head.means, means, atol=1e-6)


def test_features_of_any_shape_are_flattened():
    means, x = torch.randn(3, 2, 4, 5), torch.randn(6, 2, 4, 5)
    expected = (x[:, None] - means).flatten(2).norm(dim=2)
    assert torch.allclose(ClassMeanExit(means)(x), -expected, atol=1e-4)


def test_what_all_features_have_in_common_costs_no_digits():
    """||x||² of features around 1000 is 10⁸ here: without care float32 keeps nothing of distances
    around 10.
    """
    g = torch.Generator().manual_seed(0)
    means = torch.randn(5, 100, generator=g) + 1000
    x = means[torch.arange(50) % 5] + torch.randn(50, 100, generator=g)
    exact = torch.cdist(x.double(), means.double())
    assert torch.allclose(-ClassMeanExit(means)(x).double(), exact, rtol=1e-4)
    assert torch.equal(ClassMeanExit(means)(x).argmax(1), exact.argmin(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_distances_are_float32_whatever_the_features_and_the_autocast(dtype):
    means, x = torch.randn(3, 64), torch.randn(4, 64).to(dtype)
    head = ClassMeanExit(means)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(x)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, -torch.cdist(x.float(), means), atol=1e-4)


def test_means_and_normaliser_travel_with_the_weights_and_want_no_gradient():
    head = ClassMeanExit(torch.randn(3, 4, requires_grad=True), torch.tensor([1.0, 2, 3]))
    other = ClassMeanExit(torch.zeros(3, 4))
    other.load_state_dict(head.state_dict())
    x = torch.randn(2, 4)
    assert torch.equal(other(x), head(x))
    assert other.mean_distance.tolist() == [1, 2, 3]
    assert not list(head.parameters())
    assert not head(x).requires_grad


@pytest.mark.parametrize(
    ("means", "normaliser", "words"),
    [
        ([[0, 1], [float("nan"), 1], [0, float("inf")]], None, r"classes \[1, 2\] are not finite"),
        ([[0, 1], [2, 3]], [1], "2 positive numbers"),
        ([[0, 1], [2, 3]], [1, 0], "2 positive numbers"),
        ([[0, 1], [2, 3]], [1, -1], "2 positive numbers"),
        ([[0, 1], [2, 3]], [1, float("nan")], "2 positive numbers"),
    ],
)
def test_bad_means(means, normaliser, words):
    normaliser = None if normaliser is None else torch.tensor(normaliser)
    with pytest.raises(ValueError, match=words):
        ClassMeanExit(torch.tensor(means), normaliser)


@pytest.mark.parametrize(
    ("kind", "close"), [(torch.bfloat16, 0.05), (torch.float16, 0.01), (torch.float64, 1e-6)]
)
def test_a_network_in_another_precision_keeps_its_class_means(kind, close):
    """In half precision the squares of 100 numbers around 30 would overflow or lose every digit;
    the head computes them in float32.
    """
    generator = torch.Generator().manual_seed(0)
    means, x = (30 + 3 * torch.randn(count, 100, generator=generator) for count in (3, 5))
    full, other = ClassMeanExit(means)(x), ClassMeanExit(means).to(kind)(x.to(kind))
    torch.testing.assert_close(other, full, rtol=close, atol=0)


def test_features_of_another_width():
    with pytest.raises(ValueError, match="6 numbers each, the features 8"):
        ClassMeanExit(torch.zeros(2, 3, 2))(torch.zeros(1, 2, 4))


def test_heads_are_one_call():
    x = torch.randn(4, 3, 2, 2)
    for head in (LinearExit(3, 5), ClassMeanExit(torch.randn(5, 3, 2, 2))):
        assert isinstance(head, nn.Module)
        assert head(x).shape == (4, 5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
def test_exits_are_as_precise_as_the_features(dtype):
    """Features of whole numbers, as before an embedding, get an exit in float32."""
    floats = dtype.is_floating_point
    stages = [nn.Identity(), nn.Linear(4, 3).to(dtype) if floats else nn.Embedding(9, 3)]
    x = torch.randint(9, (5, 4)).to(dtype)
    (head,) = linear_exits(stages, x, num_classes=3)
    assert head(x).dtype == (dtype if floats else torch.float32)


def test_whitened_exits_keep_float32_in_half_precision():
    torch.manual_seed(0)
    labels = torch.arange(60) % 2
    x = 0.1 * torch.randn(60, 1) + torch.tensor([1.0, 1.01]) * labels[:, None]
    x = (x + 0.01 * torch.randn(60, 2)).bfloat16()
    stages = nn.ModuleList([nn.Identity(), nn.Linear(2, 2).bfloat16()]).eval()
    net = e2cm.fit_whitened(stages, [(x, labels)], num_classes=2)
    found = net(x)[0]
    exact = e2cm.fit_whitened(stages.float(), [(x.float(), labels)], num_classes=2)
    assert torch.equal(found, exact(x.float())[0])
