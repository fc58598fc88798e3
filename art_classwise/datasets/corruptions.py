"""Corrupted images: CIFAR-10-C, CIFAR-100-C and ImageNet-C in their folders, by the numbers of the clean ones."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from art_classwise._core.fingerprints import digest, file_digest
from art_classwise.datasets.catalog import CORRUPTIONS, SEVERITIES
from art_classwise.datasets.corrupting import MAKEABLE, corrupted
from art_classwise.datasets.dataset import Dataset, LazyImages
from art_classwise.datasets.files import image_files
from art_classwise.errors import InputError, first_line, unknown

__all__ = [
    "CORRUPTIONS",
    "FOLDERS",
    "SEVERITIES",
    "Corrupted",
    "CorruptedImages",
    "corrupted_images",
    "corruption_names",
    "find_corruptions",
    "is_corruption",
    "parse_corruption",
]

FOLDERS = {"cifar10": "CIFAR-10-C", "cifar100": "CIFAR-100-C", "imagenet": "ImageNet-C"}
"""Names of the published folders, by data set."""

MADE = "made"
"""What names of corruptions begin with, and a colon, whose images are made from the clean ones."""

_MOST_TOLD = 512  # files of an image folder whose names and sizes tell it


class Corrupted(NamedTuple):
    """A corruption at one severity.

    Attributes:
        corruption: One of :data:`CORRUPTIONS`.
        severity: One of :data:`SEVERITIES`.
        made: Whether its images are made from the clean ones, not read.
    """

    corruption: str
    severity: int
    made: bool = False

    def __str__(self) -> str:
        return f"{f'{MADE}:' * self.made}{self.corruption}:{self.severity}"


_NAME = re.compile(rf"(?P<made>{MADE}:)?(?P<corruption>[^:]+)(:(?P<severity>[^:]*))?")


def is_corruption(name: str) -> bool:
    """Return whether the name of an attack can be meant as that of corruptions: ``"fog"``, ``"fog:3"``."""
    match = _NAME.fullmatch(name.strip().lower())
    return match is not None and (match["made"] is not None or match["corruption"] in (*CORRUPTIONS, "corruptions"))


def parse_corruption(name: str) -> list[Corrupted]:
    """Return what a name stands for.

    Args:
        name: ``"fog:3"``; ``"fog"``, at all severities; ``"all"``, or ``"corruptions"``, all corruptions at all
            severities, or ``"all:3"`` at one; each also after ``"made:"``.

    Raises:
        InputError: There is no such corruption or severity.
    """
    match = _NAME.fullmatch(name.strip().lower())
    if match is None:
        raise InputError(f'A corruption is written NAME or NAME:SEVERITY, e.g. "fog:3", but got {name!r}.')
    made, severity = match["made"] is not None, match["severity"]
    kinds = [match["corruption"]]
    known = CORRUPTIONS
    if kinds[0] in ("all", "corruptions"):
        kinds = [*(MAKEABLE if made else CORRUPTIONS)]
    elif kinds[0] not in known:
        raise unknown("corruption", match["corruption"], known, hint='Or "all".')
    elif made and kinds[0] not in MAKEABLE:
        raise InputError(
            f"Images with {kinds[0]} can't be made here, only with {', '.join(MAKEABLE)}: read them from a folder, "
            "`corruption_dir`."
        )
    if severity is not None and severity not in map(str, SEVERITIES):
        raise InputError(
            f"A severity is a whole number from 1 to 5, the strongest, but got {severity!r} in {name!r}: write "
            f'"{match["corruption"]}:3", or "{match["corruption"]}" for all five.'
        )
    chosen = SEVERITIES if severity is None else (int(severity),)
    return [Corrupted(kind, each, made) for kind in kinds for each in chosen]


def corruption_names(asked: str | Iterable[str]) -> tuple[str, ...]:
    """Return the names, with severities, that corruptions are asked for by.

    Args:
        asked: Names that :func:`parse_corruption` takes: a list, or a text with commas between them.

    Raises:
        InputError: A name is none or stands twice, or there is none.

    Example:
        >>> corruption_names("fog:3,made:contrast:1")
        ('fog:3', 'made:contrast:1')
    """
    parts = asked.split(",") if isinstance(asked, str) else list(asked) if isinstance(asked, Iterable) else [asked]
    if not parts or isinstance(asked, Mapping) or not all(isinstance(part, str) for part in parts):
        raise InputError(f'`corruptions` must be "all", or names such as "fog:3" and "snow", but got {asked!r}.'[:300])
    names = [str(one) for part in parts for one in parse_corruption(part)]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"The corruption {name!r} is named twice.")
    return tuple(names)


def find_corruptions(dataset: str, folder: str | os.PathLike[str] | None) -> Path | None:
    """Return the folder of a data set's corrupted images.

    Args:
        dataset: Name of the data set.
        folder: The folder, or the one in which CIFAR-10-C, say, lies; ``$ART_CLASSWISE_DATA``, else ``data``, if
            absent.

    Returns:
        The folder; None where none was given and there is none.

    Raises:
        InputError: One was given that holds no corrupted images.
    """
    base = Path(os.path.expanduser(folder if folder is not None else os.environ.get("ART_CLASSWISE_DATA", "data")))
    name = FOLDERS.get(dataset)
    for path in ([] if name is None else [base / name]) + ([] if folder is None else [base]):
        if any((path / f"{kind}.npy").is_file() or (path / kind).is_dir() for kind in CORRUPTIONS):
            return path.absolute()
    if folder is None:
        return None
    raise InputError(
        f"{base.absolute()} holds no corrupted images{'' if base.is_dir() else ', for there is no such folder'}: "
        f"neither NAME.npy files beside labels.npy, as CIFAR-10-C has them, nor NAME/SEVERITY/CLASS/*.JPEG, as "
        f"ImageNet-C{'' if name is None else f'; nor does its subfolder {name}'}."
    )


class CorruptedImages(ABC):
    """Where corrupted images come from, by the numbers of the clean ones.

    Attributes:
        source: The folder's name, or ``"made"``.
    """

    source: str

    @abstractmethod
    def check(self, data: Dataset, wanted: Sequence[Corrupted]) -> None:
        """Check that there are corrupted images of all examples, in the same order, of the same size.

        Raises:
            InputError: There aren't.
        """

    @abstractmethod
    def digest(self, one: Corrupted) -> str:
        """Return hexadecimal digits that tell the images of a corruption from others."""

    @abstractmethod
    def images(
        self, one: Corrupted, ids: npt.NDArray[np.int64], x: npt.NDArray[np.float32], y: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """Return corrupted images, float32 (n, C, H, W) in [0, 1].

        Args:
            one: The corruption.
            ids: (n,) the examples' numbers in the whole set.
            x: (n, C, H, W) the clean ones.
            y: (n,) their labels.

        Raises:
            InputError: They can't be read, or are of other examples.
        """


class _Made(CorruptedImages):
    """Images that are made from the clean ones, each by its number: the same whatever stands beside it."""

    source = MADE

    def check(self, data: Dataset, wanted: Sequence[Corrupted]) -> None:
        if data.input_shape[0] not in (1, 3):
            raise InputError(
                f"Corruptions are made of images with 1 or 3 channels, but those of {data.name} have "
                f"{data.input_shape[0]}."
            )

    def digest(self, one: Corrupted) -> str:
        return ""

    def images(
        self, one: Corrupted, ids: npt.NDArray[np.int64], x: npt.NDArray[np.float32], y: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        return np.stack(
            [corrupted(image, one.corruption, one.severity, int(i)) for image, i in zip(x, ids, strict=True)]
        )


@dataclass(frozen=True)
class _Arrays(CorruptedImages):
    """A folder as CIFAR-10-C's: NAME.npy, uint8 (5 m, H, W, C), severity after severity, and labels.npy."""

    folder: Path

    @property
    def source(self) -> str:  # type: ignore[override]
        return self.folder.name

    def check(self, data: Dataset, wanted: Sequence[Corrupted]) -> None:
        channels, height, width = data.input_shape
        for kind in dict.fromkeys(one.corruption for one in wanted):
            path = self._path(kind)
            shape, dtype = (array := _opened(path)).shape, array.dtype
            if dtype != np.uint8 or len(shape) != 4:
                raise InputError(f"{path} must hold uint8 images (n, H, W, C), but holds {dtype} of shape {shape}.")
            labels = self._labels(kind)
            if shape[0] == len(labels) and shape[0] % 5 == 0:
                raise InputError(
                    f"{path} holds {shape[0]:,} images, and labels.npy as many labels, which aren't the same at each "
                    "of five severities: they are of one severity alone, or in another order."
                )
            if shape[0] != 5 * len(labels):
                raise InputError(
                    f"{path} holds {shape[0]:,} images, but labels.npy is of {len(labels):,} at each of five "
                    f"severities, {5 * len(labels):,} in all: one of the two was cut, or is of another set."
                )
            if shape[1:] != (height, width, channels):
                raise InputError(
                    f"{path} holds images of shape {shape[1:]} (H, W, C), but those of {data.name} have "
                    f"{(height, width, channels)}."
                )
            self._check_labels(kind, data.ids, data.y, data.name)

    def digest(self, one: Corrupted) -> str:
        path = self._path(one.corruption)
        status = path.stat()
        return _file_digest(str(path), status.st_size, status.st_mtime_ns)

    def images(
        self, one: Corrupted, ids: npt.NDArray[np.int64], x: npt.NDArray[np.float32], y: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        self._check_labels(one.corruption, ids, y, "the audit")
        rows = (one.severity - 1) * len(self._labels(one.corruption)) + ids
        pixels = np.asarray(_opened(self._path(one.corruption))[rows])
        # As float32 from the start, like the clean images and RobustBench's: 0.1 lies elsewhere in float64.
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)

    def _path(self, kind: str) -> Path:
        path = self.folder / f"{kind}.npy"
        if not path.is_file():
            there = [name for name in CORRUPTIONS if (self.folder / f"{name}.npy").is_file()]
            raise InputError(f"{self.folder} has no {kind}.npy; it has {', '.join(there)}.")
        return path

    def _labels(self, kind: str) -> npt.NDArray[np.int64]:
        """Return the labels of one severity, from a file of one or of all five."""
        path = self.folder / "labels.npy"
        if not path.is_file():
            raise InputError(f"{self.folder} has no labels.npy, which says whether its images are in the usual order.")
        status = path.stat()
        whole, repeats = _read_labels(str(path), status.st_size, status.st_mtime_ns)
        # Those of one severity may repeat, too: if each fifth has the classes in the same order.
        if not repeats or len(_opened(self._path(kind))) == 5 * len(whole):
            return whole
        return whole[: len(whole) // 5]

    def _check_labels(self, kind: str, ids: npt.NDArray[np.int64], y: npt.NDArray[np.int64], name: str) -> None:
        labels = self._labels(kind)
        beyond = ids[(ids < 0) | (ids >= len(labels))]
        if len(beyond):
            raise InputError(
                f"{self.folder} has {len(labels):,} images at each severity, but {name} has an example {beyond[0]}: "
                "are these the test images that it was made of?"
            )
        other = np.flatnonzero(labels[ids] != y)
        if len(other):
            i = other[0]
            raise InputError(
                f"{self.folder / 'labels.npy'} differs from the labels of {name} in {len(other):,} of {len(ids):,} "
                f"places, first in that of example {ids[i]}, {labels[ids[i]]} in place of {y[i]}: its images are of "
                "another set, or in another order."
            )


@lru_cache(maxsize=8)
def _read_labels(path: str, size: int, changed: int) -> tuple[npt.NDArray[np.int64], bool]:
    """Return all labels of a file, and whether they are the same five times."""
    labels = np.asarray(_opened(Path(path)))
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) == 0:
        raise InputError(f"{path} must hold whole numbers (n,), but holds {labels.dtype} of shape {labels.shape}.")
    whole: npt.NDArray[np.int64] = labels.astype(np.int64)
    fifths = whole.reshape(5, -1) if len(whole) % 5 == 0 else None
    return whole, fifths is not None and bool((fifths == fifths[0]).all())


def _opened(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            begins = file.read(6)
        if begins == b"\x93NUMPY":  # else np.load would take it for an archive of arrays, or advise to unpickle it
            return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} can't be read as a NumPy array: {first_line(error)}") from error
    what = "it is an archive, as .npz files are" if begins[:2] == b"PK" else "it isn't as np.save writes them"
    raise InputError(f"{path} can't be read as a NumPy array: {what}.")


@lru_cache(maxsize=256)
def _file_digest(path: str, size: int, changed: int) -> str:
    return file_digest(path)


@dataclass(frozen=True)
class _Files(CorruptedImages):
    """A folder as ImageNet-C's: NAME/SEVERITY/CLASS/FILE, with the files' names of the clean images."""

    folder: Path
    names: Mapping[int, str]  # CLASS/FILE by example
    grey: bool
    shape: tuple[int, int, int]

    @property
    def source(self) -> str:  # type: ignore[override]
        return self.folder.name

    @classmethod
    def of(cls, folder: Path, data: Dataset) -> _Files:
        files = data.x.files if isinstance(data.x, LazyImages) else ()
        if not files:
            raise InputError(
                f"{folder} holds images by the names of the clean ones' files, but those of {data.name} don't lie in "
                "files: load them from their folder."
            )
        names = {int(i): "/".join(Path(file).parts[-2:]) for i, file in zip(data.ids, files, strict=True)}
        return cls(folder, names, data.input_shape[0] == 1, data.input_shape)

    def check(self, data: Dataset, wanted: Sequence[Corrupted]) -> None:
        for one in wanted:
            folder = self._folder(one)
            some = np.unique(np.linspace(0, len(data) - 1, 64).astype(np.int64))
            self._paths(folder, data.ids[some])
        folders = {self.names[int(i)].partition("/")[0]: int(y) for i, y in zip(data.ids, data.y, strict=True)}
        if len({*folders.values()}) < len(folders) or any(
            folders[self.names[int(i)].partition("/")[0]] != y for i, y in zip(data.ids, data.y, strict=True)
        ):
            raise InputError(
                f"The images of {data.name} don't lie in one folder for each class, so they can't be found in "
                f"{self.folder}."
            )

    def digest(self, one: Corrupted) -> str:
        folder, ids = self._folder(one), sorted(self.names)
        some = [ids[i] for i in np.unique(np.linspace(0, len(ids) - 1, min(len(ids), _MOST_TOLD)).astype(np.int64))]
        told = [
            f"{self.names[i]}\0{os.path.getsize(path)}\n"
            for i, path in zip(some, self._paths(folder, some), strict=True)
        ]
        return digest("".join(told).encode(errors="surrogateescape"))

    def images(
        self, one: Corrupted, ids: npt.NDArray[np.int64], x: npt.NDArray[np.float32], y: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        read = image_files(self._paths(self._folder(one), ids), grey=self.grey, image_size=None)
        if read.shape[1:] != self.shape:
            raise InputError(
                f"{self._folder(one)} holds images of shape {read.shape[1:]}, but the clean ones have {self.shape}: "
                f"load those with `image_size={read.shape[-1]}`."
            )
        return np.asarray(read)

    def _folder(self, one: Corrupted) -> Path:
        path = self.folder / one.corruption / str(one.severity)
        if not path.is_dir():
            there = [kind for kind in CORRUPTIONS if (self.folder / kind / str(one.severity)).is_dir()]
            raise InputError(
                f"{self.folder} has no {one.corruption}/{one.severity}; at this severity it has "
                f"{', '.join(there) or 'nothing'}."
            )
        return path

    def _paths(self, folder: Path, ids: Sequence[int] | npt.NDArray[np.int64]) -> list[str]:
        paths = [folder / self.names[int(i)] for i in ids]
        lacking = [path for path in paths if not path.is_file()]
        if lacking:
            raise InputError(
                f"{folder} lacks {len(lacking)} of {len(paths)} images, first {lacking[0].relative_to(folder)}: it "
                "must hold the clean ones' files by their names."
            )
        return [str(path) for path in paths]


def corrupted_images(
    data: Dataset, wanted: Sequence[Corrupted], folder: str | os.PathLike[str] | None = None
) -> tuple[tuple[str, ...], dict[bool, CorruptedImages]]:
    """Return where a data set's corrupted images come from.

    Args:
        data: The clean examples.
        wanted: The corruptions.
        folder: As for :func:`find_corruptions`.

    Returns:
        Names of the corruptions, those that are made after ``"made:"``: as asked for, or all of them where there is no
        folder and none was given, without those that can't be made; and where images come from, by whether they are
        made.

    Raises:
        InputError: The folder isn't there, its images are others or can't be read; or none of the corruptions can be
            made.
    """
    read, sources = [one for one in wanted if not one.made], dict[bool, CorruptedImages]()
    if read and data.split != "test":
        raise InputError(
            f"Corrupted images are of test sets, but {data.name} ({data.split}) is another split: give the test set."
        )
    path = find_corruptions(data.name, folder) if read or folder is not None else None
    if path is None:
        made = [one._replace(made=True) for one in wanted if one.made or one.corruption in MAKEABLE]
        wanted = [*dict.fromkeys(made)]
        if not wanted:
            raise InputError(
                f"There is no folder of corrupted images{_named(data)}, and without one images are made with "
                f"{', '.join(MAKEABLE)} only: give the folder, `corruption_dir`."
            )
    elif read:
        arrays = any((path / f"{kind}.npy").is_file() for kind in CORRUPTIONS)
        sources[False] = _Arrays(path) if arrays else _Files.of(path, data)
    if any(one.made for one in wanted):
        sources[True] = _Made()
    for is_made, source in sources.items():
        source.check(data, [one for one in wanted if one.made == is_made])
    return tuple(map(str, wanted)), sources


def _named(data: Dataset) -> str:
    return f", {FOLDERS[data.name]}, in data or $ART_CLASSWISE_DATA" if data.name in FOLDERS else f" for {data.name}"
