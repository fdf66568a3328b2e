"""The book's own small backbones."""

from eenotes.models.resnet import CifarResNet

__all__ = ["CifarResNet"]
