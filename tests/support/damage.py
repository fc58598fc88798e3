"""Files damaged in every way that nobody named: bits, blocks, ends, copies; and how what was read of them is judged."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from art_classwise import InputError

__all__ = ["damaged", "loads_the_same_or_is_refused", "same"]


def damaged(whole: bytes, n: int, *, seed: int = 0, other: bytes = b"") -> Iterator[tuple[str, bytes]]:
    """Give a file's bytes damaged in ``n`` ways, with words for it.

    Half of the damage lies in the last quarter, where archives have their directory.

    Args:
        whole: The file.
        n: How many.
        seed: Of the draws.
        other: A whole file of the same kind that holds something else.
    """
    rng = random.Random(seed)
    yield "doubled", whole + whole
    yield "empty", b""
    yield "with another before it", other + whole
    yield "with another behind it", whole + other
    for number in range(n - 4):
        content = bytearray(whole)
        at = rng.randrange(3 * len(whole) // 4 if number % 2 else 0, len(whole))
        some = rng.choice((1, 4, 64))
        kind = rng.choice(("bit", "bit", "bit", "byte", "zeros", "cut", "taken out", "put in", "moved", "front"))
        if kind == "bit":
            content[at] ^= 1 << rng.randrange(8)
        elif kind == "byte":
            content[at] = rng.randrange(256)
        elif kind == "zeros":
            content[at : at + some] = bytes(len(content[at : at + some]))
        elif kind == "cut":
            del content[at:]
        elif kind == "taken out":
            del content[at : at + some]
        elif kind == "put in":
            content[at:at] = rng.randbytes(some)
        elif kind == "moved":
            source = rng.randrange(len(whole))
            content[at : at + some] = whole[source : source + len(content[at : at + some])]
        else:
            content = bytearray(whole[at:])
        yield f"{kind} at {at}, {some}", bytes(content)


def same(a: Any, b: Any) -> bool:
    """Return whether nested values are equal, tensors to the bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and (a.dtype, a.shape) == (b.dtype, b.shape) and bool((a == b).all())
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and (a.dtype, a.shape) == (b.dtype, b.shape) and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def loads_the_same_or_is_refused(load: Callable[[], Any], expected: Any, how: str) -> bool:
    """Check that a damaged file loads as it was written, or is refused with one sentence; return whether it loads."""
    try:
        found = load()
    except InputError as error:
        assert "\n" not in str(error), how  # noqa: PT017 - it may load
        return False
    assert same(found, expected), how
    return True
