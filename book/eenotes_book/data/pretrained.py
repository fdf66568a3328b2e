"""Networks that others have trained to the end: two residual networks of CIFAR-10.

The weights are those of akamaster/pytorch_resnet_cifar10 (Yerlan Idelbayev, 2018, BSD 2-clause).
They lie in ``EENOTES_DATA/pretrained``, as safetensors (``resnet20-cifar10.safetensors``) or as
published (``resnet20-12fca82f.th``); with ``EENOTES_DOWNLOAD=1`` the published file is fetched
there.  A file is checked by its hash and read without running code.
"""

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from eenotes_book.data.vision import Vision
from eenotes_book.models.resnet import CifarResNet

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the pixels, as in their training
_COMMIT = "d5489e8995e81e91ce6b1d69dcc98ad579b0b153"
_ADDRESS = f"https://github.com/akamaster/pytorch_resnet_cifar10/raw/{_COMMIT}/pretrained_models/"


@dataclass(frozen=True)
class Published:
    """A published network: where its weights are, and what they are."""

    depth: int
    accuracy: float  #: on the 10,000 test images
    safetensors: str  #: sha256 of ``<name>-cifar10.safetensors``
    file: str  #: name of the published file
    sha256: str  #: of the published file


NETWORKS = {
    "resnet20": Published(
        20,
        0.9173,
        "41a3b6274178d4f584a4f0949cbb15ad950a4d87ff48a12490898f63a763e104",
        "resnet20-12fca82f.th",
        "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8",
    ),
    "resnet56": Published(
        56,
        0.9339,
        "9723459ce723556f482008f4ded86565d4317a64d8de6d8d675fa4d363dc3644",
        "resnet56-4bfd9763.th",
        "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367",
    ),
}


def load(name: str) -> CifarResNet:
    """A published network, in evaluation mode.

    Args:
        name: one of `NETWORKS`.

    Raises:
        ValueError: an unknown name, or a file of another hash or with other tensors.
        FileNotFoundError: if there is no file; it says where to put it.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; choose one of {', '.join(NETWORKS)}")
    found = NETWORKS[name]
    weights = {_renamed(key): value for key, value in _weights(name, found).items()}
    net = CifarResNet(found.depth, padded=True)
    own = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    shapes = {key: tuple(value.shape) for key, value in own.items()}
    if {key: tuple(value.shape) for key, value in weights.items()} != shapes:
        raise ValueError(f"the weights of {name} are not those of a ResNet-{found.depth}")
    net.load_state_dict(weights, strict=False)  # the published files count no batches
    return net.eval()


def normalised(data: Vision) -> Vision:
    """A data set with its pixels scaled as in the training of the published networks."""
    mean, std = torch.tensor(MEAN), torch.tensor(STD)

    def scaled(split: TensorDataset) -> TensorDataset:
        images, labels = split.tensors
        pixels = images * data.std[:, None, None] + data.mean[:, None, None]
        return TensorDataset((pixels - mean[:, None, None]) / std[:, None, None], labels)

    splits = {name: scaled(getattr(data, name)) for name in ("train", "val", "test")}
    return replace(data, **splits, mean=mean, std=std)


def _weights(name: str, found: Published) -> dict[str, Tensor]:
    folder = Path(os.environ.get("EENOTES_DATA", "data")).expanduser() / "pretrained"
    safe, published = folder / f"{name}-cifar10.safetensors", folder / found.file
    if safe.exists():
        from safetensors.torch import load_file

        _check_hash(safe, found.safetensors)
        return load_file(safe)
    if not published.exists():
        if os.environ.get("EENOTES_DOWNLOAD") != "1":
            raise FileNotFoundError(
                f"no weights of {name}: put {safe.name} or {published.name} into {folder}, or set "
                "EENOTES_DOWNLOAD=1 to fetch them"
            )
        folder.mkdir(parents=True, exist_ok=True)
        address = _ADDRESS + found.file
        torch.hub.download_url_to_file(address, str(published), hash_prefix=found.sha256)
    _check_hash(published, found.sha256)
    return torch.load(published, map_location="cpu", weights_only=True)["state_dict"]


def _check_hash(path: Path, expected: str) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise ValueError(
            f"{path} has sha256 {found} instead of {expected}: it is damaged or another file; "
            "nothing was loaded"
        )


def _renamed(key: str) -> str:
    """The published name of a tensor, as `CifarResNet` calls it."""
    key = key.removeprefix("module.")
    for theirs, ours in (
        ("conv1.", "stem.0."),
        ("bn1.", "stem.1."),
        ("layer", "group"),
        ("linear.", "classifier."),
    ):
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key
