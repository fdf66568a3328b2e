"""Types of the settings in ``settings.toml``."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """A data set's size, and the training that every set of kept samples gets."""

    train: int  # images
    val: int  # images
    test: int  # images
    kind: str  # of the network: "conv" or "mlp"
    width: int  # channels of the first convolution, or units of each hidden layer
    batch_size: int
    learning_rate: float
    budget: int  # passes over the whole training set; few kept samples are seen more often


@dataclass(frozen=True, kw_only=True)
class RaceSettings(TrainingSettings):
    """The race on one data set: its training, and what each score may cost."""

    score_epochs: int  # EEPrune's and EL2N's
    el2n_networks: int  # the paper averages over ten
    forgetting_epochs: int  # a whole training
    svp_epochs: int  # of a network of half the width


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """Easy, hard or any samples of data sets of growing size."""

    names: list[str]  # data sets
    seeds: int
    sizes: list[int]  # training images before pruning
    ratio: float  # dropped
    test: int  # images
    width: int  # units of each of three hidden layers
    batch_size: int
    learning_rate: float
    budget: int  # passes over the unpruned set
    least: int  # samples seen at the small sizes, where the budget is fewer
    score_epochs: int  # at least; a quarter of the passes where those are more


@dataclass(frozen=True, kw_only=True)
class RingSettings:
    """The points of the first picture."""

    points: int
    epochs: list[int]  # after which EEPrune decides
    ratio: float


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """The many-seed runs behind the claims."""

    names: list[str]  # data sets of the race, each with a table of its own
    seeds: int
    ratios: list[float]  # dropped
    extra_ratio: float  # of the experiments beyond the thesis
    sweep: SweepSettings
    digits: RaceSettings | None = None
    FashionMNIST: RaceSettings | None = None
    CIFAR10: RaceSettings | None = None

    def race(self, name: str) -> RaceSettings:
        """The settings of one data set."""
        return getattr(self, name)


@dataclass(frozen=True, kw_only=True)
class Settings(StudySettings):
    """The chapter's own run."""

    ring: RingSettings
