"""An exported network answers as `predict` does, or is refused in a sentence."""

import json
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from eenotes import (
    Confidence,
    EarlyExitNetwork,
    Entropy,
    Patience,
    PerClass,
    count_macs,
    linear_exits,
    predict,
    serving,
    shipping,
)
from eenotes.methods import e2cm

torch.manual_seed(0)
Y = torch.arange(90) % 3
X = torch.randn(90, 3, 8, 8) + Y[:, None, None, None]


class Late(Patience):
    """Patience that begins at the second exit."""

    def is_open(self, j):
        return j > 0


def stages(count, *, width=4):
    torch.manual_seed(1)
    widths = [3, width, width, width]
    blocks = [nn.Sequential(nn.Conv2d(*widths[j : j + 2], 3), nn.ReLU()) for j in range(3)]
    blocks = [*blocks[: count - 1], nn.Sequential(nn.Flatten(), nn.LazyLinear(3))]
    net = nn.Sequential(*blocks)
    net(X[:2])
    return list(net.eval())


def linear(count):
    return EarlyExitNetwork(s := stages(count), linear_exits(s, X[:2], num_classes=3)).eval()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """One closed exit, a rule that remembers something, and masks of pruning."""
    pytest.importorskip("onnxruntime", reason="the extra ship is not installed")
    pytest.importorskip("onnxscript", reason="the extra ship is not installed")
    net = e2cm.fit(stages(4), [(X, Y)], num_classes=3)
    prune.l1_unstructured(net.stages[1][0], "weight", amount=0.3)
    rule, folder = Late(1), tmp_path_factory.mktemp("served")
    names = list(net.state_dict())
    shipping.export(net, folder, X[:1], rule=rule)
    assert list(net.state_dict()) == names, "the network itself keeps its masks"
    return SimpleNamespace(
        net=net, rule=rule, folder=folder, model=serving.Served(folder, threads=1)
    )


@pytest.mark.slow
def test_served_answers_are_those_of_predict(served):
    """Whatever the size of the batch, with samples that leave in between."""
    expected = predict(served.net, X, served.rule)
    assert set(expected.exit_index.tolist()) == {2, 3}
    for size in (90, 7, 1):
        parts = [served.model(part.numpy()) for part in X.split(size)]
        found = serving.Answer(*map(np.concatenate, zip(*parts, strict=True)))
        for name in found._fields[:2]:
            assert (getattr(found, name) == getattr(expected, name).numpy()).all(), name
        np.testing.assert_allclose(found.confidence, expected.confidence.numpy(), atol=1e-6)
    costs = count_macs(served.net, X[:1]).under(served.rule)
    assert costs.relative_cost(torch.arange(4)).tolist() == served.model.relative_cost.tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (X[:0].numpy(), ValueError, r"a batch \(N, 3, 8, 8\), N > 0, got \(0, 3"),
        (X[:, :1].numpy(), ValueError, r"got \(90, 1, 8, 8\)"),
        (X.double().numpy(), TypeError, "an array of float32, got float64"),
        (X, TypeError, "an array of float32, got torch.float32"),
        (np.full((1, 3, 8, 8), np.nan, np.float32), ValueError, "exit 1 gave NaN"),
    ],
)
def test_what_is_served_refuses_other_inputs(served, x, error, message):
    with pytest.raises(error, match=message):
        served.model(x)


@pytest.mark.slow
def test_a_folder_that_is_damaged_or_mixed_is_refused(served, tmp_path):
    with pytest.raises(ValueError, match="export a network to the folder first"):
        serving.Served(tmp_path)
    facts = json.loads((served.folder / serving.FACTS).read_text())
    copy = tmp_path / serving.FACTS
    copy.write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"stage_0\.onnx is missing, or not the graph"):
        serving.Served(tmp_path)
    copy.write_text(json.dumps(facts | {"format": 0}))
    with pytest.raises(ValueError, match="format 0, this version reads 1"):
        serving.Served(tmp_path)


@pytest.mark.slow
def test_eight_bits_are_a_fourth_and_nearly_the_same(tmp_path):
    """Logits within a tenth of their range, most decisions the same, and much smaller graphs."""
    pytest.importorskip("onnxruntime", reason="the extra ship is not installed")
    net = e2cm.fit_whitened(stages(3, width=64), [(X, Y)], num_classes=3, grid=1)
    rule, x = Confidence(0.9), X.numpy()
    sizes = {}
    for name in ("float32", "int8"):
        shipping.export(net, tmp_path / name, X, rule=rule, int8=name == "int8")
        sizes[name] = sum(p.stat().st_size for p in (tmp_path / name).glob("*.onnx"))
    assert sizes["int8"] < sizes["float32"] / 2
    plain, small = (serving.Served(tmp_path / name, threads=1) for name in ("float32", "int8"))
    logits = net(X)[0].numpy(force=True)
    found = dict(zip(small._outputs[0], small.sessions[0].run(None, {"features": x}), strict=True))
    assert 0 < np.abs(found["logits"] - logits).max() < np.ptp(logits) / 10
    assert (plain(x).exit_index == small(x).exit_index).mean() > 0.8


def test_serving_needs_no_torch():
    code = "import sys, eenotes.serving; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["class means", "table", "entropy", "per class"])
def test_programs_decide_as_the_rule_does(name):
    """At other sizes of the batch than that of the example, also at one."""
    net = linear(2) if name != "class means" else e2cm.fit(stages(2), [(X, Y)], num_classes=3)
    rule = {
        "class means": lambda: e2cm.rule(net, 0.4),
        "table": lambda: Confidence([[0.34, 0.36, 0.38]]),
        "entropy": lambda: Entropy(1.09),
        "per class": lambda: PerClass(torch.tensor([0.34, 0.36, 0.38])),
    }[name]()
    first, last = shipping.programs(net, X[:3], rule)
    for x in (X, X[:1]):
        features, logits = net.step(0, x)
        expected, found = rule(0, logits), first.module()(features=x)
        assert (found["prediction"] == expected.prediction).all()
        assert (found["leave"] == expected.leave).all()
        torch.testing.assert_close(found["confidence"], expected.confidence)
        assert (
            last.module()(features=features)["prediction"].tolist() == net(x)[1].argmax(1).tolist()
        )


@dataclass(frozen=True)
class ByValue(Patience):
    """A rule whose Python decides by the values of a tensor."""

    patience: int = 1

    def __call__(self, j, logits, state=None):
        return super().__call__(j, logits if logits.max() > 0 else -logits, state)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"net": nn.Linear(3, 3)}, TypeError, "a Linear is no EarlyExitNetwork"),
        ({"net": linear(2).train()}, ValueError, "in training mode"),
        (
            {"net": linear(2).double()},
            ValueError,
            r"weights of torch.float64: export net.float\(\)",
        ),
        ({"example": X.numpy()}, TypeError, "inputs must be one tensor"),
        ({"example": X[:0]}, ValueError, "the example is an empty batch"),
        ({"rule": Confidence([0.5, 0.5])}, ValueError, "2 thresholds for a network with 1 early"),
        (
            {"rule": ByValue()},
            ValueError,
            "stage 0, its exit or the rule ByValue cannot be exported",
        ),
    ],
)
def test_what_cannot_be_exported_is_refused(change, error, message):
    arguments = {"net": linear(2), "example": X[:2], "rule": Confidence(0.5)} | change
    with pytest.raises(error, match=message):
        shipping.programs(**arguments)
