"""A published network on blurred and noisy images: what becomes of a promise made on clean ones.

``python -m eenotes_book.ch07_trust.shifted`` fits whitened class means to ResNet-20, shows the
network changed test images, and writes ``shifted.safetensors``: of every exit its answer and the
log-odds of its confidence.
"""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset
from torchvision.transforms.v2.functional import gaussian_blur

from eenotes import EarlyExitNetwork, collect, count_macs, split, training
from eenotes.checkpoints import load_tensors, save_tensors
from eenotes.costs import Costs
from eenotes.methods import e2cm
from eenotes_book import scale
from eenotes_book.ch07_trust.promises import Seen
from eenotes_book.data import pretrained, vision

NETWORK = "resnet20"
TRAIN, TEST = 10_000, 5_000  # images: for the class means, and to be changed
BLURS = (0.4, 0.5, 0.6)  # standard deviation in pixels
NOISES = (0.02, 0.04, 0.08)  # standard deviation, where pixels lie in [0, 1]
PATH = Path(__file__).with_suffix(".safetensors")
CLEAN = "none"
_KERNEL = 5  # pixels


def log_odds(logits: Tensor) -> Tensor:
    """Of the confidence (1.1), ``(..., N)``: half precision keeps what is close to 1."""
    z = logits.double()
    top, index = z.max(-1, keepdim=True)
    others = z.scatter(-1, index, -torch.inf).logsumexp(-1)
    return top.squeeze(-1) - others


def kinds() -> dict[str, tuple[str, float]]:
    """What is done to the images by name, nothing first: kind and strength."""
    blurs = {f"blur {strength:g}": ("blur", strength) for strength in BLURS}
    return (
        {CLEAN: ("noise", 0.0)}
        | blurs
        | {f"noise {strength:g}": ("noise", strength) for strength in NOISES}
    )


def changed(images: Tensor, kind: str, strength: float, *, seed: int = 0) -> Tensor:
    """Blurred or noisy images ``(N, C, H, W)`` with pixels in [0, 1].

    Raises:
        ValueError: another kind.
    """
    if kind == "blur":
        return gaussian_blur(images, [_KERNEL, _KERNEL], [strength, strength])
    if kind == "noise":
        generator = torch.Generator().manual_seed(seed)
        return (images + strength * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    raise ValueError(f"a shift is 'blur' or 'noise', not {kind!r}")


def load() -> tuple[dict[str, Seen], dict[str, Any]]:
    """The images under every shift of `kinds`, and the facts: ``accuracy``, ``classes``, ..."""
    tensors, facts = load_tensors(PATH)
    costs = Costs(tuple(facts["stages"]), tuple(facts["exits"]))
    found = {}
    for name in kinds():
        prediction, score = tensors[f"{name}.prediction"], tensors[f"{name}.score"]
        labels, cost = tensors["labels"].long(), costs.cumulative / costs.backbone
        found[name] = Seen(prediction.long(), score.double(), labels, cost)
    return found, facts


def record() -> None:
    """Write what every exit says of the changed test images of CIFAR-10."""
    data = vision.load("CIFAR10", train=TRAIN, val=0, test=TEST)
    data = pretrained.normalised(data)
    net, labels = network(data), data.test.tensors[1]
    mean, std = data.mean[:, None, None], data.std[:, None, None]
    clean = data.test.tensors[0] * std + mean
    tensors, accuracy = {"labels": labels.to(torch.uint8)}, {}
    for name, (kind, strength) in kinds().items():
        images = (changed(clean, kind, strength) - mean) / std
        logits, _ = collect(net, vision.batches(TensorDataset(images, labels)))
        prediction = logits.argmax(2).cpu()
        tensors[f"{name}.prediction"] = prediction.to(torch.uint8)
        tensors[f"{name}.score"] = log_odds(logits[:-1]).half().cpu()
        accuracy[name] = (prediction == labels).double().mean(1).tolist()
        print(name, accuracy[name], flush=True)
    costs = count_macs(net, data.test.tensors[0][:1])
    save_tensors(
        PATH,
        tensors,
        network=NETWORK,
        accuracy=accuracy,
        stages=costs.stages,
        exits=costs.exits,
        counts=data.counts,
        classes=data.classes,
        device=scale.device_name(),
        recorded=time.strftime("%Y-%m-%d"),
    )


def network(data: vision.Vision) -> EarlyExitNetwork:
    """ResNet-20 with whitened class means after its stem and every block."""
    backbone = pretrained.load(NETWORK).to(memory_format=torch.channels_last)
    stages = split(backbone, at=backbone.exit_points)
    with training.accelerator().autocast():
        batches = vision.batches(data.train)
        return e2cm.fit_whitened(stages, batches, num_classes=len(data.classes))


if __name__ == "__main__":
    record()
