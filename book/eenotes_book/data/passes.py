"""Some rows of a data set, in turn, until a number of samples is reached."""

from torch import Tensor, tensor
from torch.utils.data import Dataset, TensorDataset


class Passes(Dataset):
    """``length`` samples: some rows of a data set, in turn, as often as it takes.

    Trainings on few and on many rows then see equally many samples.
    """

    def __init__(self, dataset: TensorDataset, rows: Tensor, length: int):
        self.dataset, self.rows, self.length = dataset, rows, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        return self.dataset[int(self.rows[i % len(self.rows)])]

    def __getitems__(self, numbers: list[int]) -> list[tuple[Tensor, ...]]:
        """The samples of a batch, taken in one go."""
        rows = self.rows[tensor(numbers) % len(self.rows)]
        return list(zip(*(part[rows].unbind() for part in self.dataset.tensors), strict=True))
