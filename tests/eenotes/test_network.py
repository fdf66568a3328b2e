"""split: stages compose to exactly the backbone, share its parameters, leave it untouched, and end
where a batch may shrink.
"""

import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import nn

from eenotes import EarlyExitNetwork, LinearExit, cut_points, linear_exits, split
from eenotes.network import in_mode
from eenotes_book.models.resnet import CifarResNet


def tiny_vit():
    torch.manual_seed(0)
    sizes = {"image_size": 8, "patch_size": 4, "hidden_dim": 8, "mlp_dim": 16, "num_classes": 3}
    sizes |= {"num_layers": 2, "num_heads": 2, "dropout": 0.2}
    net = torchvision.models.VisionTransformer(**sizes)
    nn.init.normal_(net.heads.head.weight)
    return net


def tiny_densenet():
    torch.manual_seed(0)
    sizes = {"growth_rate": 4, "block_config": (2, 2), "num_init_features": 8, "num_classes": 3}
    return torchvision.models.DenseNet(**sizes)


def resnet(**options):
    torch.manual_seed(0)
    return CifarResNet(8, width=4, **options)


ENCODER = "encoder.layers.encoder_layer_"
CUT = {
    "resnet": (["stem", "group1", "group2.0"], 16),
    "tiny_vit": ([f"{ENCODER}0", f"{ENCODER}1.add", "encoder"], 8),
    "resnet18": (["layer1", "layer2", "layer3.1", "layer4"], 64),
    "mobilenet_v3_small": (["features.3", "features.7.block.0", "features.9"], 64),
    "efficientnet_b0": (["features.2", "features.4", "features.6.0"], 64),
}


@pytest.fixture(scope="module", params=CUT)
def cut(request):
    """A backbone, its stages, and what it was before it was split."""
    torch.manual_seed(0)
    (at, size), own = CUT[request.param], {"resnet": resnet, "tiny_vit": tiny_vit}
    build = own.get(request.param, partial(torchvision.models.get_model, request.param))
    backbone, x = build().eval(), torch.randn(2, 3, size, size)
    with torch.no_grad():
        out = backbone(x)
    state = {name: value.clone() for name, value in backbone.state_dict().items()}
    stages = split(backbone, at=at)
    return SimpleNamespace(backbone=backbone, stages=stages, at=at, x=x, out=out, state=state)


class Net(nn.Module):
    """A module with these parts, whose forward is ``body(net, x)``."""

    def __init__(self, body, **parts):
        super().__init__()
        self.body = body
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.body(self, x)


def run(stages, x):
    for stage in stages:
        x = stage(x)
    return x


def equal(first, other):
    return all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


# --- equal, shared, untouched


def test_stages_leave_the_backbone_as_it_was_and_share_its_parameters(cut):
    assert not any(part.training for part in [*cut.backbone.modules(), *cut.stages.modules()])
    now = cut.backbone.state_dict()
    assert all(torch.equal(value, cut.state[name]) for name, value in now.items())
    assert all(p.requires_grad for p in cut.backbone.parameters())
    assert len(cut.stages) == len(cut.at) + 1
    for shared in (nn.Module.parameters, nn.Module.buffers):
        assert set(map(id, shared(cut.stages))) == set(map(id, shared(cut.backbone)))
    with torch.no_grad():
        assert torch.equal(cut.backbone(cut.x), cut.out)
        assert torch.equal(run(cut.stages.eval(), cut.x), cut.out)


def test_stages_compose_to_the_backbone_in_training_mode(cut):
    """Dropout and stochastic depth included: under one seed both draw the same."""
    results = []
    with torch.no_grad(), in_mode(cut.backbone, cut.stages, training=True):
        for part in ([cut.backbone], cut.stages):
            torch.manual_seed(3)
            results.append(run(part, cut.x))
    assert torch.equal(*results)
    assert not torch.equal(results[0], cut.out), "else the test would show nothing"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("build", [resnet, tiny_vit, tiny_densenet])
def test_stages_follow_train_and_eval(build, training):
    backbone = build().train(not training)
    stages = split(backbone, at=cut_points(backbone)).train(training)
    backbone.train(training)
    x, results = torch.randn(2, 3, *(8, 8) if build is tiny_vit else (32, 32)), []
    for part in ([backbone], stages):
        torch.manual_seed(0)
        results.append(run(part, x))
    assert torch.equal(*results)


def test_every_submodule_keeps_its_mode(unchanged, modes):
    """A backbone with frozen batch normalisation is in training mode, but not everywhere."""
    backbone = resnet().train()
    backbone.group2.eval()
    with unchanged(backbone):
        cut_points(backbone)
        stages = split(backbone, at=["group1", "group2"])
        EarlyExitNetwork(stages, [LinearExit(4, 10), LinearExit(8, 10)])
    assert [stage.training for stage in stages] == [True] * 3
    with unchanged(backbone), pytest.raises(ValueError):
        split(backbone, at=["group1", "group7"])


def test_parts_shared_between_stages_keep_their_modes(modes):
    parts = {"first": nn.Linear(4, 4), "last": nn.Linear(4, 4), "drop": nn.Dropout(0.5)}
    backbone = Net(lambda net, x: net.drop(net.last(net.drop(net.first(x)))), **parts).train()
    stages = split(backbone, at=["first", "last"])
    backbone.drop.eval()
    before = modes(stages)
    with in_mode(stages):
        assert not any(modes(stages).values())
    assert modes(stages) == before


def test_later_changes_of_the_weights_reach_the_stages_and_gradients_the_backbone():
    backbone, other, x = resnet().eval(), resnet(), torch.randn(2, 3, 16, 16)
    stages = split(backbone, at=["group1"])
    nn.init.normal_(other.stem[0].weight)
    backbone.load_state_dict(other.state_dict())
    nn.init.zeros_(backbone.classifier.bias)
    assert torch.equal(run(stages, x), backbone(x))
    run(stages, x).sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_a_parameter_that_two_stages_read_is_one():
    weight = nn.Parameter(torch.tensor(3.0))
    backbone = Net(lambda net, x: net.middle(x * net.weight) * net.weight, weight=weight)
    backbone.middle = nn.ReLU()
    stages = split(backbone, at=["middle"])
    assert all(stage.weight is weight for stage in stages)
    assert run(stages, torch.tensor([[2.0]])).item() == 18


@pytest.mark.parametrize("training", [True, False])
def test_deepcopy_is_independent_and_in_the_same_modes(training, modes):
    backbone, x = resnet().train(training), torch.randn(2, 3, 8, 8)
    stages = split(backbone, at=["group1", "group2"])
    net = EarlyExitNetwork(stages, linear_exits(stages, x, num_classes=10))
    backbone.stem.eval()
    twin, before = copy.deepcopy(net), modes(net)
    assert modes(twin) == before
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in net.parameters()}
    expected = [z.clone() for z in net(x)]
    assert equal(twin(x), expected)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert equal(net(x), expected) and not twin(x)[0].any()
    twin.train(not training)
    assert modes(net) == before


# --- where to cut


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x0_5"])
def test_every_cut_point_is_legal_and_nothing_later_overwrites_its_features(name):
    """Activations and dropout in place, views of what was cut, tuples from chunk: all at once, in
    training mode.
    """
    torch.manual_seed(0)
    backbone = torchvision.models.get_model(name, weights=None)
    at = cut_points(backbone)
    stages = split(backbone, at=at)
    features, x = [], torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for stage in stages:
            x = stage(x)
            features.append((x, x.clone()))
    pairs = zip(at, features, strict=False)
    assert not [p for p, (now, then) in pairs if not torch.equal(now, then)]


def test_features_are_the_outputs_of_the_stages():
    stages = split(resnet().eval(), at=["stem", "group2"])
    net = EarlyExitNetwork(stages, [nn.Identity(), nn.Identity()])
    x = torch.randn(2, 3, 8, 8)
    first = stages[0](x)
    found = net.features(x)
    assert equal(found, [first, stages[1](first)])
    assert [tuple(f.shape) for f in found] == [(2, 4, 8, 8), (2, 8, 4, 4)]


def test_cut_points_are_named_shortest_and_in_order():
    backbone = CifarResNet(14, width=4)
    groups = [f"group{g}{end}" for g in (1, 2, 3) for end in (".0.add", ".0", ".1.add", "")]
    assert cut_points(backbone) == ["stem.0", "stem.1", "stem", *groups, "mean"]
    places = ["stem", *(f"group{g}.{block}" for g in (1, 2, 3) for block in (0, 1))][:-1]
    assert backbone.exit_points == places
    assert len(split(backbone, at=backbone.exit_points)) == 7


def in_place(body):
    """A chain l1 → body → l2."""
    parts = {"l1": nn.Linear(4, 4), "l2": nn.Linear(4, 4), "relu": nn.ReLU(inplace=True)}
    parts |= {"identity": nn.Identity(), "flatten": nn.Flatten()}
    return Net(lambda net, x: net.l2(body(net, net.l1(x))), **parts)


@pytest.mark.parametrize(
    "body",
    [
        lambda net, x: net.relu(x),
        lambda net, x: x.relu_(),
        lambda net, x: torch.relu_(x),
        lambda net, x: nn.functional.relu(x, inplace=True),
        lambda net, x: nn.functional.relu(x, True),
        lambda net, x: net.relu(net.identity(x)),
        lambda net, x: net.relu(net.flatten(x)),
        lambda net, x: net.relu(x.view(-1, 4)),
        lambda net, x: net.relu(x.reshape(-1, 2, 2)[:, 0]).repeat(1, 2),
        lambda net, x: x.swapaxes(0, 1).relu_().swapaxes(0, 1),
        lambda net, x: x.narrow(1, 0, 2).relu_().repeat(1, 2),
        lambda net, x: x.float().relu_(),
        lambda net, x: torch.clamp(x, 0, 1, out=x),
        lambda net, x: x.as_strided((2, 4), (4, 1)).relu_(),
    ],
)
def test_no_cut_before_an_operation_in_place(body):
    net = in_place(body)
    with pytest.raises(ValueError, match="in place"):
        split(net, at=["l1"])


@pytest.mark.parametrize(
    "body",
    [lambda net, x: torch.relu(x), lambda net, x: net.identity(x), lambda net, x: net.relu(x * 2)],
)
def test_a_cut_where_nothing_is_in_place(body):
    net = in_place(body)
    assert cut_points(net)[0] == "l1"
    net.eval()
    x = torch.randn(3, 4)
    assert torch.equal(run(split(net, at=["l1"]), x), net(x))


@pytest.mark.parametrize("body", [lambda net, x: x.mul_(2), lambda net, x: net.relu(x)])
def test_a_backbone_may_overwrite_its_input_and_stages_do_not(body):
    parts = {"relu": nn.ReLU(inplace=True), "l1": nn.Linear(4, 4), "l2": nn.Linear(4, 3)}
    net = Net(lambda net, x: net.l2(net.l1(body(net, x)).tanh()), **parts).eval()
    x = torch.randn(3, 4)
    kept = x.clone()
    assert torch.equal(run(split(net, at=["tanh"], example=x), x), net(kept.clone()))
    assert torch.equal(x, kept)


def test_an_exit_that_overwrites_its_features_is_refused():
    overwriting = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3))
    net = EarlyExitNetwork([nn.Linear(4, 4), nn.Linear(4, 3)], [overwriting])
    with pytest.raises(ValueError, match="exit 0 changes its features in place"):
        net(torch.randn(2, 4))
    overwriting[0].inplace = False
    assert len(net(torch.randn(2, 4))) == 2


def test_cut_points_are_legal_in_both_modes():
    """As in GoogLeNet: in training a second value lives on beside the trunk."""

    def body(net, x):
        x = net.a(x)
        extra = net.head(x) if net.training else None
        x = net.c(net.b(x))
        return (x, extra) if net.training else x

    backbone = Net(body, **{name: nn.Linear(2, 2) for name in ("a", "b", "c", "head")})
    assert cut_points(backbone) == ["a"]
    with pytest.raises(ValueError, match="'b'"):
        split(backbone, at=["b"])


def test_a_tuple_is_no_place_to_cut():
    def body(net, x):
        a, b = net.first(x).chunk(2, dim=1)
        return (a + b).exp()

    assert cut_points(Net(body, first=nn.Linear(2, 4))) == ["first", "add"]


@pytest.mark.parametrize(
    ("build", "name", "near"),
    [
        # the shortcut is alive, too
        (lambda: CifarResNet(14, width=4), "group2.0.conv1", ["group1.1.add", "group1"]),
        (lambda: CifarResNet(14, width=4), "group1.1.relu", ["group1.0.add", "group1.0"]),
        (tiny_densenet, "features.denseblock1.denselayer1", ["features.relu0", "features.pool0"]),
        (tiny_vit, "conv_proj", ["reshape", "permute"]),  # the batch size is alive as a number
        (lambda: torchvision.models.resnet18(weights=None), "bn1", ["conv1", "relu"]),
        (resnet, "classifier", ["mean"]),  # the end is no cut
        (resnet, "x", ["stem.0"]),
    ],
)
def test_an_illegal_cut_names_the_nearest_legal_places(build, name, near):
    with pytest.raises(ValueError, match="no cut is possible after") as error:
        split(build(), at=[name])
    assert repr(name) in str(error.value)
    assert all(repr(place) in str(error.value) for place in near)


@pytest.mark.parametrize(
    "name, near", [("gruop2", "group2"), ("group", "group1"), ("group1.0.conv3", "group1.0.conv1")]
)
def test_an_unknown_name_suggests_near_ones(name, near):
    with pytest.raises(ValueError, match=f"no node(?s:.*){near!r}"):
        split(resnet(), at=["stem", name])


@pytest.mark.parametrize(
    "at, error, message",
    [
        (["group2", "group1"], ValueError, "order of execution"),
        (["group1", "group1"], ValueError, "order of execution"),
        (["group1", "group1.0"], ValueError, "order of execution"),
        ("group1", TypeError, r"at=\['group1'\]"),
        ([], ValueError, "at least one"),
    ],
)
def test_names_are_a_list_in_order(at, error, message):
    with pytest.raises(error, match=message):
        split(resnet(), at=at)


@pytest.mark.parametrize("function", [lambda net: split(net, at=["x"]), cut_points])
def test_only_modules_that_can_be_traced(function):
    with pytest.raises(ValueError, match="Net(?s:.*)by hand"):
        function(Net(lambda net, x: x if x.sum() > 0 else -x))
    with pytest.raises(TypeError, match="Module"):
        function(torch.relu)


# --- the network


def test_logits_of_every_exit_by_hand():
    double, head = nn.Linear(1, 1, bias=False), nn.Linear(1, 2, bias=False)
    nn.init.constant_(double.weight, 2.0)
    nn.init.constant_(head.weight, 3.0)
    net = EarlyExitNetwork([double, nn.Sequential(double, head)], [head])
    first, last = net(torch.tensor([[1.0], [5.0]]))
    assert (first.tolist(), last.tolist()) == ([[6, 6], [30, 30]], [[12, 12], [60, 60]])
    features, logits = net.step(0, torch.tensor([[1.0]]))
    assert (net.num_exits, features.item(), logits.tolist()) == (2, 2, [[6, 6]])


def test_a_network_takes_the_mode_of_its_stages(modes):
    stages = split(resnet().eval(), at=["group1"])
    for training in (False, True):
        net = EarlyExitNetwork(stages.train(training), [LinearExit(4, 10)])
        assert set(modes(net).values()) == {training}


@pytest.mark.parametrize(("stages", "exits"), [(0, 0), (1, 1), (3, 1), (3, 3)])
def test_one_exit_less_than_stages(stages, exits):
    with pytest.raises(ValueError, match=f"{stages} stages need {max(stages - 1, 1)}"):
        EarlyExitNetwork([nn.Identity()] * stages, [nn.Identity()] * exits)


def test_depth_counts_the_layers_with_weights():
    net = CifarResNet(20)
    layers = [n for n, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len([name for name in layers if "shortcut" not in name]) == 20
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    for depth in (2, 3, 9, 21):
        with pytest.raises(ValueError, match="6n"):
            CifarResNet(depth)
