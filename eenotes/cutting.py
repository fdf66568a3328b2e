"""Cutting a backbone into stages, where one tensor carries everything that follows."""

import difflib
import operator
import re
from collections.abc import Sequence
from itertools import accumulate, pairwise

from torch import Tensor, fx, nn

from eenotes.network import modes_of, put_back
from eenotes.stages import Stage
from eenotes.tracing import Trace, traced, unwrapped
from eenotes.verification import check_stages, example_for

# What may hand on its input, or a view of it, instead of a new tensor.
_VIEWS = {
    "adjoint", "alphadropout", "bfloat16", "broadcast_to", "chunk", "contiguous", "detach",
    "diagonal", "double", "dropout", "dropout1d", "dropout2d", "dropout3d", "expand", "expand_as",
    "featurealphadropout", "flatten", "float", "getattr", "getitem", "half", "identity", "moveaxis",
    "movedim", "narrow", "permute", "ravel", "reshape", "reshape_as", "select", "split", "squeeze",
    "stochastic_depth", "stochasticdepth", "swapaxes", "swapdims", "t", "tensor_split", "to",
    "transpose", "type", "type_as", "unbind", "unflatten", "unfold", "unsqueeze", "view", "view_as",
}  # fmt: skip


def split(
    backbone: nn.Module, *, at: Sequence[str], example: Tensor | None = None
) -> nn.ModuleList:
    """Cut a backbone into stages that compose to exactly the backbone and share its parameters.

    A cut is legal where one single tensor carries everything that comes later; then the batch can
    shrink there.  The backbone is traced by ``torch.fx`` in both modes, with its optional arguments
    at their defaults, and left as it was.  Then the stages are compared with it in both modes and
    at two batch sizes, because a trace freezes what Python decides.

    The backbone may be inside ``torch.compile`` or a data-parallel wrapper.  A stage ends after
    each of the modules or graph nodes ``at``, named in the order of execution (see `cut_points`):
    ``["layer1", "layer2"]`` gives three stages, which follow ``train()`` and ``eval()``, copy and
    pickle.  By default the ``example`` ``(B, ...)`` is made from the first layer.

    Raises:
        TypeError: the backbone is no module or ``at`` is a bare string.
        ValueError: the backbone cannot be traced or makes random decisions, a name is unknown,
            illegal, repeated or out of order, or the stages give other answers than the backbone.
    """
    if isinstance(at, str):
        raise TypeError(f"at={at!r} must be a list of names, for example at=[{at!r}]")
    at, backbone = list(at), unwrapped(backbone)
    if not at:
        raise ValueError("at=[] leaves one stage and no exit: name at least one place to cut")
    before = modes_of(backbone)  # a new stage puts what it shares into training mode
    with traced(backbone) as traces:
        pieces = []
        for trace in traces:
            legal = _legal(trace.graph, backbone)
            ends = [_resolve(name, trace, legal) for name in at]
            _copy_overwritten_input(trace.graph, backbone)
            pieces.append(_cut(trace.graph, ends, at))
        stages = nn.ModuleList(Stage(backbone, *graphs) for graphs in zip(*pieces, strict=True))
    for stage, stage.ends_at in zip(stages, [*at, "output"], strict=True):
        stage.train(backbone.training)
    stages.training = backbone.training
    put_back(before)
    check_stages(backbone, stages, example_for(backbone) if example is None else example)
    return stages


def cut_points(backbone: nn.Module) -> list[str]:
    """Every place where `split` may cut, in the order of execution, each under its shortest name.

    Raises:
        TypeError, ValueError: as `split`, for a backbone that cannot be cut at all.
    """
    backbone = unwrapped(backbone)
    with traced(backbone) as (training, evaluation):
        found = _legal(evaluation.graph, backbone)
        # In training more may be needed later, such as the auxiliary logits of GoogLeNet.
        in_training = set(_legal(training.graph, backbone))
    names = [_shortest_name(node, evaluation.names) for node in found]
    return [n for n in names if in_training.intersection(_nodes(n, training.names)[-1:])]


def _shortest_name(node: fx.Node, names: dict[fx.Node, str]) -> str:
    """The shortest module path whose last node this is, else the node's own name."""
    last = {prefix: other for other, path in names.items() for prefix in _prefixes(path)}
    return min((name for name, end in last.items() if end is node), key=len)


def _prefixes(path: str) -> list[str]:
    """``"a.b.c"`` → ``["a", "a.b", "a.b.c"]``."""
    return list(accumulate(path.split("."), "{}.{}".format))


def _resolve(name: str, trace: Trace, legal: list[fx.Node]) -> fx.Node:
    """The last node of the module called ``name``, or the node of that name, if it is legal."""
    names, nodes = trace.names, _nodes(name, trace.names)
    if not nodes:
        prefixes = {prefix for path in names.values() for prefix in _prefixes(path)}
        near = difflib.get_close_matches(name, sorted(prefixes), n=3, cutoff=0.4)
        raise ValueError(f"the backbone has no node {name!r}; near: {near or sorted(prefixes)[:5]}")
    node = nodes[-1]
    if node in legal:
        return node
    order = {node: position for position, node in enumerate(trace.graph.nodes)}
    near = sorted(legal, key=lambda other: abs(order[other] - order[node]))[:2]
    near = [_shortest_name(other, names) for other in sorted(near, key=order.__getitem__)]
    others = [names.get(other, other.name) for other in _live(trace.graph)[node] - {node}]
    needed = f" ({', '.join(sorted(others))})" if others else ""
    where = f"the nearest legal places are {near}" if near else "this backbone has no legal place"
    raise ValueError(
        f"no cut is possible after {name!r}: more than one value{needed} (or none that keeps the "
        f"batch first) is needed later, or the next operation overwrites it in place; {where}"
    )


def _nodes(name: str, names: dict[fx.Node, str]) -> list[fx.Node]:
    """The nodes of the module called ``name``, or the one node of that name."""
    return [node for node, path in names.items() if path == name or path.startswith(name + ".")]


def _live(graph: fx.Graph) -> dict[fx.Node, set[fx.Node]]:
    """Node → the values that are still needed after it."""
    order = {node: position for position, node in enumerate(graph.nodes)}
    # Parameters, buffers and the size of the batch do not count: a later stage reads them itself.
    values = [n for n in graph.nodes if n.op != "get_attr" and not _is_batch_size(n)]
    last_use = {
        node: max((order[user] for user in node.users if not _is_batch_size(user)), default=-1)
        for node in values
    }
    found, live = {}, set()
    for node, position in order.items():
        live = {other for other in live if last_use[other] > position}
        if last_use.get(node, -1) > position:
            live.add(node)
        found[node] = set(live)
    return found


def _is_batch_size(node: fx.Node) -> bool:
    """Whether a node is the length of the backbone's input: ``x.size(0)`` or ``x.shape[0]``."""
    of = node.args[0] if node.args else None
    if node.op == "call_method" and node.target == "size":
        return of.op == "placeholder" and [*node.args[1:], *node.kwargs.values()] == [0]
    if node.target is not operator.getitem or node.args[1] != 0 or not isinstance(of, fx.Node):
        return False
    sizes = of.op == "call_method" and of.target == "size" and len(of.args) == 1 and not of.kwargs
    sizes = sizes or (of.target is getattr and of.args[1] == "shape")
    return sizes and of.args[0].op == "placeholder"


def _legal(graph: fx.Graph, backbone: nn.Module) -> list[fx.Node]:
    """The nodes after which exactly one value is still needed, which nothing later overwrites."""

    def is_item(user: fx.Node) -> bool:  # of a tuple, which is no batch
        return user.target is operator.getitem and isinstance(user.args[1], int)

    return [
        node
        for node, live in _live(graph).items()
        if live == {node}
        and node.op not in ("placeholder", "output")
        and not any(user.op == "output" or is_item(user) for user in node.users)
        and not _overwritten(node, backbone)
    ]


def _overwritten(node: fx.Node, backbone: nn.Module) -> bool:
    """Whether a value or a view of it is changed in place, which the exit before would see."""
    return any(
        _overwrites(user, backbone)
        or (_operation(user, backbone) in _VIEWS and _overwritten(user, backbone))
        for user in node.users
    )


def _overwrites(user: fx.Node, backbone: nn.Module) -> bool:
    if user.op == "call_module":
        return getattr(backbone.get_submodule(user.target), "inplace", False)
    # relu_, but neither __dunder__ nor operator.and_; x += y is traced as x + y
    marked = re.search(r"[^_]_$", _operation(user, backbone))
    own = getattr(user.target, "__module__", "") == "_operator"
    given = {name for name, value in user.kwargs.items() if value}
    return bool(marked and not own or {"inplace", "out"} & given)


def _operation(node: fx.Node, backbone: nn.Module) -> str:
    """What a node does, in lower case: ``"flatten"`` for module, function and method."""
    if node.op == "call_module":
        return type(backbone.get_submodule(node.target)).__name__.lower()
    return getattr(node.target, "__name__", str(node.target))


def _copy_overwritten_input(graph: fx.Graph, backbone: nn.Module) -> None:
    """Let the first stage change a copy of its input: several passes go over one batch."""
    given = next(iter(graph.nodes))
    if _overwritten(given, backbone):
        with graph.inserting_after(given):
            own = graph.call_method("clone", (given,))
        given.replace_all_uses_with(own, delete_user_cb=lambda user: user is not own)


def _cut(graph: fx.Graph, ends: list[fx.Node], at: list[str]) -> list[fx.Graph]:
    """One graph per stage; each takes the node at which the one before it ends."""
    nodes = list(graph.nodes)
    positions = [nodes.index(end) for end in ends]
    if positions != sorted(set(positions)):
        raise ValueError(f"at={at} must name different places in the order of execution")
    bounds = [0, *(position + 1 for position in positions), len(nodes)]
    pieces = zip(pairwise(bounds), [None, *ends], strict=True)
    return [_piece(nodes[start:stop], entry) for (start, stop), entry in pieces]


def _piece(nodes: list[fx.Node], entry: fx.Node | None) -> fx.Graph:
    piece, copies = fx.Graph(), {}

    def copy(node: fx.Node) -> fx.Node:
        if node in copies:
            return copies[node]
        if entry is not None and _is_batch_size(node):
            copies[node] = piece.call_method("size", (copies[entry], 0))
        else:  # also a parameter that an earlier stage read first: read it here again
            copies[node] = piece.node_copy(node, copy)
        return copies[node]

    if entry is not None:
        copies[entry] = piece.placeholder("features")
    for node in nodes:
        if node.op == "output":
            piece.output(fx.node.map_arg(node.args[0], copy))
            return piece
        copy(node)
    piece.output(copies[nodes[-1]])
    return piece
