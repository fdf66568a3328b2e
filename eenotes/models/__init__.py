"""The book's own small backbones."""

from eenotes.models.resnet import CifarResNet
from eenotes.models.segmentation import SegmentationNetwork
from eenotes.models.token_vit import TokenViT

__all__ = ["CifarResNet", "SegmentationNetwork", "TokenViT"]
