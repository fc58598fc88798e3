"""Images and labels as they are given: checked, held as is best, and told apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from art_classwise._core import art_interface, distributed
from art_classwise._core.arrays import as_array
from art_classwise.datasets import Dataset
from art_classwise.errors import InputError, first_line
from art_classwise.threat import ThreatModel
from art_classwise.trainers.engine.batches import (
    Augmentation,
    ClassBalancedOrder,
    CyclicOrder,
    DeviceSource,
    LoaderSource,
    MixedSource,
    Order,
    ShuffledOrder,
)

__all__ = [
    "DatasetImages",
    "ImageRows",
    "array_source",
    "check_images",
    "mixed_source",
    "order_of",
    "unlabelled_per_batch",
]


def check_images(x: Any, classifier: Any, threat: ThreatModel, name: str = "x") -> Any:
    """Return images as a float32 array, or as something that gives such by rows if they are read as needed.

    Of images that are read as needed the first two are looked at.

    Args:
        x: An array or tensor (n, C, H, W); a :class:`art_classwise.Dataset`; a memory-mapped array; what has a
            length, a shape and rows; or a torch data set of images, or of images with labels.
        classifier: An ART classifier that they are for.
        threat: The threat model they are attacked within.
        name: What to call them in messages.

    Raises:
        InputError: They aren't images, not what the classifier takes, or there is none.
    """
    x = x.x if isinstance(x, Dataset) else x
    x = as_array(x, name) if isinstance(x, (Tensor, list, tuple)) or hasattr(x, "to_numpy") else x
    if isinstance(x, np.memmap):  # held in memory it may not fit
        x = ImageRows(x, np.arange(len(x)))
    rows = hasattr(x, "__getitem__") and hasattr(x, "__len__")
    if rows and not isinstance(x, (np.ndarray, Mapping)):
        if len(x) == 0:
            raise InputError(f"There is no example: {name} is empty.")
        lazy = x if hasattr(x, "shape") else DatasetImages(x, name)
        art_interface.check_images(np.asarray(lazy[:2], dtype=np.float32), classifier, threat, name=name)
        return lazy
    why = ""
    try:
        images = np.require(x, np.float32, ["C", "W"])  # torch warns of arrays it may not write to
    except (TypeError, ValueError) as error:
        images, why = np.empty(()), f" ({first_line(error)})"
    if images.ndim == 0:
        raise InputError(
            f"{name} must be images (n, C, H, W): an array or tensor, a data set of art-classwise, or a torch data "
            f"set that has a length and gives items by number, but is a {type(x).__name__}{why}."
        )
    art_interface.check_images(images, classifier, threat, name=name)
    return images


class ImageRows:
    """Some of the images that are read as they are needed.

    Args:
        x: Gives images by rows.
        rows: Which.
    """

    def __init__(self, x: Any, rows: npt.NDArray[Any]) -> None:
        self._x, self._rows = x, rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, C, H, W)."""
        return (len(self), *self._x.shape[1:])

    def __getitem__(self, key: Any) -> npt.NDArray[np.float32]:
        return np.asarray(self._x[self._rows[key]], dtype=np.float32)


class DatasetImages:
    """Images of a torch data set, whose items are images (C, H, W), or pairs of which the first is one.

    Args:
        items: The data set.
        name: What to call it in messages.

    Raises:
        InputError: Its first item is no image.
    """

    def __init__(self, items: Any, name: str) -> None:
        self._items, self._name = items, name
        self.shape = (len(items), *self._image(0).shape)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, key: Any) -> npt.NDArray[np.float32]:
        images = [self._image(int(i)) for i in np.atleast_1d(np.arange(len(self))[key])]
        return np.stack(images) if images else np.empty((0, *self.shape[1:]), dtype=np.float32)

    def _image(self, i: int) -> npt.NDArray[np.float32]:
        item = self._items[i]
        image = item[0] if isinstance(item, (tuple, list)) else item
        if not isinstance(image, (Tensor, np.ndarray)):
            raise InputError(
                f"Item {i} of {self._name} must be an image, a tensor or array (C, H, W), or a pair that begins with "
                f"one, but is a {type(image).__name__}: give the data set a transform such as "
                "torchvision.transforms.ToTensor()."
            )
        array = as_array(image, f"item {i} of {self._name}").astype(np.float32)
        if array.shape != getattr(self, "shape", (0, *array.shape))[1:]:
            raise InputError(
                f"Item {i} of {self._name} is an image of shape {array.shape}, but the first one is of "
                f"{self.shape[1:]}: images must be of one size; let the data set's transform resize or crop them."
            )
        return array


def array_source(
    x: Any,
    y: npt.NDArray[np.int64],
    order: Order,
    augment: Augmentation,
    device: torch.device,
    num_workers: int,
    first_id: int = 0,
) -> DeviceSource | LoaderSource:
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
            return DeviceSource(images, labels, levels, order, augment, device, first_id)
    return LoaderSource(x, labels, order, augment, device, num_workers, first_id)


def order_of(y: npt.NDArray[np.int64], batch_size: int, seed: int, *, class_balanced: bool = False) -> ShuffledOrder:
    """Return the order of examples with labels y (n,): all of them once, or their classes drawn evenly."""
    if class_balanced:
        return ClassBalancedOrder(torch.from_numpy(y), batch_size, seed)
    return ShuffledOrder(len(y), batch_size, seed)


def unlabelled_per_batch(batch_size: int, fraction: float) -> int:
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
    class_balanced: bool = False,
) -> MixedSource:
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
        class_balanced: Whether the classes of labelled examples are drawn evenly: see :func:`order_of`.

    Raises:
        InputError: A batch would have no example of one kind.
    """
    without = unlabelled_per_batch(batch_size, fraction)
    order = order_of(labelled[1], batch_size - without, seed, class_balanced=class_balanced)
    sizes = [max(1, round(size * without / (batch_size - without))) for size in order.sizes]
    options: Any = {"augment": augment, "device": device, "num_workers": num_workers}
    return MixedSource(
        array_source(*labelled, order=order, **options),
        array_source(
            *unlabelled, order=CyclicOrder(len(unlabelled[1]), sizes, seed), first_id=len(labelled[1]), **options
        ),
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
