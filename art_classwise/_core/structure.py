"""What a network is made of, and what is known of networks as long as they stay so."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from threading import RLock
from types import NoneType
from typing import Any, Generic, TypeVar
from weakref import ref

import torch
from torch import nn

__all__ = ["PerNetwork", "structure"]

T = TypeVar("T")


def structure(model: nn.Module) -> tuple[Any, ...]:
    """Return what tells whether a network still has the layers, hooks and settings that it had."""
    return tuple(
        (
            *(name, id(layer), type(layer), tuple(layer._forward_hooks), tuple(layer._forward_pre_hooks)),
            tuple((k, v) for k, v in vars(layer).items() if k != "training" and _is_setting(v)),
            tuple(
                (k, v.shape, v.dtype, v.stride() if v.layout is torch.strided else v.layout)
                for k, v in (*layer._parameters.items(), *layer._buffers.items())
                if v is not None
            ),
        )
        for name, layer in model.named_modules()
        if not isinstance(layer, torch.jit.ScriptModule)
    )


def _is_setting(value: Any) -> bool:
    """Return whether an attribute is a number or word, or several, as a convolution's stride is."""
    plain = (bool, int, float, str, NoneType)
    return isinstance(value, plain) or (isinstance(value, tuple) and all(isinstance(one, plain) for one in value))


class PerNetwork(Generic[T]):
    """A value per network, forgotten with the network. Threads may share one.

    Args:
        most: How many networks' values are kept, those asked for last; all if None.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._held: OrderedDict[int, _Held[T]] = OrderedDict()
        self._lock = RLock()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, network: nn.Module, key: Any) -> T | None:
        """Return a network's value if it was set with the same key.

        Args:
            network: The very network: one with equal weights is another.
            key: What the value depends on, such as the network's :func:`structure`.
        """
        with self._lock:
            held = self._held.get(id(network))
            if held is None or held.network() is not network or held.key != key:
                return None
            self._held.move_to_end(id(network))
            return held.value

    def set(self, network: nn.Module, key: Any, value: T) -> None:
        """Keep a network's value, in the place of the one it had; the value mustn't hold the network."""
        with self._lock:
            self._held[id(network)] = _Held(ref(network, partial(self._forget, id(network))), key, value)
            self._held.move_to_end(id(network))
            while self._most is not None and len(self._held) > self._most:
                self._held.popitem(last=False)

    def _forget(self, number: int, dead: ref[nn.Module]) -> None:
        with self._lock:
            if number in self._held and self._held[number].network is dead:  # another may have its id by now
                del self._held[number]


@dataclass(frozen=True)
class _Held(Generic[T]):
    network: ref[nn.Module]
    key: Any
    value: T
