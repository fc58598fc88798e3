"""What a data set is: images, labels, class names."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from art_classwise._core.arrays import as_array, as_images
from art_classwise._core.display import Shown
from art_classwise._core.labels import check_class_names, check_differ, check_labels, class_number
from art_classwise._core.memory import check_memory
from art_classwise.errors import InputError, check_name, check_number, check_seed, check_whole

__all__ = ["Dataset", "LazyImages"]


class LazyImages:
    """Images on disk that read as an array: indexing returns float32 (k, C, H, W) in [0, 1].

    For sets that don't fit in memory: what isn't indexed isn't read. ``np.asarray`` reads all of it.

    Args:
        read: Returns image i as float32 (C, H, W) in [0, 1].
        indices: Which images, in which order.
        image_shape: (C, H, W).
        source: Returns what tells these images from others without reading them: names and sizes of files, how images
            are brought to size. If absent, the images themselves do, all of which must then be read.
        files: Paths of all images, by their numbers, if each lies in a file.
    """

    dtype = np.dtype(np.float32)
    ndim = 4

    def __init__(
        self,
        read: Callable[[int], npt.NDArray[np.float32]],
        indices: npt.NDArray[np.int64],
        image_shape: tuple[int, int, int],
        source: Callable[[], str] | None = None,
        files: Sequence[str] = (),
    ) -> None:
        self._read, self._indices, self._image_shape, self._source = read, indices, image_shape, source
        self._files = files

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, C, H, W)."""
        return (len(self), *self._image_shape)

    def __getitem__(self, key: int | slice | npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        if isinstance(key, (int, np.integer)):  # one image, (C, H, W); IndexError past the end ends an iteration
            image: npt.NDArray[np.float32] = self[np.array([range(len(self))[key]])][0]
            return image
        chosen = self._indices[key]
        size = 4 * len(chosen) * math.prod(self._image_shape)
        check_memory(size, f"{len(chosen):,} images of {self._image_shape}", "Take fewer at a time.")
        images = np.empty((len(chosen), *self._image_shape), dtype=np.float32)
        for row, i in enumerate(chosen):
            image = self._read(int(i))
            if image.shape != self._image_shape:
                raise InputError(
                    f"Image {i} has shape {image.shape}, but the first has {self._image_shape}: "
                    "images must be of one size; `image_size=N` resizes and crops them to N pixels."
                )
            images[row] = image
        return images

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self[:].astype(dtype or np.float32, copy=False)

    def take(self, rows: npt.NDArray[Any]) -> LazyImages:
        """Return these rows, still unread."""
        return LazyImages(self._read, self._indices[rows], self._image_shape, self._source, self._files)

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of these images, where each lies in a file of its own that is known."""
        return tuple(self._files[i] for i in self._indices) if self._files else ()

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digits that tell these images, in this order, from others: of their source if it was given."""
        digest = hashlib.sha256()
        if self._source is None:
            for i in range(len(self)):
                digest.update(self[i].tobytes())
        else:
            digest.update(self._source().encode(errors="surrogateescape"))
            digest.update(np.ascontiguousarray(self._indices, dtype=np.int64).tobytes())
        return digest.hexdigest()[:32]


@dataclass(frozen=True, repr=False)
class Dataset(Shown):
    """Labelled images.

    Attributes:
        x: float32 (n, C, H, W) in [0, 1]: an array, or :class:`LazyImages`. Arrays, tensors and lists of other types
            and layouts are converted: whole numbers, float64, bfloat16, grey (n, H, W), channels last; a warning says
            so where the meaning was guessed.
        y: int64 (n,), from 0 to C - 1; may be given one-hot, as a tensor, a pandas series or a list, or as class names.
        classes: The names of the C classes, without repetition.
        name: E.g. ``"cifar10"``.
        split: E.g. ``"test"``.
        ids: int64 (n,), each example's number in the whole set.
        files: Paths of the files that they were read from, as far as they are known.

    Raises:
        InputError: x and y differ in length or are empty, x isn't images, isn't finite or lies outside [0, 1], a label
            is no class, or class names repeat.
    """

    x: npt.NDArray[np.float32] | LazyImages = field(repr=False)
    y: npt.NDArray[np.int64] = field(repr=False)
    classes: tuple[str, ...]
    name: str = "data"
    split: str = "test"
    ids: npt.NDArray[np.int64] = field(repr=False, default_factory=lambda: np.empty(0, np.int64))
    files: tuple[str, ...] = field(repr=False, default=(), compare=False)

    def __post_init__(self) -> None:
        check_class_names(self.classes)
        object.__setattr__(
            self, "classes", tuple(str(name) if isinstance(name, np.generic) else name for name in self.classes)
        )
        if not hasattr(self.x, "__len__"):
            raise InputError(
                f"x must be images (n, C, H, W): an array, a tensor or a list, but is a {type(self.x).__name__}."
            )
        if len(self.x) == 0:
            raise InputError(f"The data set {self.name!r} is empty: it needs at least one example.")
        if not isinstance(self.x, LazyImages):
            images, conversions = as_images(self.x, "x")
            object.__setattr__(self, "x", images)
            if conversions:
                warnings.warn(f"x of {self.name!r} was converted: {'; '.join(conversions)}.", stacklevel=3)
        check_differ(self.classes)
        for name in self.classes:
            check_name("class", name)
        object.__setattr__(self, "y", _numbered(self.y, len(self.x), self.classes))
        if len(self.ids) == 0:
            object.__setattr__(self, "ids", np.arange(len(self.x)))
        ids = np.asarray(self.ids)
        if not (ids.ndim == 1 and np.can_cast(ids.dtype, np.int64)):
            raise InputError(f"ids must be whole numbers (n,), but got {ids.dtype} of shape {ids.shape}.")
        object.__setattr__(self, "ids", ids.astype(np.int64, copy=False))
        if len(self.ids) != len(self.x):
            raise InputError(f"There are {len(self.x)} examples, but {len(self.ids)} ids.")

    def __len__(self) -> int:
        return len(self.x)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of an image, (C, H, W)."""
        channels, height, width = self.x.shape[1:]
        return channels, height, width

    def take(self, rows: npt.NDArray[Any]) -> Dataset:
        """Return these examples, with the numbers (``ids``) they had."""
        x = self.x.take(rows) if isinstance(self.x, LazyImages) else self.x[rows]
        return self.with_images(x, y=self.y[rows], ids=self.ids[rows])

    def with_images(self, x: npt.NDArray[np.float32] | LazyImages, **changes: Any) -> Dataset:
        """Return the set with other images, whose layout isn't guessed again: 6 x 3 pixels of 2 channels, say.

        Args:
            x: float32 (n, C, H, W) in [0, 1], or :class:`LazyImages`.
            changes: Other attributes that change.

        Raises:
            InputError: As :class:`Dataset`.
        """
        if isinstance(x, LazyImages) or len(x) == 0:
            return replace(self, x=x, **changes)
        made = replace(self, x=np.zeros((len(x), 1, 1, 1), np.float32), **changes)
        object.__setattr__(made, "x", x)
        return made

    def first(self, n_examples: int) -> Dataset:
        """Return n examples: the first n, or evenly spaced ones where the set is sorted by class.

        The first n is what RobustBench evaluates on; of a set sorted by class it would be one class only.

        Raises:
            InputError: The set has fewer, or n isn't a whole number above 0.
        """
        check_whole("n_examples", n_examples, 1)
        if n_examples > len(self):
            raise InputError(f"{self.name} ({self.split}) has {len(self)} examples, but {n_examples} were asked for.")
        if bool(np.all(np.diff(self.y) >= 0)):
            return self.take(np.arange(n_examples) * len(self) // n_examples)
        return self.take(np.arange(n_examples))

    def hold_out(self, n_examples: int, *, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Part off n examples, drawn from each class in proportion to its size: to validate on, say.

        Args:
            n_examples: How many; fewer than there are.
            seed: Of the drawing.

        Returns:
            The others, and the n examples; both in the order they had.

        Raises:
            InputError: n isn't a whole number above 0, nothing would be left, or the seed is out of range.

        Example:
            >>> data = Dataset(np.zeros((6, 1, 2, 2), np.float32), np.array([0, 0, 0, 0, 1, 1]), ("a", "b"))
            >>> [part.y.tolist() for part in data.hold_out(3)]
            [[0, 0, 1], [0, 0, 1]]
        """
        check_whole("n_examples", n_examples, 1)
        check_seed(seed)
        if n_examples >= len(self):
            raise InputError(f"{n_examples} examples can't be held out of {self.name}, which has {len(self)}.")
        order = np.random.default_rng(seed).permutation(len(self))
        place = np.empty(len(self))  # of each example within its class, from 0 to 1
        for k in range(len(self.classes)):
            of_class = order[self.y[order] == k]
            place[of_class] = (np.arange(len(of_class)) + 0.5) / max(1, len(of_class))
        chosen = np.zeros(len(self), dtype=bool)
        chosen[order[np.argsort(place[order], kind="stable")[:n_examples]]] = True
        return self.take(np.flatnonzero(~chosen)), self.take(np.flatnonzero(chosen))

    def long_tailed(self, imbalance: float, *, seed: int = 0) -> Dataset:
        """Return fewer examples, class by class, so that their numbers fall exponentially (Cui et al. 2019).

        Class k of C has n imbalance^(k / (C - 1)) examples, rounded down, with the largest n that all classes have
        enough examples for: of equally frequent classes all of the first one. Cui et al., "Class-Balanced Loss Based on
        Effective Number of Samples", CVPR 2019 (arXiv 1901.05555).

        Args:
            imbalance: Number of the last class relative to the first one's, above 0 and at most 1.
            seed: Of the drawing.

        Returns:
            The examples, in the order they had.

        Raises:
            InputError: ``imbalance`` or ``seed`` is out of range, or a class would have no example left.

        Example:
            >>> data = Dataset(np.zeros((30, 1, 2, 2), np.float32), np.arange(30) % 3, ("a", "b", "c"))
            >>> np.bincount(data.long_tailed(0.1).y).tolist()
            [10, 3, 1]
        """
        check_number("imbalance", imbalance, 0, 1, above=True)
        check_seed(seed)
        counts, last = np.bincount(self.y, minlength=len(self.classes)), max(1, len(self.classes) - 1)
        profile = imbalance ** (np.arange(len(self.classes)) / last)
        with np.errstate(over="ignore"):  # of a number near 0, which leaves the last class without examples
            wanted = np.floor((counts / profile).min() * profile + 1e-9).astype(np.int64)
        if (wanted == 0).any():
            k = int((counts == 0).argmax() if (counts == 0).any() else (wanted == 0).argmax())
            why = (
                f"has no example in {self.name} ({self.split}): leave it out of the class names"
                if counts[k] == 0
                else f"would have none of its {counts[k]} examples left: take an `imbalance` nearer to 1"
            )
            raise InputError(f"With imbalance {imbalance:g} class {self.classes[k]!r} {why}.")
        order = np.random.default_rng(seed).permutation(len(self))
        chosen = np.zeros(len(self), dtype=bool)
        for k, n in enumerate(wanted):
            chosen[order[self.y[order] == k][:n]] = True
        return self.take(np.flatnonzero(chosen))

    def of_classes(self, classes: Iterable[str | int]) -> Dataset:
        """Return the examples of these classes (names or numbers); the numbering of classes stays.

        Raises:
            InputError: A class is unknown, or none of the examples is of these classes.
        """
        numbers = [self.class_number(c) for c in classes]
        rows = np.flatnonzero(np.isin(self.y, numbers))
        if len(rows) == 0:
            raise InputError(f"No example of {self.name} ({self.split}) is of the classes asked for.")
        return self.take(rows)

    def class_number(self, name: str | int) -> int:
        """Return the number of a class given by name or number.

        Raises:
            InputError: There is no such class.
        """
        return class_number(name, self.classes)


def _numbered(y: Any, n_examples: int, classes: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Return labels as class numbers; they may be class names, too."""
    labels = as_array(y, "y", texts=True)
    if labels.dtype.kind in "US":
        names = [label.decode(errors="replace") if isinstance(label, bytes) else str(label) for label in labels.ravel()]
        labels = np.array([class_number(name, classes) for name in names]).reshape(labels.shape)
    elif labels.ndim == 1 and labels.size and labels.min() == 1 and labels.max() == len(classes):
        raise InputError(
            f"The labels start at 1 and go to {len(classes)}, but classes are numbered from 0: give y - 1."
        )
    return check_labels(labels, n_examples, len(classes))
