"""Arrays as sources of batches, held as is best; and what tells data apart."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from art_classwise._core import distributed
from art_classwise.errors import InputError
from art_classwise.trainers._augmentation import Augmentation
from art_classwise.trainers._orders import Order, Shuffled, Walked
from art_classwise.trainers._sources import Mixed, Resident, Streamed

__all__ = ["array_source", "fingerprint", "mixed_source", "unlabelled_in"]


def array_source(
    x: Any,
    y: npt.NDArray[np.int64],
    order: Order,
    augment: Augmentation,
    device: torch.device,
    num_workers: int,
    first_id: int = 0,
) -> Resident | Streamed:
    """Return the images as they are best held: on the device if they are in memory and fit there.

    Args:
        x: float32 array (n, ...), or anything that gives such by rows.
        y: (n,) labels.
        order: Of the examples.
        augment: Of the images.
        device: Where batches go.
        num_workers: Processes that read images which aren't held.
        first_id: Number of the first example, which its random draws belong to.
    """
    labels = torch.from_numpy(y)
    if isinstance(x, np.ndarray):
        levels, whole = _whole_levels(x)
        images = torch.from_numpy(x) if whole is None else whole
        if _fits(images.nbytes, device):
            return Resident(images, labels, levels, order, augment, device, first_id)
    return Streamed(x, labels, order, augment, device, num_workers, first_id)


def unlabelled_in(batch_size: int, fraction: float) -> int:
    """Return how many examples of a batch are unlabelled.

    Raises:
        InputError: The batch would have no example of one kind.
    """
    without = round(fraction * batch_size)
    if not 0 < without < batch_size:
        raise InputError(
            f"With `unlabeled_fraction` {fraction:g} a batch of {batch_size} would have {without} unlabelled examples, "
            "but it needs one of each kind: take another fraction, or a larger `batch_size`."
        )
    if batch_size - without < distributed.world():
        raise InputError(
            f"Of a batch of {batch_size} with `unlabeled_fraction` {fraction:g} {batch_size - without} examples are "
            f"labelled, which {distributed.world()} processes can't share: take another fraction, or a larger "
            "`batch_size`."
        )
    return without


def mixed_source(
    labelled: tuple[Any, npt.NDArray[np.int64]],
    unlabelled: tuple[Any, npt.NDArray[np.int64]],
    fraction: float,
    batch_size: int,
    seed: int,
    augment: Augmentation,
    device: torch.device,
    num_workers: int,
) -> Mixed:
    """Return batches of which a fraction is unlabelled; an epoch is one pass over the labelled examples.

    Args:
        labelled: Images and labels, as for :func:`array_source`.
        unlabelled: Images and pseudo-labels.
        fraction: Share of each batch that is unlabelled, above 0 and below 1.
        batch_size: Examples per batch, of both kinds, over all processes.
        seed: Of both orders.
        augment: Of the images.
        device: Where batches go.
        num_workers: Processes that read images which aren't held.

    Raises:
        InputError: A batch would have no example of one kind.
    """
    without = unlabelled_in(batch_size, fraction)
    order = Shuffled(len(labelled[1]), batch_size - without, seed)
    sizes = [max(1, round(size * without / (batch_size - without))) for size in order.sizes]
    options: Any = {"augment": augment, "device": device, "num_workers": num_workers}
    return Mixed(
        array_source(*labelled, order=order, **options),
        array_source(*unlabelled, order=Walked(len(unlabelled[1]), sizes, seed), first_id=len(labelled[1]), **options),
    )


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
    digest = hashlib.sha256(repr((len(x), *x.shape[1:])).encode())
    digest.update(np.ascontiguousarray(y).tobytes())
    digest.update(np.ascontiguousarray(x[some], dtype=np.float32).tobytes())
    return digest.hexdigest()[:16]
