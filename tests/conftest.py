"""What several test modules share: a toy network whose logits are a table, and the same hypothesis
examples on every run.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import settings

settings.register_profile("eenotes", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("eenotes")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny tensors gain nothing from a second thread, and wait for it where the machine is busy."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def table_net() -> Callable:
    """``table_net(logits)``: a network for ``x = rows(N)`` whose exit j gives row i the logits
    ``logits[j][i]``, exactly.

    ``net.seen[j]`` lists the batch sizes that stage j was called with.
    """
    import torch

    from eenotes.network import EarlyExitNetwork

    class Stage(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.seen = []

        def forward(self, x):
            self.seen.append(len(x))
            return x

    class Lookup(torch.nn.Module):
        def __init__(self, logits):
            super().__init__()
            self.register_buffer("logits", logits)

        def forward(self, x):
            return self.logits[x[:, 0].long()]

    def build(logits):
        *early, last = [torch.as_tensor(table, dtype=torch.float32) for table in logits]
        stages = [Stage() for _ in logits]
        net = EarlyExitNetwork(
            [*stages[:-1], torch.nn.Sequential(stages[-1], Lookup(last))],
            [Lookup(table) for table in early],
        )
        net.seen = [stage.seen for stage in stages]
        return net.eval()

    return build


@pytest.fixture(scope="session")
def rows() -> Callable:
    """``rows(N)``: the input of a table network, ``(N, 1)``: the numbers of the rows."""
    import torch

    return lambda count: torch.arange(count).float()[:, None]


@pytest.fixture
def modes() -> Callable:
    """``modes(module)``: which submodule is in training mode, by name."""
    return lambda module: {name: part.training for name, part in module.named_modules()}


@pytest.fixture
def unchanged(modes) -> Callable:
    """``with unchanged(module): ...`` fails if weights, buffers, gradients wanted or modes differ
    afterwards.
    """
    import torch

    @contextmanager
    def check(module) -> Iterator[None]:
        before = {name: value.clone() for name, value in module.state_dict().items()}
        wanted, in_mode = (
            {name: p.requires_grad for name, p in module.named_parameters()},
            modes(module),
        )
        yield
        assert set(module.state_dict()) == set(before)
        changed = [
            name
            for name, value in module.state_dict().items()
            if not torch.equal(value, before[name])
        ]
        assert not changed
        assert modes(module) == in_mode
        assert {name: p.requires_grad for name, p in module.named_parameters()} == wanted

    return check
