"""Tracing a backbone with ``torch.fx``, and refusing what it cannot trace.

A trace runs ``forward`` once on a stand-in for its input, and freezes what Python decides: so there
is one for each mode, and `eenotes.verification` compares what is cut from them with the backbone.
"""

import inspect
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx, nn

from eenotes.network import in_mode

BY_HAND = "write the stages by hand and give them to EarlyExitNetwork"


@dataclass(frozen=True)
class Trace:
    """What ``forward`` does in one mode."""

    graph: fx.Graph
    names: dict[fx.Node, str]  #: qualified name of every node


def unwrapped(backbone: nn.Module) -> nn.Module:
    """The module inside ``torch.compile`` and inside the data-parallel wrappers.

    Raises:
        TypeError: there is no module.
    """
    if isinstance(backbone, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(backbone.module)
    if isinstance(getattr(backbone, "_orig_mod", None), nn.Module):  # torch.compile's
        return unwrapped(backbone._orig_mod)
    if not isinstance(backbone, nn.Module):
        raise TypeError(f"the backbone must be a torch.nn.Module, got {type(backbone).__name__}")
    return backbone


@contextmanager
def traced(backbone: nn.Module) -> Iterator[tuple[Trace, Trace]]:
    """The traces of a backbone in training mode and in evaluation mode.

    While the context lasts, tensors that ``forward`` makes are attributes of the backbone.

    Raises:
        ValueError: ``torch.fx`` cannot trace it, or it needs several arguments.
    """
    before = set(vars(backbone)) | set(backbone._buffers)
    try:
        with kept_random_state():
            yield _trace(backbone, training=True), _trace(backbone, training=False)
    finally:
        for name in set(vars(backbone)) - before:
            if name.startswith("_tensor_constant"):
                delattr(backbone, name)


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Put the random numbers of Python, NumPy and torch back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (a backbone may use it)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def seed_everything(seed: int) -> None:
    """Seed the random numbers of Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def _trace(backbone: nn.Module, *, training: bool) -> Trace:
    import torchvision
    from torchvision.models.feature_extraction import NodePathTracer

    tracer = NodePathTracer(autowrap_modules=(math, torchvision.ops))
    name = next(iter(inspect.signature(backbone.forward).parameters), "x")

    def one_input(forward: Callable, *_) -> tuple:  # other arguments keep their defaults
        return forward, [backbone, tracer.create_proxy("placeholder", name, (), {})]

    tracer.create_args_for_root = one_input
    seed_everything(0)
    try:
        with in_mode(backbone, training=training):
            graph = tracer.trace(backbone)
    except Exception as error:
        name = type(backbone).__name__
        raise ValueError(f"torch.fx cannot trace {name} ({error}); {BY_HAND}") from error
    for node in reversed(list(graph.nodes)):
        # an item of a tuple that nothing uses, such as an LSTM's state: x, _ = lstm(x)
        if getattr(node.target, "__name__", "") == "getitem" and not node.users:
            graph.erase_node(node)
    qualified = tracer.node_to_qualname  # constants have none
    names = {node: qualified[node] for node in graph.nodes if node in qualified}
    return Trace(graph, names)
