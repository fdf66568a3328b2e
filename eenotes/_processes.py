"""Sums and agreements over all processes of ``torch.distributed``, or of a single process."""

from typing import Any

from torch import distributed


def gathered(value: Any) -> list:
    """The values of all processes, in their order; tensors should be on the CPU."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
