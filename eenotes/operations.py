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
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from torch.utils.module_tracker import ModuleTracker

Shape = tuple[int, ...]
Rule = Callable[..., int]

_aten = torch.ops.aten
# Operations of PyTorch itself that do real work; an error unless its counter or a rule knows them.
_WORK = re.compile(
    r"^_?(fft|linalg|lu|triton)_|^_sparse_|(^|_|b|add|hsp)mm($|_)|conv(olution|_|\d|$)|matmul"
    r"|attention|(?<!bi)linear($|_(?!combination))|cholesky|(?<!re)solve|ormqr|geqrf|rnn|_lstm_mps"
    r"|quantized_(gru|lstm)"
)
_FREE = ("linalg_vector_norm",)  # a square and a sum per number, as in a normalisation
_SPARSE = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
# Functions that PyTorch computes number by number, in which its counter sees nothing.
_TABLES = ("outer", "ger", "kron", "einsum")
_ROWS = ("linalg_vecdot", "cosine_similarity", "pairwise_distance")


def _first(matrix: Shape, *_, **__) -> int:
    return math.prod(matrix)


def _pairs(first: Shape, *_, out_shape: Shape, **__) -> int:
    """All distances between rows ``(..., P, D)`` and ``(..., R, D)``."""
    return math.prod(out_shape) * first[-1]


def _product(first: Shape, second: Shape, *_, **__) -> int:
    """A product of matrices ``(..., M, I)`` and ``(..., I, N)``."""
    return math.prod(first) * second[-1]


def _by_number(name: str, given: list[Shape], out: Shape) -> int:
    """All products of two tables, or of two batches of vectors."""
    if name in _ROWS:
        return math.prod(torch.broadcast_shapes(*given))
    # an einsum that multiplies tables of one shape is a scaling, as x * y is
    paired = len(given) > 1 and math.prod(out) > max(map(math.prod, given))
    return math.prod(out) if paired or name != "einsum" else 0


_RULES: dict[Any, Rule] = {
    # one layer of an LSTM in one direction: both matrices at every step of x (T, B, I)
    _aten.mkldnn_rnn_layer: lambda x, w_input, w_hidden, *_, **__: (
        x[0] * x[1] * (math.prod(w_input) + math.prod(w_hidden))
    ),
    **dict.fromkeys([_aten.mv, _aten.dot, _aten.vdot], _first),
    **dict.fromkeys([_aten._cdist_forward, _aten._euclidean_dist, _aten._pdist_forward], _pairs),
    **dict.fromkeys([_aten.addr, _aten.addr_], lambda *_, out_shape: math.prod(out_shape)),
    **dict.fromkeys([_aten.addmv, _aten.addmv_], lambda _, matrix, *__, **___: math.prod(matrix)),
    **dict.fromkeys(
        [_aten.addbmm, _aten.addbmm_, _aten.addmm_, _aten.baddbmm_],
        lambda _, *two, **__: _product(*two),
    ),
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
    # PyTorch's counter counts a multiplication and an addition apart
    rules = {
        of: lambda *args, _rule=rule, **kw: 2 * _rule(*args, **kw) for of, rule in _RULES.items()
    }
    counter = FlopCounterMode(display=False, custom_mapping=rules)
    tracker, others = ModuleTracker(), _ByNumber(counter)
    with _visible_attention(), tracker, _Unseen(tracker), counter, others:
        out = module(x)
    return (counter.get_total_flops() // 2 + others.macs) // len(x), out


class _ByNumber(TorchFunctionMode):
    """Counts functions that are no operation of their own, where the counter saw nothing."""

    def __init__(self, counter: FlopCounterMode):
        super().__init__()
        self.counter, self.macs = counter, 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        before = self.counter.get_total_flops()
        out = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        if name in _TABLES + _ROWS and self.counter.get_total_flops() == before:
            given = [x.shape for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
            self.macs += _by_number(name, given, out.shape)
        return out


class _Unseen(TorchDispatchMode):
    """Stops at an operation that multiplies and is not counted."""

    def __init__(self, tracker: ModuleTracker):
        super().__init__()
        self.tracker = tracker

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        sparse = any(isinstance(x, Tensor) and x.layout in _SPARSE for x in args)
        if not _known(operation, sparse=sparse):
            inside = max(self.tracker.parents - {"Global"}, key=len, default="the module")
            what = f"{inside} runs {operation}, whose multiplications cannot be counted"
            raise ValueError(f"{what}: give them to eenotes.operations.register_macs")
        return operation(*args, **(kwargs or {}))


def _known(operation: Any, *, sparse: bool) -> bool:
    """Whether its work is nothing that counts, or counted; nothing counts what is sparse."""
    packet = operation.overloadpacket
    name = packet.__name__
    free = name.startswith(_FREE) or not _WORK.search(name)
    counted = packet in _RULES or packet in flop_registry
    own = operation.namespace in ("aten", "prim", "prims", "profiler")
    return (own and free) or (counted and not sparse)


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
