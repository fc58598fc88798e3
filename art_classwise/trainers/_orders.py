"""Which examples are in which batch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from art_classwise._core import distributed
from art_classwise._core.random_numbers import derive
from art_classwise.errors import InputError

__all__ = ["Order", "Shuffled", "Walked"]


class Order(Protocol):
    """Which examples are in which batch, and which of them are this process's.

    Attributes:
        sizes: Number of examples in each batch of an epoch, over all processes.
    """

    sizes: list[int]

    def shares(self, epoch: int) -> tuple[Tensor, list[slice]]:
        """Return an epoch's examples, batch after batch (n,), and of each batch this process's part in them."""


class Shuffled:
    """Every example once in an epoch, shuffled by (seed, epoch), or as they stand.

    Args:
        n_examples: Number of examples.
        batch_size: Examples per batch, over all processes. A last batch too small to be shared, or to have a variance
            in batch norm, joins the one before it.
        seed: Of the order; as they stand if absent.

    Raises:
        InputError: There are fewer examples, in all or per batch, than processes.
    """

    def __init__(self, n_examples: int, batch_size: int, seed: int | None) -> None:
        least = max(2, distributed.world())
        if n_examples < distributed.world():
            raise InputError(
                f"{distributed.world()} processes need as many examples or more, but there are {n_examples}."
            )
        if batch_size < distributed.world():
            raise InputError(
                f"{distributed.world()} processes need a `batch_size` as large or larger, but got {batch_size}."
            )
        bounds = [*range(0, n_examples, batch_size), n_examples]
        if len(bounds) > 2 and bounds[-1] - bounds[-2] < least:
            del bounds[-2]
        self.sizes = [end - begin for begin, end in itertools.pairwise(bounds)]
        self._n, self._seed = n_examples, seed

    def shares(self, epoch: int) -> tuple[Tensor, list[slice]]:
        """See :class:`Order`."""
        order = torch.arange(self._n) if self._seed is None else _permutation(self._n, self._seed, "order", epoch)
        return order, _parts(self.sizes)


class Walked:
    """So many examples in each epoch, going on where the epoch before ended, shuffled anew each time round.

    Args:
        n_examples: Number of examples.
        sizes: Number of examples in each batch, over all processes.
        seed: Of the order.
    """

    def __init__(self, n_examples: int, sizes: Sequence[int], seed: int) -> None:
        self.sizes = list(sizes)
        self._n, self._seed = n_examples, seed

    def shares(self, epoch: int) -> tuple[Tensor, list[slice]]:
        """See :class:`Order`."""
        first = epoch * sum(self.sizes)
        last = first + sum(self.sizes)
        rounds = range(first // self._n, (last - 1) // self._n + 1)
        order = torch.cat([_permutation(self._n, self._seed, "unlabelled order", r) for r in rounds])
        begin = first - rounds.start * self._n
        return order[begin : begin + last - first], _parts(self.sizes)


def _permutation(n: int, seed: int, purpose: str, number: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(derive(seed, purpose, number)))


def _parts(sizes: Sequence[int]) -> list[slice]:
    """Return this process's part of each batch, in the order of examples."""
    parts, begin = [], 0
    for size in sizes:
        mine = distributed.share(size)
        parts.append(slice(begin + mine.start, begin + mine.stop))
        begin += size
    return parts
