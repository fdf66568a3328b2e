"""Tracing a backbone with ``torch.fx``, and refusing what a trace would freeze.

A trace runs ``forward`` once on a stand-in for its input.  Whatever Python decides on the way is
decided for good.  So a backbone is traced in one mode, with its optional arguments at their
defaults, and twice with other random numbers: if the two differ, it is refused.
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
        TypeError: if there is no module.
    """
    inner = backbone
    while True:
        if isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = inner.module
        elif isinstance(getattr(inner, "_orig_mod", None), nn.Module):  # torch.compile's
            inner = inner._orig_mod
        else:
            break
    if not isinstance(inner, nn.Module):
        raise TypeError(f"the backbone must be a torch.nn.Module, got {type(inner).__name__}")
    return inner


@contextmanager
def traced(backbone: nn.Module, *, modes: tuple[bool, ...]) -> Iterator[list[Trace]]:
    """The traces of a backbone in training mode (``True``) and evaluation mode (``False``).

    While the context lasts, tensors that ``forward`` makes by itself are attributes of the
    backbone, where the graphs look for them.

    Raises:
        ValueError: ``torch.fx`` cannot trace it, ``forward`` needs more than one argument, or draws
            random numbers that a trace would freeze.
    """
    before = set(vars(backbone)) | set(backbone._buffers)
    try:
        with kept_random_state():
            yield [_trace_twice(backbone, training=training) for training in modes]
    finally:
        for name in [n for n in vars(backbone) if n.startswith("_tensor_constant")]:
            if name not in before:
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
            raise ValueError(
                f"forward of {name} makes a random decision in {mode} mode, near "
                f"{first.names.get(node, node.name)!r}: a trace would freeze it; {BY_HAND}"
            )
        if one.op == "get_attr" and not _same(backbone, one.target, other.target):
            user = next(iter(one.users), one)
            raise ValueError(
                f"forward of {name} draws random numbers in {mode} mode that "
                f"{first.names.get(user, user.name)!r} uses: a trace would freeze them; draw them "
                f"like an input, as torch.randn_like does, or {BY_HAND}"
            )
    return first


def _trace(backbone: nn.Module, *, training: bool, seed: int) -> Trace:
    import torchvision
    from torchvision.models.feature_extraction import NodePathTracer

    tracer = NodePathTracer(autowrap_modules=(math, torchvision.ops))
    seed_everything(seed)
    try:
        with in_mode(backbone, training=training):
            graph = tracer.trace(backbone, concrete_args=_defaults(backbone))
    except Exception as error:
        name = type(backbone).__name__
        raise ValueError(f"torch.fx cannot trace {name} ({error}); {BY_HAND}") from error
    _drop_defaults(graph, backbone)
    _drop_unused_items(graph)
    qualified = tracer.node_to_qualname  # constants have none
    names = {node: qualified[node] for node in graph.nodes if node in qualified}
    return Trace(graph, names)


def _defaults(backbone: nn.Module) -> dict | None:
    """The optional arguments of ``forward`` at their defaults: they are no inputs of a stage."""
    parameters = list(inspect.signature(backbone.forward).parameters.values())[1:]
    found = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return found or None


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
            raise ValueError(
                f"forward of {type(backbone).__name__} needs more than one argument "
                f"({extra.target}): bind it, or {BY_HAND}"
            )
        graph.erase_node(extra)


def _drop_unused_items(graph: fx.Graph) -> None:
    """Remove items of a tuple that nothing uses, such as an LSTM's state: ``x, _ = lstm(x)``."""
    for node in reversed(list(graph.nodes)):
        if getattr(node.target, "__name__", "") == "getitem" and not node.users:
            graph.erase_node(node)


def _what(node: fx.Node) -> tuple:
    """What a node does, without the numbers of the constants."""
    target = "constant" if node.op == "get_attr" else str(node.target)
    inputs = [other.name for other in node.all_input_nodes if other.op != "get_attr"]
    return node.op, target, inputs


def _same(backbone: nn.Module, one: str, other: str) -> bool:
    """Whether two attributes of the backbone hold equal tensors, or are one attribute."""
    if one == other:
        return True
    first, second = getattr(backbone, one, None), getattr(backbone, other, None)
    if not (isinstance(first, Tensor) and isinstance(second, Tensor)):
        return True
    return torch.equal(first, second)
