"""The settings of chapter 5; their values are in ``settings.toml``."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RaceSettings:
    """The race on one data set: its size, its training, and what each score may cost."""

    train: int  # images
    val: int  # images
    test: int  # images
    kind: str  # of the network: "conv", "mlp", or a name of torchvision's
    width: int  # channels of the first convolution, or units of each hidden layer (or the proxy's)
    exit_grid: int  # cells a side to which the early exits pool feature maps
    batch_size: int
    learning_rate: float
    budget: int  # passes over the whole training set; few kept samples are seen more often
    score_epochs: int  # EEPrune's
    el2n_epochs: int  # of each of its networks
    el2n_networks: int  # the paper averages over ten
    forgetting_epochs: int  # a whole training
    svp_epochs: int  # of a network of half the width
    runners: dict[str, list[str]]  # share dropped → methods; no pruning always takes part
    sweep_ratio: float  # dropped at every size of the sweep
    halves: bool  # train on what EEPrune drops of half the data, and on as much of the rest


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """EEPrune, its reverse, random and all samples of data sets of growing size."""

    names: list[str]  # data sets
    seeds: int
    sizes: list[int]  # training images before pruning, and all of the race's
    least: int  # samples seen: small data sets are passed over more often


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
    sweep: SweepSettings
    digits: RaceSettings | None = None
    FashionMNIST: RaceSettings | None = None
    CIFAR10: RaceSettings | None = None
    CIFAR100: RaceSettings | None = None
    KMNIST: RaceSettings | None = None

    def race(self, name: str) -> RaceSettings:
        """The settings of one data set."""
        return getattr(self, name)


@dataclass(frozen=True, kw_only=True)
class Settings(StudySettings):
    """The chapter's own run."""

    ring: RingSettings
    extra_ratio: float  # of the experiments beyond the thesis
