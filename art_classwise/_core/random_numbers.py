"""Random numbers that belong to an example: the same in any batch, in any order and on any device."""

from __future__ import annotations

import math
import zlib
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from art_classwise.threat import Uniform

__all__ = ["ExampleUniform", "derive", "gaussian"]

_MASK = 0xFFFFFFFF


def derive(seed: int, purpose: str, number: int = 0) -> int:
    """Return a seed from 0 to 2**63 - 1 for a purpose, such as ``"order"``, and a number of it, such as an epoch."""
    words = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), number]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def gaussian(uniform: Uniform, *shape: int) -> Tensor:
    """Return float32 from N(0, 1), of two uniform draws (Box and Muller 1958)."""
    return (-2 * uniform(*shape).log()).sqrt() * (2 * math.pi * uniform(*shape)).cos()


class ExampleUniform:
    """Draw uniform numbers that are a function of (seed, restart, example, position) alone.

    A generator per example would give the same promise, but must be seeded and read one by one on the CPU while
    an accelerator waits. Here each number is a hash of its position (the finaliser of MurmurHash3), computed
    for a whole batch where the batch lies.

    Args:
        seed: From 0 to 2**63 - 1.
        restart: Number of the restart.
        ids: (n,) int64, the examples' numbers.
    """

    def __init__(self, seed: int, restart: int, ids: Tensor) -> None:
        self.seed, self.ids = seed, ids
        self._calls = 0
        low, high = ids & _MASK, ids >> 32 & _MASK
        begun = []
        for salt in (0x243F6A88, 0x85A308D3):  # two keys of 32 bits: any two examples differ in one at least
            key = salt
            for word in (seed & _MASK, seed >> 32, restart):  # the same for all examples, so the host mixes them
                key = _mix(key * 0x9E3779B1 + word)
            begun.append(low + (key * 0x9E3779B1 & _MASK))
        self._keys = _mix(_mix(torch.stack(begun)) * 0x9E3779B1 + high)

    def __call__(self, *shape: int) -> Tensor:
        """Return float32 in (0, 1) of a shape whose first side is n: other numbers at each call."""
        ones = [1] * (len(shape) - 1)
        first, second = (key.view(-1, *ones) for key in self._keys)
        size = 1
        for side in shape[1:]:
            size *= side
        position = torch.arange(size, device=first.device).view(1, *shape[1:])
        hashed: Tensor = _mix(_mix(position * 0x9E3779B1 + first) ^ _mix(second + self._calls))
        self._calls += 1
        return ((hashed >> 9).to(torch.float32) + 0.5) * 2**-23  # with 24 bits the largest would round to 1


_Int = TypeVar("_Int", int, Tensor)


def _mix(value: _Int) -> _Int:
    """Scatter the low 32 bits of each int64 over 32 bits; the product wraps, which its low bits don't see."""
    value = value & _MASK
    value = (value ^ value >> 16) * 0x85EBCA6B & _MASK
    value = (value ^ value >> 13) * 0xC2B2AE35 & _MASK
    return value ^ value >> 16
