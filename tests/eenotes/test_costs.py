"""MACs against numbers computed by hand; nothing is hidden, nothing stays changed."""

import math

import pytest
import torch
import torchvision
from torch import nn

from eenotes import ClassMeanExit, EarlyExitNetwork, LinearExit, count_macs, linear_exits, split
from eenotes.costs import Costs
from eenotes.operations import register_macs
from eenotes_book.models.resnet import CifarResNet


def macs(module, x):
    return count_macs(EarlyExitNetwork([module], []), x).stages[0]


# --- by hand


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (nn.Linear(5, 7), (5,), 5 * 7),
        (nn.Linear(5, 7), (4, 5), 4 * 5 * 7),
        (nn.Conv2d(3, 8, 3, padding=1, bias=False), (3, 6, 6), 6 * 6 * 8 * 3 * 3 * 3),
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), (3, 6, 6), 3 * 3 * 8 * 3 * 3 * 3),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), (8, 6, 6), 6 * 6 * 8 * 3 * 3),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)), (3, 6, 6), 0),
        # queries, keys, values and output; scores and mixture; the two layers behind
        (
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            (5, 8),
            4 * 5 * 8 * 8 + 2 * 5 * 5 * 8 + 2 * 5 * 8 * 16,
        ),
    ],
)
def test_one_sample_by_hand(module, shape, expected, batch):
    assert macs(module, torch.randn(batch, *shape)) == expected


@pytest.mark.parametrize("batch", [1, 4])
def test_a_class_mean_exit_takes_classes_times_features(batch):
    net = EarlyExitNetwork([nn.Identity(), nn.Linear(12, 2)], [ClassMeanExit(torch.randn(10, 12))])
    costs = count_macs(net, torch.randn(batch, 12))
    assert (costs.stages, costs.exits) == ((0, 24), (120,))


def test_a_linear_exit_takes_classes_times_channels():
    net = EarlyExitNetwork([nn.Identity(), LinearExit(3, 5)], [LinearExit(3, 5)])
    assert count_macs(net, torch.randn(2, 3, 4, 4)) == Costs(stages=(0, 15), exits=(15,))


def test_the_resnet_by_hand():
    """ResNet-8 of width 4 on 8×8 images: one block per group, the second and third with a 1×1
    shortcut.
    """
    stages = split(CifarResNet(8, width=4, num_classes=10), at=["stem", "group1", "group2"])
    x = torch.randn(2, 3, 8, 8)
    costs = count_macs(EarlyExitNetwork(stages, linear_exits(stages, x, num_classes=10)), x)
    assert costs.stages == (
        64 * 9 * 3 * 4,
        64 * 9 * (4 * 4 + 4 * 4),
        16 * (9 * 4 * 8 + 9 * 8 * 8 + 4 * 8),
        4 * (9 * 8 * 16 + 9 * 16 * 16 + 8 * 16) + 16 * 10,
    )
    assert costs.exits == (40, 40, 80)
    assert costs.backbone == macs(CifarResNet(8, width=4), x)


def test_attention_of_a_vision_transformer_is_not_hidden():
    sizes = {"image_size": 8, "patch_size": 4, "num_layers": 3, "num_heads": 2, "hidden_dim": 8}
    backbone = torchvision.models.VisionTransformer(**sizes, mlp_dim=16, num_classes=3).eval()
    tokens, d = 4 + 1, 8
    layer = 4 * tokens * d * d + 2 * tokens * tokens * d + 2 * tokens * d * 16
    at = [f"encoder.layers.encoder_layer_{i}" for i in range(3)]
    net = EarlyExitNetwork(split(backbone, at=at), [LinearExit(d, 3, channels_last=True)] * 3)
    costs = count_macs(net, torch.randn(2, 3, 8, 8))
    assert costs.stages == (4 * (3 * 4 * 4) * d + layer, layer, layer, d * 3)


# --- relative cost


COSTS = Costs(stages=(10, 30, 60), exits=(5, 15))


def test_relative_cost_by_hand():
    assert COSTS.backbone == 100
    assert COSTS.cumulative.tolist() == [15, 60, 120]
    left = torch.tensor([2, 0, 1, 0])
    assert COSTS.relative_cost(left).tolist() == [1.2, 0.15, 0.6, 0.15]
    assert COSTS.overhead(left).tolist() == [0.2, 0.05, 0.2, 0.05]


def test_a_network_without_early_exits_costs_one():
    costs = Costs(stages=(7,), exits=())
    assert costs.relative_cost(torch.zeros(2, dtype=torch.int64)).tolist() == [1, 1]
    assert costs.overhead(torch.zeros(1, dtype=torch.int64)).tolist() == [0]


# --- nothing stays changed


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_modes_statistics_and_the_fast_path_stay_as_they_were(unchanged, fast, fails):
    backbone = CifarResNet(8, width=4).train()
    backbone.group2.eval()
    stages = split(backbone, at=["group1"])
    net = EarlyExitNetwork(stages, [LinearExit(5 if fails else 4, 10)])
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fast)
    try:
        with unchanged(net):
            if fails:
                with pytest.raises(RuntimeError):
                    count_macs(net, torch.randn(2, 3, 8, 8))
            else:
                count_macs(net, torch.randn(2, 3, 8, 8))
        assert torch.backends.mha.get_fastpath_enabled() == fast
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def test_costs_that_are_none():
    with pytest.raises(ValueError, match="3 stages have 2 exit tests between them, got 3"):
        Costs((1, 1, 1), (1, 1, 1))
    for stages in ((1, -1), (1, math.inf), (1, math.nan)):
        with pytest.raises(ValueError, match="finite and not negative"):
            Costs(stages, (0,))
    with pytest.raises(ValueError, match="cost nothing"):
        Costs((0, 0), (1,)).relative_cost(torch.tensor([0]))


def test_exit_indices_of_every_whole_type_and_no_others():
    left = torch.tensor([0, 1, 2])
    for kind in (torch.uint8, torch.int32, torch.int64):
        assert COSTS.relative_cost(left.to(kind)).tolist() == [0.15, 0.6, 1.2]
        assert COSTS.overhead(left.to(kind)).tolist() == [0.05, 0.2, 0.2]
    assert COSTS.relative_cost(left[:0]).tolist() == []
    for bad in (-1, 3, 0.0, True):
        for function in (COSTS.relative_cost, COSTS.overhead):
            with pytest.raises(ValueError, match=r"whole numbers in 0\.\.2"):
                function(torch.tensor([bad]))


def test_an_empty_batch():
    with pytest.raises(ValueError, match="empty"):
        macs(nn.Linear(2, 2), torch.zeros(0, 2))


# --- what PyTorch's counter does not see


class LastStep(nn.Module):
    def __init__(self, recurrent):
        super().__init__()
        self.recurrent = recurrent

    def forward(self, x):
        return self.recurrent(x)[0][:, -1]


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
@pytest.mark.parametrize(("layers", "directions"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_recurrent_layers_by_hand(kind, gates, layers, directions):
    net = kind(16, 32, layers, batch_first=True, bidirectional=directions == 2)
    widths = [16] + [32 * directions] * (layers - 1)
    by_hand = sum(10 * directions * gates * 32 * (width + 32) for width in widths)
    assert macs(LastStep(net), torch.randn(2, 10, 16)) == by_hand


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "by_hand"),
    [
        (lambda x: torch.stack([row @ torch.ones(6) for row in x]), 6),
        (lambda x: torch.stack([torch.ones(5, 6) @ row for row in x]), 30),
        (lambda x: torch.cdist(x, torch.ones(5, 6)), 30),
        (lambda x: torch.cdist(x.repeat(30, 1), torch.ones(5, 6)), 900),
        (lambda x: x.norm(dim=1), 0),
        (lambda x: torch.addbmm(torch.zeros(2, 5), x[None], torch.ones(1, 6, 5)), 30),
        (lambda x: torch.zeros(2, 5).addmm_(x, torch.ones(6, 5)), 30),
        (lambda x: torch.zeros(1, 2, 5).baddbmm_(x[None], torch.ones(1, 6, 5)), 30),
        (lambda x: torch._int_mm(*torch.ones(2, 32, 32, dtype=torch.int8)), 32**3 // 2),
        (lambda x: nn.functional.interpolate(x[:, None], scale_factor=2, mode="linear"), 0),
        (lambda x: torch.outer(x[:, 0], torch.ones(7)), 7),
        (lambda x: x[:, 0].outer(torch.ones(7)), 7),
        (lambda x: torch.kron(x, torch.ones(1, 3)), 18),
        (lambda x: torch.addr(torch.ones(2, 5), x[:, 0], torch.ones(5)), 5),
        (lambda x: torch.ones(2, 5).addr_(x[:, 0], torch.ones(5)), 5),
        (lambda x: torch.einsum("bi,bj->bij", x, x[:, :4]), 24),
        (lambda x: torch.einsum("bi,bj->bij", [x, x[:, :4]]), 24),
        (lambda x: torch.einsum("bi,oi->bo", x, torch.ones(5, 6)), 30),
        (lambda x: torch.einsum("bi,bi->bi", x, x), 0),
        (lambda x: torch.einsum("bi->ib", x).T, 0),
        (lambda x: torch.linalg.vecdot(x, x)[:, None], 6),
        (lambda x: nn.functional.cosine_similarity(x[:, None], torch.ones(5, 6), dim=-1), 30),
        (lambda x: nn.PairwiseDistance()(x, x)[:, None], 6),
        (lambda x: nn.functional.pdist(x.repeat(2, 1)).unflatten(0, (2, -1)), 6 * 6 // 2),
    ],
    ids=[
        *("dot", "matrix times vector", "distances", "many distances", "norm"),
        *("addbmm", "addmm_", "baddbmm_", "whole numbers", "interpolation"),
        *(
            "outer",
            "outer of a tensor",
            "kron",
            "addr",
            "addr_",
            "einsum outer",
            "einsum of a list",
        ),
        *("einsum product", "einsum scaling", "einsum turned", "vecdot", "cosine", "distance"),
        "distances within",
    ],
)
def test_products_that_are_no_matrix_product(function, by_hand):
    assert macs(Function(function), torch.ones(2, 6)) == by_hand


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: torch.fft.rfft(x).abs(), "fft_r2c"),
        (lambda x: torch.conv_tbc(x[None], torch.ones(1, 6, 4), torch.zeros(4)), "conv_tbc"),
        (lambda x: torch.triangular_solve(x.T, torch.eye(6))[0].T, "triangular_solve"),
        (lambda x: torch.smm(x.to_sparse(), torch.ones(6, 4)).to_dense(), "sspaddmm"),
        (lambda x: x.to_sparse_csr() @ torch.ones(6, 4), "mm"),
    ],
)
def test_an_operation_without_a_rule_is_named(function, name):
    with pytest.raises(ValueError, match=rf"Sequential\.1 runs .*{name}.*register_macs"):
        macs(nn.Sequential(nn.Linear(6, 6), Function(function)), torch.ones(2, 6))


def test_a_registered_rule_counts_a_kernel_of_one_s_own():
    @torch.library.custom_op("eenotes_test::triple", mutates_args=())
    def triple(x: torch.Tensor) -> torch.Tensor:
        return 3 * x

    net = Function(lambda x: torch.ops.eenotes_test.triple(x))
    with pytest.raises(ValueError, match="eenotes_test"):
        macs(net, torch.ones(2, 6))
    with pytest.raises(TypeError, match="torch.ops"):
        register_macs(triple, lambda *_, **__: 1)
    register_macs(torch.ops.eenotes_test.triple, lambda x, **_: 7 * x[0])
    assert macs(net, torch.ones(2, 6)) == 7
