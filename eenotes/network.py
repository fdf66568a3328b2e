"""Partial computation: a backbone cut into stages, and the network with an exit after each of them."""

import difflib
import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, fx, nn

_IN_PLACE_FUNCTIONS = {getattr(operator, name) for name in ("iadd", "isub", "imul", "itruediv", "imatmul", "ipow")}


class EarlyExitNetwork(nn.Module):
    """Stages with an exit head after each one but the last; the last stage ends in the backbone's own classifier.

    Args:
        stages: J modules; stage j maps the features of stage j-1, ``(B, ...)``, to its own.  The last one returns logits
            ``(B, K)``.
        exits: J-1 heads, each mapping the features of its stage to logits ``(B, K)``.

    Raises:
        ValueError: unless there is exactly one stage more than there are exits.
    """

    def __init__(self, stages: Iterable[nn.Module], exits: Iterable[nn.Module]):
        super().__init__()
        self.stages, self.exits = nn.ModuleList(stages), nn.ModuleList(exits)
        if len(self.exits) != len(self.stages) - 1 or not self.stages:
            raise ValueError(
                f"{len(self.stages)} stages need {max(len(self.stages) - 1, 1)} exit heads (the last stage ends in the "
                f"backbone's own classifier), got {len(self.exits)}"
            )

    @property
    def num_exits(self) -> int:
        """J: the exit heads and the classifier."""
        return len(self.stages)

    def step(self, j: int, features: Tensor) -> tuple[Tensor, Tensor]:
        """Run stage ``j`` (from 0) and its exit test; return the new features ``(B, ...)`` and the logits ``(B, K)``."""
        features = self.stages[j](features)
        return features, self.exits[j](features) if j < len(self.exits) else features

    def forward(self, x: Tensor) -> list[Tensor]:
        """The logits ``(B, K)`` of all J exits, first to last, with nothing left out: for training and for calibration."""
        logits = []
        for j in range(self.num_exits):
            x, exit_logits = self.step(j, x)
            logits.append(exit_logits)
        return logits

    def features(self, x: Tensor) -> list[Tensor]:
        """The output of every stage but the last, ``(B, ...)`` each: what the J-1 exit heads see."""
        return [x := stage(x) for stage in self.stages[:-1]]


@contextmanager
def in_mode(*modules: nn.Module, training: bool = False) -> Iterator[None]:
    """Put modules into one mode, and afterwards every submodule back into the mode it had."""
    before = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.train(training)
    try:
        yield
    finally:
        for part, mode in before:
            if part.training != mode:
                # A stage changes its graph in train(); a plain flag is enough for everything else.
                part.train(mode) if isinstance(part, fx.GraphModule) else setattr(part, "training", mode)


def split(backbone: nn.Module, *, at: Sequence[str]) -> nn.ModuleList:
    """Cut a backbone into stages that compose to exactly the backbone and share its parameters.

    A cut is legal where one single tensor carries everything that comes later; then the batch can shrink there.  The backbone
    is traced by ``torch.fx`` once in training and once in evaluation mode (what a mode decides is baked into a graph), and is
    left as it was.

    Args:
        backbone: any module that ``torch.fx`` can trace.
        at: names of modules or graph nodes, in the order of execution; a stage ends after each.  ``["layer1", "layer2"]``
            gives three stages.  `cut_points` lists the legal ones.

    Returns:
        ``len(at) + 1`` stages; each follows ``train()`` and ``eval()``.

    Raises:
        TypeError: if the backbone is no module or ``at`` is a bare string.
        ValueError: if the backbone cannot be traced, or a name is unknown, illegal as a cut, repeated or out of order.
    """
    from torchvision.models.feature_extraction import DualGraphModule

    if isinstance(at, str):
        raise TypeError(f"at={at!r} must be a list of names, for example at=[{at!r}]")
    at = list(at)
    if not at:
        raise ValueError("at=[] leaves one stage and no exit: name at least one place to cut")
    pieces = {}
    for training in (True, False):
        graph, names = _trace(backbone, training=training)
        pieces[training] = _cut(graph, [_resolve(name, graph, names, _legal(graph, backbone)) for name in at], at)
    stages = [
        DualGraphModule(backbone, train_graph, eval_graph, class_name="Stage")
        for train_graph, eval_graph in zip(pieces[True], pieces[False], strict=True)
    ]
    return nn.ModuleList(stage.train(backbone.training) for stage in stages)


def cut_points(backbone: nn.Module) -> list[str]:
    """Every place where `split` may cut, in the order of execution, each under its shortest name."""
    graph, names = _trace(backbone, training=False)
    return [_shortest_name(node, names) for node in _legal(graph, backbone)]


def _trace(backbone: nn.Module, *, training: bool) -> tuple[fx.Graph, dict[fx.Node, str]]:
    """The graph in one mode, and the qualified name of each node; the modes of all submodules are put back."""
    import torchvision
    from torchvision.models.feature_extraction import NodePathTracer

    if not isinstance(backbone, nn.Module):
        raise TypeError(f"the backbone must be a torch.nn.Module, got {type(backbone).__name__}")
    tracer = NodePathTracer(autowrap_modules=(math, torchvision.ops))
    try:
        with in_mode(backbone, training=training):
            graph = tracer.trace(backbone)
    except Exception as error:
        raise ValueError(
            f"torch.fx cannot trace {type(backbone).__name__} ({error}); write its stages by hand and give them to "
            "EarlyExitNetwork"
        ) from error
    return graph, dict(tracer.node_to_qualname)


def _shortest_name(node: fx.Node, names: dict[fx.Node, str]) -> str:
    """The shortest module path whose last node this is, else the node's own name."""
    nodes = list(names)
    last = {}
    for other in nodes:
        parts = names[other].split(".")
        for depth in range(1, len(parts) + 1):
            last[".".join(parts[:depth])] = other
    return min((name for name, end in last.items() if end is node), key=len)


def _resolve(name: str, graph: fx.Graph, names: dict[fx.Node, str], legal: list[fx.Node]) -> fx.Node:
    """The last node of the module called ``name``, or the node of that name, if a cut after it is legal."""
    nodes = [node for node, path in names.items() if path == name or path.startswith(name + ".")]
    if not nodes:
        prefixes = {".".join(path.split(".")[:depth]) for path in names.values() for depth in range(1, path.count(".") + 2)}
        near = difflib.get_close_matches(name, sorted(prefixes), n=3, cutoff=0.4)
        raise ValueError(f"the backbone has no node {name!r}; near it: {near or sorted(prefixes)[:5]}")
    if nodes[-1] not in legal:
        order = {node: position for position, node in enumerate(graph.nodes)}
        near = sorted(legal, key=lambda node: abs(order[node] - order[nodes[-1]]))[:2]
        near = [_shortest_name(node, names) for node in sorted(near, key=order.__getitem__)]
        raise ValueError(
            f"no cut is possible after {name!r}: more than one value (or none that keeps the batch first) is needed later, or "
            f"the next operation overwrites it in place; the nearest legal places are {near}"
        )
    return nodes[-1]


def _legal(graph: fx.Graph, backbone: nn.Module) -> list[fx.Node]:
    """The nodes after which exactly one value is still needed, which nothing later overwrites."""
    order = {node: position for position, node in enumerate(graph.nodes)}
    # Parameters and buffers do not count: a later stage reads them itself.
    last_use = {node: max((order[user] for user in node.users), default=-1) for node in graph.nodes if node.op != "get_attr"}
    legal, live = [], set()
    for node, position in order.items():
        live = {other for other in live if last_use[other] > position}
        if last_use.get(node, -1) > position:
            live.add(node)
        only = live == {node} and node.op not in ("placeholder", "output")
        if only and not any(user.op == "output" or _overwrites(backbone, user) for user in node.users):
            legal.append(node)
    return legal


def _overwrites(backbone: nn.Module, user: fx.Node) -> bool:
    """Whether an operation changes its input in place: the exit head before it would see, or keep, the changed values."""
    if user.op == "call_module":
        return getattr(backbone.get_submodule(user.target), "inplace", False)
    if user.op == "call_method":
        return user.target.endswith("_") and not user.target.endswith("__")
    return user.target in _IN_PLACE_FUNCTIONS or bool(user.kwargs.get("inplace", False))


def _cut(graph: fx.Graph, ends: list[fx.Node], at: list[str]) -> list[fx.Graph]:
    """One graph per stage; each takes the node at which the one before it ends."""
    nodes = list(graph.nodes)
    positions = [nodes.index(end) for end in ends]
    if positions != sorted(set(positions)):
        raise ValueError(f"at={at} must name different places in the order of execution")
    bounds = [0, *(position + 1 for position in positions), len(nodes)]
    entries = [None, *ends]
    return [
        _piece(nodes[start:stop], entry)
        for start, stop, entry in zip(bounds[:-1], bounds[1:], entries, strict=True)
    ]


def _piece(nodes: list[fx.Node], entry: fx.Node | None) -> fx.Graph:
    piece, copies = fx.Graph(), {}

    def copy(node: fx.Node) -> fx.Node:
        if node not in copies:  # a parameter that an earlier stage read first: read it here again
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
