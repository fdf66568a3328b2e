"""Image models of transformers: stages by hand are the model, and batches are dictionaries."""

import pytest
import torch
from torch import nn

from eenotes import EarlyExitNetwork, collect, count_macs, linear_exits, predict, split, training
from eenotes.methods import e2cm
from eenotes.verification import check_stages

X, Y = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
BATCHES = [{"pixel_values": x, "labels": y} for x, y in zip(X.split(6), Y.split(6), strict=True)]


class End(nn.Module):
    """Whatever comes behind the last layer."""

    def __init__(self, norm, classifier, pool):
        super().__init__()
        self.norm, self.classifier, self.pool = norm, classifier, pool

    def forward(self, features):
        return self.classifier(self.pool(self.norm, features))


def vit(transformers):
    shape = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    shape |= {"intermediate_size": 32, "image_size": 32, "patch_size": 8, "num_labels": 3}
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**shape))
    layers = [part for part in model.modules() if type(part).__name__ == "ViTLayer"]
    end = End(model.vit.layernorm, model.classifier, lambda norm, tokens: norm(tokens)[:, 0])
    return model, [[model.vit.embeddings, layers[0]], layers[1:2], [layers[2], end]]


def resnet(transformers):
    shape = {"embedding_size": 8, "hidden_sizes": [8, 8, 16], "depths": [1, 1, 1], "num_labels": 3}
    config = transformers.ResNetConfig(layer_type="basic", **shape)
    model = transformers.ResNetForImageClassification(config)
    stages = model.resnet.encoder.stages
    last = [stages[2], model.resnet.pooler, model.classifier]
    return model, [[model.resnet.embedder, stages[0]], [stages[1]], last]


def convnext(transformers):
    shape = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_labels": 3}
    model = transformers.ConvNextForImageClassification(transformers.ConvNextConfig(**shape))
    stages, norm = model.convnext.encoder.stages, model.convnext.layernorm
    end = End(norm, model.classifier, lambda norm, features: norm(features.mean((2, 3))))
    return model, [[model.convnext.embeddings, stages[0]], stages[1:3], [stages[3], end]]


@pytest.mark.parametrize("build", [vit, resnet, convnext])
def test_stages_by_hand_are_the_model(build):
    torch.manual_seed(0)
    model, parts = build(pytest.importorskip("transformers"))
    with pytest.raises(ValueError, match="cannot trace .*write the stages by hand"):
        split(model, at=["classifier"])
    stages = nn.ModuleList(nn.Sequential(*part) for part in parts)
    model.eval(), stages.eval()
    check_stages(model, stages, X[:2])
    net = e2cm.fit(stages, BATCHES, num_classes=3)
    outcome = predict(net, X, e2cm.rule(net))
    with torch.no_grad():
        expected = model(pixel_values=X).logits
    assert (outcome.exit_index == 2).all()
    assert torch.equal(outcome.prediction, expected.argmax(1))
    logits, labels = collect(net, BATCHES)
    torch.testing.assert_close(logits[-1], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(labels, Y) and all(count_macs(net, X[:1]).stages)
    net = EarlyExitNetwork(stages, linear_exits(stages, X, num_classes=3))
    items = [{"pixel_values": x, "labels": y} for x, y in zip(X, Y, strict=True)]
    shifted = []
    training.fit(
        net, items, loss=training.joint_loss, epochs=1, batch_size=6,
        augment=lambda x, _: shifted.append(len(x)) or x,
    )  # fmt: skip
    assert shifted == [6, 6], "images of dictionaries are augmented, too"
    with pytest.raises(TypeError, match="one tensor .* got dict"):
        predict(net, BATCHES[0], e2cm.rule(net))
