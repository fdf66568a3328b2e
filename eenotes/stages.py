"""A stage of a split backbone: a module that follows train() and eval(), copies and pickles."""

import copy
from typing import Any

from torch import fx, nn
from torch.fx.node import map_aggregate, map_arg
from torchvision.models.feature_extraction import DualGraphModule

from eenotes.network import detach_computed, in_modes_of, modes_of, put_back

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # layers that may have masks
_STATE = ("_parameters", "_buffers", "_modules", "training", "ends_at")


class Stage(DualGraphModule):
    """One piece of a traced backbone, with a graph for each mode and the backbone's parameters.

    ``ends_at`` is the name at which it was cut, ``"output"`` for the last one.
    """

    ends_at = ""

    def __init__(self, root: nn.Module, train_graph: fx.Graph, eval_graph: fx.Graph):
        super().__init__(root, train_graph, eval_graph, class_name="Stage")
        for node in (*train_graph.nodes, *eval_graph.nodes):
            path = str(node.target).rpartition(".")[0]
            # fx copies what forward reads of a layer; a mask of pruning is put on the layer itself
            if node.op == "get_attr" and isinstance(root.get_submodule(path), WEIGHTED):
                self.set_submodule(path, root.get_submodule(path))

    def _deepcopy_init(self):
        return Stage.__init__

    def __deepcopy__(self, memo: dict) -> "Stage":
        """An independent copy in the same modes, masks of pruning included."""
        detach_computed(self, memo)
        twin = super().__deepcopy__(memo)
        twin.ends_at = self.ends_at
        return in_modes_of(self, twin)

    def __reduce__(self) -> tuple:
        """Both graphs as data: a pickled stage follows ``train()`` and ``eval()`` as before."""
        state = {name: getattr(self, name) for name in _STATE}
        return _rebuilt, (state, _as_data(self.train_graph), _as_data(self.eval_graph))


def _rebuilt(state: dict[str, Any], train_graph: list, eval_graph: list) -> Stage:
    root = nn.Module()
    root.__dict__.update({name: copy.copy(value) for name, value in state.items()})
    modes = modes_of(root)
    stage = Stage(root, _from_data(train_graph), _from_data(eval_graph))
    stage.ends_at = state["ends_at"]
    stage.train(state["training"])
    put_back([(part, mode) for part, mode in modes if part is not root])
    return stage


class _Ref:
    """Stands for a node among the arguments of another."""

    def __init__(self, name: str):
        self.name = name


def _as_data(graph: fx.Graph) -> list[tuple]:
    """The nodes of a graph: operation, name, target, arguments."""
    rows = []
    for node in graph.nodes:
        args, kwargs = (map_arg(part, lambda n: _Ref(n.name)) for part in (node.args, node.kwargs))
        rows.append((node.op, node.name, node.target, args, kwargs))
    return rows


def _from_data(rows: list[tuple]) -> fx.Graph:
    graph, nodes = fx.Graph(), {}

    def node_of(value: Any) -> Any:
        return nodes[value.name] if isinstance(value, _Ref) else value

    for op, name, target, args, kwargs in rows:
        args, kwargs = map_aggregate(args, node_of), map_aggregate(kwargs, node_of)
        nodes[name] = graph.create_node(op, target, args, kwargs, name)
    return graph
