"""Where batches come from: data that lies on the device, data read as needed, and ART's generators."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from art_classwise import _ranks
from art_classwise._state import preserved_random_state
from art_classwise.attacks._random import ExampleUniform, derive
from art_classwise.errors import InputError

__all__ = ["Augmentation", "Batch", "Generated", "Resident", "Source", "Streamed", "array_source", "fingerprint"]


class Batch(NamedTuple):
    """This process's share of a batch, on the device.

    Attributes:
        x: float32 (m, ...) images.
        y: int64 (m,) labels.
        ids: int64 (m,) the examples' numbers, which their random draws belong to.
        size: Number of examples in the whole batch, over all processes.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    size: int


class Source(Protocol):
    """What training draws batches from."""

    n_examples: int
    n_batches: int

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Return the batches of an epoch, from 0; the same ones each time."""

    def skip(self, epoch: int) -> None:
        """Pass over an epoch that has been trained on already."""


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


class _Ordered:
    """The order of examples: shuffled by (seed, epoch), or as they stand; shares of each batch for each process."""

    def __init__(self, n_examples: int, batch_size: int, seed: int | None) -> None:
        # A last batch too small to be shared, or to have a variance in batch norm, joins the one before it.
        least = max(2, _ranks.world())
        if n_examples < _ranks.world():
            raise InputError(f"{_ranks.world()} processes need as many examples or more, but there are {n_examples}.")
        if batch_size < _ranks.world():
            raise InputError(
                f"{_ranks.world()} processes need a `batch_size` as large or larger, but got {batch_size}."
            )
        bounds = [*range(0, n_examples, batch_size), n_examples]
        if len(bounds) > 2 and bounds[-1] - bounds[-2] < least:
            del bounds[-2]
        self.n_examples, self.n_batches, self._bounds, self._seed = n_examples, len(bounds) - 1, bounds, seed

    def shares(self, epoch: int) -> tuple[Tensor, list[tuple[slice, int]]]:
        """Return the order of examples (n,), and of each batch this process's part in it and the batch's size."""
        if self._seed is None:
            order = torch.arange(self.n_examples)
        else:
            generator = torch.Generator().manual_seed(derive(self._seed, "order", epoch))
            order = torch.randperm(self.n_examples, generator=generator)
        parts = []
        for begin, end in zip(self._bounds, self._bounds[1:], strict=False):
            mine = _ranks.share(end - begin)
            parts.append((slice(begin + mine.start, begin + mine.stop), end - begin))
        return order, parts

    def skip(self, epoch: int) -> None:
        """Nothing to do: each epoch's order is a function of its number."""


class Resident(_Ordered):
    """Images that lie on the device, as uint8 where they are whole grey levels: no batch waits for the CPU.

    Args:
        x: float32 (n, ...) images, or uint8 with ``levels``.
        y: int64 (n,) labels.
        levels: What uint8 images are to be divided by.
        batch_size: Examples per batch, over all processes.
        seed: Of the order; as they stand if absent.
        augment: Of the images.
        device: Where they shall lie.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        levels: float | None,
        batch_size: int,
        seed: int | None,
        augment: Augmentation,
        device: torch.device,
    ) -> None:
        super().__init__(len(x), batch_size, seed)
        self._x, self._y, self._augment = x.to(device), y.to(device), augment
        # A tensor: dividing by a number, a GPU multiplies by its inverse, which rounds otherwise.
        self._levels = None if levels is None else torch.tensor(levels, device=device)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """See :class:`Source`."""
        order, parts = self.shares(epoch)
        order = order.to(self._x.device)
        for part, size in parts:
            rows = order[part]
            x = self._augment(self._x[rows], epoch, rows)
            yield Batch(x if self._levels is None else x.float() / self._levels, self._y[rows], rows, size)


class Streamed(_Ordered):
    """Images read as they are needed, by a DataLoader.

    Args:
        x: Indexed by an array of rows it gives images, float32 (m, ...).
        y: int64 (n,) labels.
        batch_size: Examples per batch, over all processes.
        seed: Of the order; as they stand if absent.
        augment: Of the images, on the device.
        device: Where batches go.
        num_workers: Processes that read.
    """

    def __init__(
        self,
        x: Any,
        y: Tensor,
        batch_size: int,
        seed: int | None,
        augment: Augmentation,
        device: torch.device,
        num_workers: int,
    ) -> None:
        super().__init__(len(x), batch_size, seed)
        self._x, self._y, self._augment = _Rows(x), y.to(device), augment
        self._device, self._num_workers = device, num_workers

    def batches(self, epoch: int) -> Iterator[Batch]:
        """See :class:`Source`."""
        order, parts = self.shares(epoch)
        loader: DataLoader[Tensor] = DataLoader(
            self._x,
            sampler=[order[part] for part, _ in parts],
            batch_size=None,  # a sample is a batch
            num_workers=self._num_workers,
            pin_memory=self._device.type == "cuda",
            generator=torch.Generator(),  # its own: what it draws for its workers must not shift the network's dropout
        )
        order = order.to(self._device)
        for (part, size), images in zip(parts, loader, strict=True):
            ids = order[part]
            x = images.to(self._device, non_blocking=True)
            yield Batch(self._augment(x, epoch, ids), self._y[ids], ids, size)


class _Rows(Dataset[Tensor]):
    def __init__(self, x: Any) -> None:
        self._x = x

    def __getitem__(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(self._x[rows.numpy()], dtype=np.float32))


class Generated:
    """Batches of an ART ``DataGenerator`` that knows its size.

    Each process takes its share of each batch, so the generators of all must give the same batches.

    Args:
        generator: The generator.
        convert: Checks images and labels, and takes them to the device.
        augment: Of the images.
    """

    def __init__(
        self, generator: Any, convert: Callable[[Any, Any], tuple[Tensor, Tensor]], augment: Augmentation
    ) -> None:
        self._generator, self._convert, self._augment = generator, convert, augment
        self._n_drawn = 0
        self.n_examples = int(generator.size)
        self.n_batches = math.ceil(self.n_examples / generator.batch_size)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """See :class:`Source`."""
        seen = 0
        for _ in range(self.n_batches):
            x, y = self._convert(*self._draw())
            if len(x) < _ranks.world():
                raise InputError(
                    f"The generator gave a batch of {len(x)}, which {_ranks.world()} processes can't share."
                )
            ids = torch.arange(seen, seen + len(x), device=x.device)
            seen += len(x)
            mine = _ranks.share(len(x))
            yield Batch(self._augment(x[mine], epoch, ids[mine]), y[mine], ids[mine], len(x))

    def _draw(self) -> Any:
        """Draw with a random state of its own: attack and dropout must not decide on the order."""
        self._n_drawn += 1
        with preserved_random_state(derive(self._augment.seed, "generator", self._n_drawn)):
            return self._generator.get_batch()

    def skip(self, epoch: int) -> None:
        """Draw an epoch's batches: a generator goes on from where it is."""
        for _ in range(self.n_batches):
            self._draw()


def array_source(
    x: Any,
    y: npt.NDArray[np.int64],
    batch_size: int,
    seed: int | None,
    augment: Augmentation,
    device: torch.device,
    num_workers: int,
) -> Resident | Streamed:
    """Return the images as they are best held: on the device if they are in memory and fit there.

    Args:
        x: float32 array (n, ...), or anything that gives such by rows.
        y: (n,) labels.
        batch_size: Examples per batch, over all processes.
        seed: Of the order; as they stand if absent.
        augment: Of the images.
        device: Where batches go.
        num_workers: Processes that read images which aren't held.
    """
    labels = torch.from_numpy(y)
    if isinstance(x, np.ndarray):
        levels, whole = _whole_levels(x)
        images = torch.from_numpy(x) if whole is None else whole
        if _fits(images.nbytes, device):
            return Resident(images, labels, levels, batch_size, seed, augment, device)
    return Streamed(x, labels, batch_size, seed, augment, device, num_workers)


def _whole_levels(x: npt.NDArray[np.float32]) -> tuple[float | None, Tensor | None]:
    """Return images as uint8 and what to divide them by, if that gives them back to the last bit."""
    for levels in (255.0, 1.0):
        whole = torch.empty(x.shape, dtype=torch.uint8)
        for begin in range(0, len(x), 4096):  # in parts: three copies of all the images may not fit in memory
            part = torch.from_numpy(x[begin : begin + 4096])
            whole[begin : begin + 4096] = (part * levels).round().clamp(0, 255)
            if not torch.equal(whole[begin : begin + 4096].float() / torch.tensor(levels), part):
                break
        else:
            return levels, whole
    return None, None


def _fits(n_bytes: int, device: torch.device) -> bool:
    """Whether the images leave half of the device's free memory to the training."""
    if device.type != "cuda":
        return True  # they lie in this memory already
    free, _ = torch.cuda.mem_get_info(device)
    return 2 * n_bytes < free


def fingerprint(x: Any, y: npt.NDArray[np.int64]) -> str:
    """Return what tells data apart: a hash of the labels, the shape and up to 64 of the images."""
    some = np.linspace(0, len(x) - 1, min(len(x), 64)).astype(np.int64)
    digest = hashlib.sha256(repr((len(x), *_shape(x))).encode())
    digest.update(np.ascontiguousarray(y).tobytes())
    digest.update(np.ascontiguousarray(x[some], dtype=np.float32).tobytes())
    return digest.hexdigest()[:16]


def _shape(x: Any) -> Sequence[int]:
    return tuple(x.shape[1:])
