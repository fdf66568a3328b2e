"""Tracing a backbone with ``torch.fx``, and refusing what a trace would freeze.

A trace runs ``forward`` once on a stand-in for its input, and freezes what Python decides.  So a
backbone is traced in one mode and twice with other random numbers: the two must not differ.
"""

import inspect
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import torch
from torch import Tensor, fx, nn

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
def traced(backbone: nn.Module, *, modes: tuple[bool, ...]) -> Iterator[list[Trace]]:
    """The traces of a backbone in training mode (``True``) and evaluation mode (``False``).

    While the context lasts, tensors that ``forward`` makes are attributes of the backbone.

    Raises:
        ValueError: ``torch.fx`` cannot trace it, or it needs several arguments or draws random
            numbers.
    """
    before = set(vars(backbone)) | set(backbone._buffers)
    try:
        with kept_random_state():
            yield [_trace_twice(backbone, training=training) for training in modes]
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


def _trace_twice(backbone: nn.Module, *, training: bool) -> Trace:
    first, second = (_trace(backbone, training=training, seed=seed) for seed in (0, 1))
    name, mode = type(backbone).__name__, "training" if training else "evaluation"
    for one, other in zip_longest(first.graph.nodes, second.graph.nodes):
        if None in (one, other) or _what(one) != _what(other):
            node = other if one is None else one
            where = f"in {mode} mode, near {first.names.get(node, node.name)!r}"
            raise ValueError(f"forward of {name} makes a random decision {where}; {BY_HAND}")
        if one.op == "get_attr" and not _same(backbone, one.target, other.target):
            user = next(iter(one.users), one)
            where = f"in {mode} mode that {first.names.get(user, user.name)!r} uses"
            raise ValueError(
                f"forward of {name} draws random numbers {where}: draw them like an input, as "
                f"torch.randn_like does, or {BY_HAND}"
            )
    return first


def _trace(backbone: nn.Module, *, training: bool, seed: int) -> Trace:
    import torchvision
    from torchvision.models.feature_extraction import NodePathTracer

    tracer = NodePathTracer(autowrap_modules=(math, torchvision.ops))
    # optional arguments of forward at their defaults are no inputs of a stage
    parameters = list(inspect.signature(backbone.forward).parameters.values())[1:]
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    seed_everything(seed)
    try:
        with in_mode(backbone, training=training):
            graph = tracer.trace(backbone, concrete_args=defaults or None)
    except Exception as error:
        name = type(backbone).__name__
        raise ValueError(f"torch.fx cannot trace {name} ({error}); {BY_HAND}") from error
    _drop_defaults(graph, backbone)
    for node in reversed(list(graph.nodes)):
        # an item of a tuple that nothing uses, such as an LSTM's state: x, _ = lstm(x)
        if getattr(node.target, "__name__", "") == "getitem" and not node.users:
            graph.erase_node(node)
    qualified = tracer.node_to_qualname  # constants have none
    names = {node: qualified[node] for node in graph.nodes if node in qualified}
    return Trace(graph, names)


def _drop_defaults(graph: fx.Graph, backbone: nn.Module) -> None:
    """Remove the placeholders of optional arguments, and the assertions that fx adds for them."""
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    for extra in reversed(inputs[1:]):
        for user in list(extra.users):
            for last in [*user.users, user]:
                if "_assert" in getattr(last.target, "__name__", "") and not last.users:
                    graph.erase_node(last)
            if user in extra.users and not user.users:
                graph.erase_node(user)
        if extra.users:
            what = f"forward of {type(backbone).__name__} needs more than one argument"
            raise ValueError(f"{what} ({extra.target}): bind it, or {BY_HAND}")
        graph.erase_node(extra)


def _what(node: fx.Node) -> tuple:
    """What a node does, without the numbers of the constants."""
    inputs = [other.name for other in node.all_input_nodes if other.op != "get_attr"]
    return node.op, "constant" if node.op == "get_attr" else str(node.target), inputs


def _same(backbone: nn.Module, one: str, other: str) -> bool:
    """Whether two attributes of the backbone hold equal tensors, or are one attribute."""
    first, second = getattr(backbone, one, None), getattr(backbone, other, None)
    both = isinstance(first, Tensor) and isinstance(second, Tensor)
    return one == other or not both or torch.equal(first, second)
