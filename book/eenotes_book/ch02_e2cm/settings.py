"""The settings of chapter 2; their values are in ``settings.toml``."""

from dataclasses import dataclass

from eenotes_book import deep_clustering


@dataclass
class Backbone:
    """A ResNet and the data that it is trained on; the exits are trained like it."""

    train: int  # images
    val: int
    test: int
    depth: int
    width: int  # channels of the first group
    epochs: int
    batch_size: int
    learning_rate: float  # the peak


@dataclass(frozen=True, kw_only=True)
class Clusters(deep_clustering.Recipe):
    """A deep clustering, and the data that it is made of."""

    train: int  # images
    val: int
    test: int


@dataclass
class Settings:
    """What the chapter is run with at one scale."""

    unlimited_epochs: int  # of SDN where exits have no budget
    backbones: dict[str, Backbone]  # by data set
    clustering: dict[str, Clusters]  # by data set


@dataclass
class StudySettings:
    """What the study is run with."""

    seeds: int
    clustering: dict[str, Clusters]  # by data set
