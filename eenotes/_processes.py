"""Sums and agreements over all processes of ``torch.distributed``, or of a single process."""

from typing import Any

import torch
from torch import distributed, nn


def gathered(value: Any) -> list:
    """The values of all processes, in their order; tensors should be on the CPU."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


@torch.no_grad()
def share_buffers(model: nn.Module) -> None:
    """Give every process the buffers of the first: batch statistics follow each one's samples."""
    for buffer in model.buffers():
        value = buffer.contiguous()
        distributed.broadcast(value, 0)
        buffer.copy_(value)
