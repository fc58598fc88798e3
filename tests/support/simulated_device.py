"""A device that isn't there: its tensors lie on the CPU, and it tells where a GPU would fail or keep the host waiting.

Numbers are the CPU's to the bit. But an operation on tensors of the device and of the CPU raises an error, as on a
GPU; and what makes the host wait until the device has come so far is counted, by cause: reading a value (``item``,
``bool``), copying to the CPU, and whatever has a shape that values decide (``nonzero``, indexing by a mask).

It can't show speed, rounding, memory, streams, autocast, ``torch.compile``, or branches for ``"cuda"``.

:func:`register` gives PyTorch's one device for others' back ends this meaning, for good: call it in a process of its
own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

try:
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as _set_up
except ImportError:  # older torch; what is experimental may go, too
    _set_up = None

__all__ = ["DEVICE_NAME", "DeviceTensor", "counted_waits", "is_supported", "register"]

DEVICE_NAME = "simulated"
_CPU = torch.device("cpu")

_WAITS_FOR = {
    "aten::_local_scalar_dense": "value read",
    "aten::equal": "value read",
    "aten::nonzero": "shape from values",
    "aten::masked_select": "shape from values",
    "aten::_unique2": "shape from values",
    "aten::unique_dim": "shape from values",
    "aten::unique_consecutive": "shape from values",
    "aten::bincount": "shape from values",
    "aten::repeat_interleave.Tensor": "shape from values",
}
"""Operators after which a GPU's host waits, and what for; copies and indices are looked at more closely."""

_COPIES = ("aten::_to_copy", "aten::copy_", "aten::_copy_from")
_INDEXES = ("aten::index.Tensor", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_")
_counted: list[Counter[str]] = []


def is_supported() -> bool:
    """Return whether this torch lets a back end be written in Python."""
    return _set_up is not None


@contextmanager
def counted_waits() -> Iterator[Counter[str]]:
    """Count how often the host would wait for the device within the block, by cause."""
    waits: Counter[str] = Counter()
    _counted.append(waits)
    try:
        yield waits
    finally:
        _counted.remove(waits)


def _wait(cause: str) -> None:
    for waits in _counted:
        waits[cause] += 1


class DeviceTensor(Tensor):
    """A tensor of the device, around one on the CPU that holds its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> DeviceTensor:
        made: DeviceTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(DEVICE_NAME, 0),
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"DeviceTensor({self.held!r})"

    def numpy(self, *, force: bool = False) -> Any:
        """Copy to the CPU if forced, as a GPU's tensors do."""
        if not force:
            raise TypeError(f"can't convert a tensor of {DEVICE_NAME} to NumPy: copy it to the CPU first")
        return self.detach().cpu().numpy()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy to the CPU for a file, from which a GPU's tensors come back on the CPU, if that is asked for."""
        _wait("copy to the CPU")
        return self.held.detach().__reduce_ex__(protocol)

    def tolist(self) -> Any:
        """Copy to the CPU, which waits."""
        return self.detach().cpu().tolist()


def _compute(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operator on the values that its arguments hold, and hold what comes of it."""
    name = operator.name()
    leaves_device = name in _COPIES and _goes_to_cpu(name, args, kwargs)
    _count(name, args, leaves_device)
    given: dict[int, DeviceTensor] = {}
    may_mix = name in _COPIES or name in _INDEXES

    def held(value: Any) -> Any:
        if isinstance(value, DeviceTensor):
            given[id(value.held)] = value
            return value.held
        if isinstance(value, (list, tuple)):
            return [held(one) for one in value]
        if isinstance(value, Tensor) and not may_mix and value.dim() > 0:  # numbers () may be the CPU's
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but {name} got one on the CPU beside {DEVICE_NAME}:0."
            )
        return _CPU if isinstance(value, torch.device) else value

    # What an operator writes into and returns is the same tensor afterwards, not another around the same values.
    written = given if operator._schema.is_mutable else {}

    def made(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)([made(one) for one in value])
        if not isinstance(value, Tensor):
            return value
        return written[id(value)] if id(value) in written else DeviceTensor(value)

    on_cpu = {key: held(value) for key, value in kwargs.items() if key != "pin_memory"}
    result = operator(*[held(value) for value in args], **on_cpu)
    return result if leaves_device else made(result)


def _goes_to_cpu(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if name == "aten::_to_copy":
        return kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cpu"
    return name == "aten::copy_" and not isinstance(args[0], DeviceTensor)


def _count(name: str, args: tuple[Any, ...], leaves_device: bool) -> None:
    if leaves_device:
        _wait("copy to the CPU")
    elif name in _WAITS_FOR:
        _wait(_WAITS_FOR[name])
    elif name in _INDEXES:
        indices = [index for index in args[1] if isinstance(index, Tensor)]
        masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
        fills = name != "aten::index.Tensor" and len(masks) == len(args[1]) == 1 and args[2].numel() == 1
        if masks and not fills:
            _wait("shape from values")
        if any(not isinstance(index, DeviceTensor) for index in indices):
            _wait("index copied from the CPU")


class _Module:
    """What ``torch.simulated`` is: one device, always ready, without a state of random numbers."""

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def set_device(self, device: Any) -> None:
        pass

    synchronize = manual_seed_all = set_device

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def _copy(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    """Copy from or to the device where PyTorch asks its back end, not the tensors."""
    if isinstance(source, DeviceTensor) and not isinstance(target, DeviceTensor):
        _wait("copy to the CPU")
    values, into = (t.held if isinstance(t, DeviceTensor) else t for t in (source, target))
    into.copy_(values)
    return target


def _item(tensor: DeviceTensor) -> Any:
    _wait("value read")
    return tensor.held.item()


def _empty(
    size: Any,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
    memory_format: Any = None,
) -> Tensor:
    return DeviceTensor(torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format))


def _empty_strided(
    size: Any, stride: Any, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None
) -> Tensor:
    return DeviceTensor(torch.empty_strided(size, stride, dtype=dtype))


def _of_the_cpu(factory: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def make(*args: Any, **kwargs: Any) -> Tensor:
        kept = {k: v for k, v in kwargs.items() if k not in ("device", "layout", "pin_memory")}
        return DeviceTensor(factory(*args, **kept))

    return make


_KERNELS: dict[str, Callable[..., Any]] = {
    "empty.memory_format": _empty,
    "empty_strided": _empty_strided,
    "_copy_from": _copy,
    "_copy_from_and_resize": _copy,
    "_local_scalar_dense": _item,
    "arange": _of_the_cpu(torch.arange),
    "arange.start": _of_the_cpu(torch.arange),
    "arange.start_step": _of_the_cpu(torch.arange),
    "linspace": _of_the_cpu(torch.linspace),
    "randperm": _of_the_cpu(torch.randperm),
    "eye": _of_the_cpu(torch.eye),
}
"""What makes tensors of the device from none, and what is asked of it below the tensors."""

_library: list[Any] = []


def register() -> torch.device:
    """Make the device known to this process, once and for good; return it."""
    if not _library:
        assert _set_up is not None, "is_supported() says that it can't be"
        _set_up(DEVICE_NAME, backend_module=_Module())
        _library.append(torch.library.Library("aten", "IMPL"))
        for name, kernel in _KERNELS.items():
            _library[0].impl(name, kernel, "PrivateUse1")
    return torch.device(DEVICE_NAME, 0)
