"""Batches: in which order examples come, and from where."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from art_classwise._core import distributed
from art_classwise._core.random_numbers import ExampleUniform, derive
from art_classwise._core.state import preserved_random_state
from art_classwise.errors import InputError

__all__ = [
    "Augmentation",
    "Batch",
    "ClassBalancedOrder",
    "CyclicOrder",
    "DeviceSource",
    "GeneratorSource",
    "LoaderSource",
    "MixedSource",
    "Order",
    "ShuffledOrder",
    "Source",
]


ROUND = 1 << 40
"""Above all numbers of examples."""


class Order(Protocol):
    """Which examples are in which batch, and which of them are this process's.

    Attributes:
        sizes: Number of examples in each batch of an epoch, over all processes.
    """

    sizes: list[int]

    def shares(self, epoch: int) -> tuple[Tensor, list[slice]]:
        """Return an epoch's examples, batch after batch (n,), and of each batch this process's part in them.

        To an example's number, ``ROUND`` is added each time that it comes again within the epoch: random draws belong
        to the sum, so that it isn't cropped and attacked from the same start twice.
        """


class ShuffledOrder:
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


class ClassBalancedOrder(ShuffledOrder):
    """Each time a class, all being equally likely, and an example of it: as many in an epoch as there are examples.

    A class's examples come once each, shuffled, before one of them comes again within the epoch.

    Args:
        y: (n,) int64 labels, on the CPU. Classes without an example take no part.
        batch_size: As for :class:`ShuffledOrder`.
        seed: Of the order.

    Raises:
        InputError: As :class:`ShuffledOrder`.
    """

    def __init__(self, y: Tensor, batch_size: int, seed: int) -> None:
        super().__init__(len(y), batch_size, seed)
        self._draws = seed
        self._members = {int(k): (y == k).nonzero()[:, 0] for k in y.unique()}

    def shares(self, epoch: int) -> tuple[Tensor, list[slice]]:
        """See :class:`Order`."""
        generator = torch.Generator().manual_seed(derive(self._draws, "drawn classes", epoch))
        drawn = torch.randint(len(self._members), (self._n,), generator=generator)
        order = torch.empty_like(drawn)
        for i, (k, members) in enumerate(self._members.items()):
            places = (drawn == i).nonzero()[:, 0]
            generator.manual_seed(derive(self._draws, f"order of class {k}", epoch))
            rounds = range(-(-len(places) // len(members)))
            rows = [members[torch.randperm(len(members), generator=generator)] + r * ROUND for r in rounds]
            order[places] = torch.cat([*rows, members[:0]])[: len(places)]
        return order, _parts(self.sizes)


class CyclicOrder:
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


@dataclass(frozen=True)
class Augmentation:
    """Random crops after zero padding and random horizontal flips, drawn where the images lie.

    Attributes:
        crop_padding: Pixels of padding on each side; 0 is no crop.
        flip: Whether to mirror every other image, at random.
        seed: Of the draws.
    """

    crop_padding: int = 0
    flip: bool = False
    seed: int = 0

    def __call__(self, x: Tensor, epoch: int, ids: Tensor) -> Tensor:
        """Return images (m, C, H, W) of the same type, changed; drawn by (seed, epoch, id) alone."""
        if not (self.crop_padding or self.flip):
            return x
        draws = ExampleUniform(derive(self.seed, "augmentation", epoch), 0, ids)(len(x), 3)
        _, _, height, width = x.shape
        sides = 2 * self.crop_padding + 1
        top, left = (draws[:, :2] * sides).long().clamp_max(sides - 1).unbind(1)
        rows = top[:, None] + torch.arange(height, device=x.device)
        columns = left[:, None] + torch.arange(width, device=x.device)
        if self.flip:
            columns = torch.where(draws[:, 2:] < 0.5, columns.flip(1), columns)
        padded = functional.pad(x, [self.crop_padding] * 4)
        examples = torch.arange(len(x), device=x.device)[:, None, None]
        # One gather does both. It comes out as (m, H, W, C): channels last, as convolutions like it.
        return padded[examples, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class Batch(NamedTuple):
    """This process's share of a batch, on the device.

    Attributes:
        x: float32 (m, ...) images.
        y: int64 (m,) labels.
        ids: int64 (m,) the examples' numbers, which their random draws belong to.
        size: Number of examples in the whole batch, over all processes.
        n_labelled: How many of ``x``, the first ones, have true labels; those of the others are pseudo-labels.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    size: int
    n_labelled: int


class Source(Protocol):
    """What training draws batches from."""

    n_examples: int
    n_batches: int

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Return the batches of an epoch, from 0; the same ones each time."""

    def skip(self, epoch: int) -> None:
        """Pass over an epoch that has been trained on already."""


class _Ordered:
    """Examples in an order that is a function of the epoch's number."""

    def __init__(self, order: Order, first_id: int) -> None:
        self._order, self._first_id = order, first_id
        self.n_examples, self.n_batches = sum(order.sizes), len(order.sizes)

    def skip(self, epoch: int) -> None:
        """Nothing to do: each epoch's order is a function of its number."""


class DeviceSource(_Ordered):
    """Images that lie on the device, as uint8 where they are whole grey levels: no batch waits for the CPU.

    Args:
        x: float32 (n, ...) images, or uint8 with ``levels``.
        y: int64 (n,) labels.
        levels: What uint8 images are to be divided by.
        order: Of the examples.
        augment: Of the images.
        device: Where they shall lie.
        first_id: Number of the first example, which its random draws belong to.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        levels: float | None,
        order: Order,
        augment: Augmentation,
        device: torch.device,
        first_id: int = 0,
    ) -> None:
        super().__init__(order, first_id)
        self._x, self._y, self._augment = x.to(device), y.to(device), augment
        # A tensor: dividing by a number, a GPU multiplies by its inverse, which rounds otherwise.
        self._levels = None if levels is None else torch.tensor(levels, device=device)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """See :class:`Source`."""
        order, parts = self._order.shares(epoch)
        order = order.to(self._x.device)
        every_row, every_id = order % ROUND, order + self._first_id
        for part, size in zip(parts, self._order.sizes, strict=True):
            rows, ids = every_row[part], every_id[part]
            x = self._augment(self._x[rows], epoch, ids)
            x = x if self._levels is None else x.float() / self._levels
            yield Batch(x, self._y[rows], ids, size, len(rows))


class LoaderSource(_Ordered):
    """Images read as they are needed, by a DataLoader.

    Args:
        x: Indexed by an array of rows it gives images, float32 (m, ...).
        y: int64 (n,) labels.
        order: Of the examples.
        augment: Of the images, on the device.
        device: Where batches go.
        num_workers: Processes that read.
        first_id: As for :class:`DeviceSource`.
    """

    def __init__(
        self,
        x: Any,
        y: Tensor,
        order: Order,
        augment: Augmentation,
        device: torch.device,
        num_workers: int,
        first_id: int = 0,
    ) -> None:
        super().__init__(order, first_id)
        self._x, self._y, self._augment = _Rows(x), y.to(device), augment
        self._device, self._num_workers = device, num_workers

    def batches(self, epoch: int) -> Iterator[Batch]:
        """See :class:`Source`."""
        order, parts = self._order.shares(epoch)
        loader: DataLoader[Tensor] = DataLoader(
            self._x,
            sampler=[order[part] % ROUND for part in parts],
            batch_size=None,  # a sample is a batch
            num_workers=self._num_workers,
            pin_memory=self._device.type == "cuda",
            generator=torch.Generator(),  # its own: what it draws for its workers must not shift the network's dropout
        )
        order = order.to(self._device)
        every_row, every_id = order % ROUND, order + self._first_id
        for part, size, images in zip(parts, self._order.sizes, loader, strict=True):
            rows, ids = every_row[part], every_id[part]
            x = images.to(self._device, non_blocking=True)
            yield Batch(self._augment(x, epoch, ids), self._y[rows], ids, size, len(rows))


class _Rows(Dataset[Tensor]):
    def __init__(self, x: Any) -> None:
        self._x = x

    def __getitem__(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(self._x[rows.numpy()], dtype=np.float32))


class MixedSource:
    """Batches of labelled examples with unlabelled ones after them.

    Args:
        labelled: An epoch is one pass over these.
        unlabelled: In as many batches, with pseudo-labels.
    """

    def __init__(self, labelled: DeviceSource | LoaderSource, unlabelled: DeviceSource | LoaderSource) -> None:
        self._both = labelled, unlabelled
        self.n_examples = labelled.n_examples + unlabelled.n_examples
        self.n_batches = labelled.n_batches

    def batches(self, epoch: int) -> Iterator[Batch]:
        """See :class:`Source`."""
        for first, second in zip(*(source.batches(epoch) for source in self._both), strict=True):
            x, y, ids = (torch.cat(pair) for pair in zip(first[:3], second[:3], strict=True))
            yield Batch(x, y, ids, first.size + second.size, len(first.x))

    def skip(self, epoch: int) -> None:
        """Nothing to do: each epoch's order is a function of its number."""


class GeneratorSource:
    """Batches of an ART ``DataGenerator`` that knows its size.

    Each process takes its share of each batch, so the generators of all must give the same batches.

    Args:
        generator: The generator.
        convert: Checks images and labels, takes them to the device, and may leave some out.
        augment: Of the images.
        least: Batches smaller than this, since examples were left out, join the one before, the first the next one.
    """

    def __init__(
        self,
        generator: Any,
        convert: Callable[[Any, Any], tuple[Tensor, Tensor]],
        augment: Augmentation,
        least: int = 0,
    ) -> None:
        self._generator, self._convert, self._augment = generator, convert, augment
        self._n_drawn, self._least = 0, least
        self.n_examples = int(generator.size)
        self.n_batches = math.ceil(self.n_examples / generator.batch_size)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """See :class:`Source`."""
        seen = 0
        for x, y in self._large_enough():
            if len(x) == 0:
                raise InputError("The generator gave no example but those of the excluded classes: none is left.")
            if len(x) < distributed.world():
                raise InputError(
                    f"The generator gave a batch of {len(x)}, which {distributed.world()} processes can't share."
                )
            ids = torch.arange(seen, seen + len(x), device=x.device)
            seen += len(x)
            mine = distributed.share(len(x))
            yield Batch(self._augment(x[mine], epoch, ids[mine]), y[mine], ids[mine], len(x), len(y[mine]))

    def _large_enough(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Return an epoch's batches; one that lost so many examples that it is too small joins the one before it."""
        x, y = self._convert(*self._draw())
        for _ in range(self.n_batches - 1):
            more = self._convert(*self._draw())
            if self._least and min(len(x), len(more[0])) < self._least:
                x, y = torch.cat([x, more[0]]), torch.cat([y, more[1]])
                continue
            yield x, y
            x, y = more
        yield x, y

    def _draw(self) -> Any:
        """Draw with a random state of its own: attack and dropout must not decide on the order."""
        self._n_drawn += 1
        with preserved_random_state(derive(self._augment.seed, "generator", self._n_drawn)):
            return self._generator.get_batch()

    def skip(self, epoch: int) -> None:
        """Draw an epoch's batches: a generator goes on from where it is."""
        for _ in range(self.n_batches):
            self._draw()
