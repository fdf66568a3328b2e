"""Counting multiply-accumulate operations (MACs), and refusing what cannot be counted.

PyTorch's counter knows matrix products and convolutions, and rules here what else multiplies
matrices.  What may multiply and is not known is an error: a silent zero would make costs wrong.
"""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from torch.utils.module_tracker import ModuleTracker

Shape = tuple[int, ...]
Rule = Callable[..., int]

_aten = torch.ops.aten
# Operations of PyTorch itself that do real work which neither its counter nor a rule here sees.
_UNCOUNTED = ("_fft_", "fft_", "linalg_", "_linalg_", "_sparse_", "cholesky", "_scaled_mm", "lu_")
_PRODUCT = re.compile(
    r"(^|_|b|add)mm($|_)|conv(olution|_|\d|$)|(?<!bi)linear($|_(?!combination))|matmul"
)
_FREE = ("linalg_vector_norm",)  # a square and a sum per number, as in a normalisation


def _first(matrix: Shape, *_, **__) -> int:
    return math.prod(matrix)


def _pairs(first: Shape, *_, out_shape: Shape, **__) -> int:
    """All distances between rows ``(..., P, D)`` and ``(..., R, D)``."""
    return math.prod(out_shape) * first[-1]


def _product(first: Shape, second: Shape, *_, **__) -> int:
    """A product of matrices ``(..., M, I)`` and ``(..., I, N)``."""
    return math.prod(first) * second[-1]


def _added(_, first: Shape, second: Shape, *__, **___) -> int:
    return _product(first, second)


_RULES: dict[Any, Rule] = {
    # one layer of an LSTM in one direction: both matrices at every step of x (T, B, I)
    _aten.mkldnn_rnn_layer: lambda x, w_input, w_hidden, *_, **__: (
        x[0] * x[1] * (math.prod(w_input) + math.prod(w_hidden))
    ),
    **dict.fromkeys([_aten.mv, _aten.dot, _aten.vdot], _first),
    **dict.fromkeys([_aten._cdist_forward, _aten._euclidean_dist], _pairs),
    **dict.fromkeys([_aten.addmv, _aten.addmv_], lambda _, matrix, *__, **___: math.prod(matrix)),
    **dict.fromkeys([_aten.addbmm, _aten.addbmm_, _aten.addmm_, _aten.baddbmm_], _added),
    _aten._int_mm: _product,
    # a bilinear layer, weight (O, I, K), on (B, 1, I, 1) or the like
    _aten._trilinear: lambda first, weight, *_, **__: first[0] * math.prod(weight),
}


def register_macs(operation: Any, rule: Rule) -> None:
    """Say how many MACs an operation takes that `eenotes.count_macs` does not know.

    The operation is of ``torch.ops``.  The rule takes its arguments, with shapes in place of
    tensors, and the keyword ``out_shape`` to the MACs of the whole call.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(operation, torch._ops.OpOverloadPacket):
        raise TypeError(f"operation must be of torch.ops, as torch.ops.mine.kernel: {operation!r}")
    _RULES[operation] = rule


def count(module: nn.Module, x: Tensor) -> tuple[int, Any]:
    """The MACs of a module on a batch ``x`` ``(B, ...)``, per sample, and its output.

    Raises:
        ValueError: an operation that no rule counts; it names the module and the operation.
    """
    rules = {operation: _doubled(rule) for operation, rule in _RULES.items()}
    counter = FlopCounterMode(display=False, custom_mapping=rules)
    with _visible_attention(), ModuleTracker() as tracker, _Unseen(tracker), counter:
        out = module(x)
    return counter.get_total_flops() // (2 * len(x)), out


class _Unseen(TorchDispatchMode):
    """Stops at an operation that multiplies and is not counted."""

    def __init__(self, tracker: ModuleTracker):
        super().__init__()
        self.tracker = tracker

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if not _known(operation):
            inside = max(self.tracker.parents - {"Global"}, key=len, default="the module")
            what = f"{inside} runs {operation}, whose multiplications cannot be counted"
            raise ValueError(f"{what}: give them to eenotes.operations.register_macs")
        return operation(*args, **(kwargs or {}))


def _known(operation: Any) -> bool:
    if operation.overloadpacket in _RULES or operation.overloadpacket in flop_registry:
        return True
    name = operation.name().split("::")[-1]
    own = operation.namespace in ("aten", "prim", "prims", "profiler")
    work = name.startswith(_UNCOUNTED) or _PRODUCT.search(name)
    return own and (name.startswith(_FREE) or not work)


def _doubled(rule: Rule) -> Rule:
    """PyTorch's counter counts a multiplication and an addition apart."""
    return lambda *args, **kwargs: 2 * rule(*args, **kwargs)


@contextmanager
def _visible_attention() -> Iterator[None]:
    """Attention as two plain matrix products: PyTorch's counter does not see into the fast path of
    `torch.nn.MultiheadAttention`, nor, before 2.15, into a CPU's kernel (pytorch/pytorch#195460).
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
