"""Plain values, nested: what files can hold, and how two of them differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from art_classwise.errors import InputError

__all__ = ["check_plain", "differences", "plain"]


def differences(then: Any, now: Any, name: str = "") -> list[str]:
    """Return what differs between two nested dicts, in words."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        keys = [*then, *(k for k in now if k not in then)]
        return [
            d for key in keys for d in differences(then.get(key), now.get(key), f"{name}.{key}" if name else str(key))
        ]
    return [] if _same(then, now) else [f"{name} was {then!r}, but is {now!r}"]


def _same(then: Any, now: Any) -> bool:
    """Return whether two plain values are equal: tuples and lists alike, tensors element by element."""
    if isinstance(then, (list, tuple)) and isinstance(now, (list, tuple)):
        return len(then) == len(now) and all(map(_same, then, now))
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        return then.keys() == now.keys() and all(_same(then[k], now[k]) for k in then)
    if isinstance(then, Tensor) and isinstance(now, Tensor):
        return torch.equal(then, now)
    return bool(then == now)


def plain(value: Any, without: frozenset[str] = frozenset()) -> Any:
    """Return a copy of nested values as a file can hold them safely, NumPy's numbers as Python's.

    Args:
        value: Numbers, strings, tensors, and lists, tuples and dicts of them.
        without: Keys of dicts to leave out, at any depth.

    Raises:
        TypeError: There is something else among them.
    """
    if isinstance(value, np.generic):  # first: a float64 is a float as well
        return value.item()
    if value is None or isinstance(value, (str, int, float, bool, Tensor)):
        return value
    if isinstance(value, Counter):  # MultiStepLR's: it needs one back
        return Counter(dict(value))
    if isinstance(value, Mapping):
        return {k: plain(v, without) for k, v in value.items() if k not in without}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(v, without) for v in value) if type(value) in (list, tuple) else [*map(plain, value)]
    raise TypeError(f"{type(value).__name__} can't be stored safely")


def check_plain(value: Any, name: str) -> None:
    """Check that an argument holds plain values only, nested, Python's own.

    Raises:
        InputError: There is something else among them.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            check_plain(item, f"{name}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            check_plain(item, f"{name}[{i}]")
    elif not (value is None or type(value) in (str, int, float, bool)):
        raise InputError(
            f"{name} is a {type(value).__name__}; a recipe holds strings, numbers, booleans, None, lists and dicts."
        )
