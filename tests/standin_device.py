"""A device that stands in for an accelerator: its tensors lie in memory, and obey its rules.

Rules: tensors of two devices do not mix, except for single numbers and row numbers of the CPU; and
the device has neither double precision, as those of Apple and some of Intel, nor bfloat16, as a T4.
`waits` counts where Python would have to wait for it; what is in `WATCHERS` sees every operation.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "standin"
_TRANSFERS = ("aten::_to_copy", "aten::copy_", "aten::_copy_from")
_WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::unique2")
_INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")


class DeviceTensor(torch.Tensor):
    """A tensor that says it lies on the device; ``inner`` has its numbers."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
            requires_grad=inner.requires_grad,
        )

    def __init__(self, inner: torch.Tensor):
        self.inner = inner

    def __repr__(self, **_) -> str:
        return f"DeviceTensor({self.inner})"

    def __deepcopy__(self, memo: dict) -> torch.Tensor:
        twin = memo[id(self)] = DeviceTensor(self.inner.clone()).requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            twin = memo[id(self)] = torch.nn.Parameter(twin, self.requires_grad)
        return twin

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Sends what makes new tensors on the device, such as ``torch.zeros(device=...)``, there."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if DeviceTensor not in types and kwargs.get("device") is None:
            return function(*args, **kwargs)  # of the CPU alone
        return _run(function, args, kwargs)


class _FromPython(TorchFunctionMode):
    """What dispatches nothing: ``torch.tensor(..., device=...)``, ``tolist``, ``x.data = y``."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor, torch.asarray) and "device" in kwargs:
            target = kwargs.pop("device")
            return function(*args, **kwargs).to(target)
        if function is torch.Tensor.new_tensor and isinstance(args[0], DeviceTensor):
            like = {"dtype": args[0].dtype, **kwargs}
            return torch.tensor(*args[1:], **like).to(args[0].device)
        if function is torch.Tensor.tolist:
            return function(args[0].cpu())
        if function == torch.Tensor.data.__set__ and isinstance(args[0], DeviceTensor):
            args[0].inner = args[1].inner
        return function(*args, **kwargs)


@contextmanager
def device(*, doubles: bool = False) -> Iterator[torch.device]:
    """The device, which exists within the block; with ``doubles`` it has double precision."""
    register()
    global _doubles
    _doubles = doubles
    with _Factories(), _FromPython():
        yield torch.device(NAME, 0)


class OnCpu:
    """A generator of the CPU, whichever device is asked for."""

    kind = torch.Generator

    def __new__(cls, *_, **__):
        return cls.kind()


@contextmanager
def as_accelerator() -> Iterator[torch.device]:
    """The device, as the one that accelerate has found; its random numbers are the CPU's."""
    import accelerate

    from eenotes import training

    with pytest.MonkeyPatch.context() as patch, device() as found:
        patch.setattr(training, "precision", lambda: "no")
        patch.setitem(accelerate.PartialState()._shared_state, "device", found)
        patch.setattr(torch, "Generator", OnCpu)
        patch.setattr(torch.accelerator, "synchronize", lambda *_: None)  # nothing runs there
        assert training.accelerator().device == found
        yield found


# Each is called with the operation, its arguments and its result, as they are inside.
WATCHERS: list[Callable] = []
_doubles = False
_waited: list[str] = []


@contextmanager
def waits() -> Iterator[list[str]]:
    """The operations in the block whose result Python or a shape needs, as the device's names."""
    _waited.clear()
    yield _waited


@cache
def register() -> None:
    """Make the device known; before the first backward pass, when PyTorch counts the devices."""
    from torch.utils import backend_registration

    class Module(backend_registration._DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.float16]

        def get_rng_state(self, device: object = None) -> torch.Tensor:
            return torch.get_rng_state()

        def set_rng_state(self, state: torch.Tensor, device: object = None) -> None:
            torch.set_rng_state(state)

    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Module())


def _inner(value):
    if isinstance(value, torch.device) and value.type == NAME:
        return torch.device("cpu")
    return value.inner if isinstance(value, DeviceTensor) else value


@torch.inference_mode(False)  # there, a view of a tensor from outside could not be wrapped
@torch.no_grad()
def _run(function, args: tuple, kwargs: dict):
    """One operation, on the numbers inside; the result lies where the operation happened."""
    name, leaves = function._schema.name, pytree.tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    target = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
    here = [isinstance(t, DeviceTensor) for t in tensors]
    there = any(here) if target is None else target.type == NAME
    if name == "aten::copy_" or name in _INDEXED:
        there = here[0]
    if any(here) and name not in _TRANSFERS:
        count = 1 if name in _INDEXED else len(tensors)  # row numbers may lie on the CPU
        if not all(h or t.ndim == 0 for t, h in zip(tensors[:count], here[:count], strict=True)):
            raise RuntimeError(f"{name}: tensors of the CPU and of the device do not mix")
    if any(here):
        by_value = name in _INDEXED and any(
            i is not None and i.dtype == torch.bool for i in pytree.tree_leaves(args[1])
        )
        if name in _WAITS or by_value or (name in _TRANSFERS and not there):
            _waited.append(name.removeprefix("aten::"))
    inner_args, inner_kwargs = pytree.tree_map(_inner, (args, kwargs))
    result = function(*inner_args, **inner_kwargs)
    if there or any(here):
        for watch in WATCHERS:
            watch(function, inner_args, inner_kwargs, result)

    if name.endswith("_") and not name.endswith("__") and isinstance(result, torch.Tensor):
        return tensors[0]

    def placed(value: torch.Tensor) -> torch.Tensor:
        double = value.dtype in (torch.float64, torch.complex128)
        if double and not _doubles and (there or any(here)):
            raise TypeError(f"{name}: the device has no double precision")
        if value.dtype == torch.bfloat16 and (there or any(here)):
            raise TypeError(f"{name}: the device has no bfloat16")
        return DeviceTensor(value) if there else value

    return pytree.tree_map_only(torch.Tensor, placed, result)
