"""Some rows of a data set, in turn, until a number of samples is reached."""

from torch import Tensor
from torch.utils.data import Dataset


class Passes(Dataset):
    """``length`` samples: some rows of a data set, in turn, as often as it takes.

    Trainings on few and on many rows then see equally many samples.
    """

    def __init__(self, dataset: Dataset, rows: Tensor, length: int):
        self.dataset, self.rows, self.length = dataset, rows.tolist(), length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        return self.dataset[self.rows[i % len(self.rows)]]
