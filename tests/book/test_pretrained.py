"""Published networks: read by hash and shape; their accuracy where the data are at hand."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from eenotes.checkpoints import load_tensors, save_tensors
from eenotes.costs import Costs
from eenotes.rules import ClassMeanConfidence
from eenotes_book.data import pretrained, recorded, vision
from eenotes_book.models.resnet import CifarResNet, PaddedShortcut


def published_weights(depth=20):
    """A fresh network's weights under the published names."""
    state = CifarResNet(depth, padded=True).state_dict()
    renamed = {}
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        for ours, theirs in (
            ("stem.0.", "conv1."),
            ("stem.1.", "bn1."),
            ("group", "layer"),
            ("classifier.", "linear."),
        ):
            if key.startswith(ours):
                key = theirs + key.removeprefix(ours)
        renamed[key] = value.contiguous()
    return renamed


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EENOTES_DATA", str(tmp_path))
    monkeypatch.delenv("EENOTES_DOWNLOAD", raising=False)
    (tmp_path / "pretrained").mkdir()
    return tmp_path / "pretrained"


def test_the_padded_shortcut_by_hand():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    out = PaddedShortcut(2)(x)
    assert out.shape == (1, 3, 2, 2)
    assert out[0, 1].tolist() == [[0, 2], [8, 10]] and not out[0, 0].any() and not out[0, 2].any()


@pytest.mark.parametrize("kind", ["safetensors", "published"])
def test_weights_under_their_published_names(folder, monkeypatch, kind):
    weights = published_weights()
    found = pretrained.NETWORKS["resnet20"]
    path = folder / ("resnet20-cifar10.safetensors" if kind == "safetensors" else found.file)
    if kind == "safetensors":
        save_file(weights, path)
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in weights.items()}}, path)
    with pytest.raises(ValueError, match="sha256 .* nothing was loaded"):
        pretrained.load("resnet20")
    monkeypatch.setattr(pretrained, "_check_hash", lambda *_: None)
    net = pretrained.load("resnet20")
    assert torch.equal(net.stem[0].weight, weights["conv1.weight"])
    assert torch.equal(net.group3[2].bn2.running_var, weights["layer3.2.bn2.running_var"])
    assert not net.training and net(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_what_cannot_be_loaded(folder, monkeypatch):
    with pytest.raises(ValueError, match="unknown network"):
        pretrained.load("resnet18")
    with pytest.raises(FileNotFoundError, match="EENOTES_DOWNLOAD"):
        pretrained.load("resnet56")
    save_file(published_weights(depth=8), folder / "resnet20-cifar10.safetensors")
    monkeypatch.setattr(pretrained, "_check_hash", lambda *_: None)
    with pytest.raises(ValueError, match="not those of a ResNet-20"):
        pretrained.load("resnet20")


def test_pixels_as_in_the_training_of_the_published_networks():
    data = vision.load("digits", train=20, val=5, test=5)
    three = [
        torch.utils.data.TensorDataset(split.tensors[0].expand(-1, 3, -1, -1), split.tensors[1])
        for split in (data.train, data.val, data.test)
    ]
    data = vision.Vision("x", *three, data.classes, data.mean.expand(3), data.std.expand(3))
    scaled = pretrained.normalised(data)
    pixels = data.test.tensors[0][0] * data.std[:, None, None] + data.mean[:, None, None]
    expected = (pixels[2] - pretrained.MEAN[2]) / pretrained.STD[2]
    assert torch.allclose(scaled.test.tensors[0][0, 2], expected)
    before, after = (part.picture(part.test.tensors[0][0]) for part in (data, scaled))
    assert torch.allclose(before, after, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(
    not Path(os.environ.get("EENOTES_DATA", "data"), "pretrained").is_dir(),
    reason="needs CIFAR-10 and the published weights in EENOTES_DATA",
)
@pytest.mark.parametrize("name", pretrained.NETWORKS)
def test_published_networks_give_the_recorded_logits(name):
    data, found = vision.load("CIFAR10", train=10, val=0), recorded.load(name, "e2cm")
    x, labels = pretrained.normalised(data).test.tensors
    assert torch.equal(labels, found.labels)
    with torch.no_grad():
        logits = pretrained.load(name)(x[:100])
    torch.testing.assert_close(logits, found.logits[-1, :100], rtol=2e-3, atol=0.02)


# --- recorded logits


def test_recorded_logits_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(recorded, "_FOLDER", tmp_path)
    facts = {"method": "e2cm", "network": "toy", "stages": [1, 3], "exits": [1], "version": 2}
    logits = torch.tensor([[[0.5, 1.0], [2.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    labels = torch.tensor([1, 0], dtype=torch.uint8)
    tensors = {"logits": recorded.packed(logits, "e2cm"), "labels": labels}
    path = tmp_path / "toy-e2cm.safetensors"
    save_tensors(path, tensors | {"normaliser.0": torch.ones(2)}, **facts)
    found = recorded.load("toy", "e2cm")
    assert torch.equal(found.logits, logits) and found.labels.tolist() == [1, 0]
    assert found.costs == Costs((1, 3), (1,)) and isinstance(found.rule, ClassMeanConfidence)
    assert recorded.names() == [("toy", "e2cm")]
    first, second = found.halves()
    assert first.labels.tolist() == [1] and second.logits.tolist() == logits[:, 1:].tolist()
    with pytest.raises(ValueError, match="there is toy/e2cm"):
        recorded.load("toy", "sdn")
    save_tensors(path, tensors, **facts | {"version": 0})
    with pytest.raises(ValueError, match="version 0"):
        recorded.load("toy", "e2cm")


def test_a_frozen_backbone_is_kept_once(tmp_path, monkeypatch):
    monkeypatch.setattr(recorded, "_FOLDER", tmp_path)
    facts = {"network": "toy", "stages": [1, 3], "exits": [1], "version": 2}
    labels = torch.tensor([1], dtype=torch.uint8)
    for method, early in (("e2cm", [-2.0, -3.0]), ("sdn", [9.0, 7.5])):
        logits = recorded.packed(torch.tensor([[early], [[4.0, 5.0]]]), method)
        tensors = {"logits": logits, "labels": labels}
        save_tensors(recorded.path_of("toy", method), tensors, **facts, method=method)
    assert recorded.load("toy", "e2cm").logits.tolist() == [[[-2, -3]], [[4, 5]]]
    assert recorded.load("toy", "sdn").logits.tolist() == [[[0, -1.5]], [[4, 5]]]
    kept = load_tensors(recorded.path_of("toy", "sdn"))[0]["logits"]
    assert kept.shape == (2, 1, 1, 2)


@given(st.lists(st.floats(-300, 300, width=32), min_size=2, max_size=6))
def test_packed_logits_say_what_they_said(values):
    """The same class, and probabilities that differ by less than half a percent."""
    logits = torch.tensor(values)[None, None]
    kept = recorded._joined(recorded.packed(logits, "branchynet"), "branchynet")
    torch.testing.assert_close(kept.softmax(2), logits.softmax(2), atol=0.004, rtol=0)
    assert kept[0, 0, logits.argmax()] == 0 == kept.max()


@pytest.mark.parametrize(("network", "method"), recorded.names())
def test_committed_recordings_are_sound(network, method):
    found = recorded.load(network, method)
    exits, samples, classes = found.logits.shape
    assert len(found.costs.stages) == exits and len(found.labels) == samples == 10_000
    assert found.logits.isfinite().all() and 0 <= found.labels.min() <= found.labels.max() < classes
    accuracy = (found.logits[-1].argmax(1) == found.labels).double().mean().item()
    published = pretrained.NETWORKS.get(network)
    expected = published.accuracy if published else found.facts["accuracy"][-1]
    assert accuracy == pytest.approx(expected, abs=1e-3)
    found.rule.check(exits)
