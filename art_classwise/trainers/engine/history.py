"""What training measures: sums on the device, read once per epoch, and where they go."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from art_classwise._core import distributed
from art_classwise.errors import InputError

__all__ = ["ClassCounts", "EpochStatistics", "Scalars", "check_summary_writer"]


class ClassCounts:
    """How many examples of each class were seen, and classified correctly without the attack and under it.

    Args:
        n_classes: Number of classes.
        device: Where the sums lie.
    """

    def __init__(self, n_classes: int, device: torch.device) -> None:
        self._sums = torch.zeros(3, n_classes, dtype=torch.float64, device=device)
        self._measured = [True, True]

    @torch.no_grad()
    def add(self, y: Tensor, logits: Tensor | None, logits_adv: Tensor | None) -> None:
        """Add a batch; logits are missing where the clean images, or attacked ones, weren't classified."""
        counted = [torch.ones_like(y, dtype=torch.bool)]
        for i, given in enumerate((logits, logits_adv)):
            self._measured[i] &= given is not None
            counted.append(torch.zeros_like(counted[0]) if given is None else given.argmax(1) == y)
        self._sums.index_add_(1, y, torch.stack(counted).to(self._sums.dtype))

    def row(self, prefix: str = "") -> dict[str, float]:
        """Return accuracies by name, over all processes; NaN for what wasn't measured, and for absent classes."""
        n, *correct = distributed.sum_(self._sums.clone()).cpu().numpy()
        clean, robust = (
            a if measured else np.full_like(a, np.nan) for a, measured in zip(correct, self._measured, strict=True)
        )
        by_class = {name: sums / np.where(n > 0, n, np.nan) for name, sums in (("clean", clean), ("robust", robust))}
        return {
            f"{prefix}clean": float(clean.sum() / n.sum()),
            f"{prefix}robust": float(robust.sum() / n.sum()),
            **{f"{prefix}{name}_{k}": float(a) for name, values in by_class.items() for k, a in enumerate(values)},
        }


class EpochStatistics:
    """The loss and the counts of an epoch, and the first batch whose loss wasn't finite.

    Args:
        n_classes: Number of classes.
        n_batches: Number of batches in the epoch.
        device: Where the sums lie.
    """

    def __init__(self, n_classes: int, n_batches: int, device: torch.device) -> None:
        self.counts = ClassCounts(n_classes, device)
        self._n_batches = n_batches
        self._loss = torch.zeros(2, dtype=torch.float64, device=device)  # its sum, and the number of examples
        self._bad = torch.zeros((), dtype=torch.int64, device=device)  # batches remaining when it came; 0: none

    @torch.no_grad()
    def add(self, number: int, values: Tensor, y: Tensor, logits: Tensor | None, logits_adv: Tensor | None) -> None:
        """Add batch ``number``, from 0, with its losses, and the labels and logits of those with true labels."""
        total = values.sum()
        self._loss[0] += total
        self._loss[1] += len(values)
        self._bad = torch.maximum(self._bad, ~total.isfinite() * (self._n_batches - number))
        self.counts.add(y, logits, logits_adv)

    def bad_batch(self) -> int | None:
        """Return the first batch, from 1, with a loss that wasn't finite in any process. Waits for the device."""
        remaining = int(distributed.largest(self._bad.clone()))
        return self._n_batches - remaining + 1 if remaining else None

    def row(self) -> dict[str, float]:
        """Return the mean loss and the accuracies, over all processes. Waits for the device."""
        loss, n = distributed.sum_(self._loss.clone()).tolist()
        return {"loss": loss / n, **self.counts.row()}


class Scalars:
    """Where TensorBoard reads: a value by name and epoch.

    Args:
        summary_writer: As ART's attacks take it: True (a folder under ``runs``), a folder, or an ART
            ``SummaryWriter``; also whatever has ``add_scalar``. False or None is nowhere.

    Raises:
        InputError: It is none of these, or tensorboardX, which writes the files, isn't installed.
    """

    def __init__(self, summary_writer: Any) -> None:
        check_summary_writer("summary_writer", summary_writer)
        self._writer: Any = None
        self._own = summary_writer is True or isinstance(summary_writer, (str, os.PathLike))
        if summary_writer is None or summary_writer is False or not distributed.is_main():
            return
        if not self._own:
            self._writer = getattr(summary_writer, "summary_writer", summary_writer)  # ART's holds tensorboardX's
            return
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise InputError("`summary_writer` needs tensorboardX: pip install tensorboardX.") from None
        self._writer = SummaryWriter() if summary_writer is True else SummaryWriter(os.fspath(summary_writer))

    def write(self, row: Mapping[str, float]) -> None:
        """Write a row of the history at its epoch."""
        if self._writer is None:
            return
        for name, value in row.items():
            if name != "epoch" and np.isfinite(value):
                self._writer.add_scalar(name, value, int(row["epoch"]))
        if hasattr(self._writer, "flush"):
            self._writer.flush()

    def close(self) -> None:
        """Close what was opened here."""
        if self._own and self._writer is not None:
            self._writer.close()


def check_summary_writer(name: str, value: Any) -> Any:
    """Return an argument if it is what :class:`Scalars` takes.

    Raises:
        InputError: It isn't.
    """
    from art.summary_writer import SummaryWriter

    if value is None or isinstance(value, (bool, str, os.PathLike, SummaryWriter)):
        return value
    if isinstance(value, type) or not callable(getattr(value, "add_scalar", None)):
        raise InputError(
            f"`{name}` must be True, False, a folder, or an object with add_scalar(name, value, step), "
            f"but got {value!r}."
        )
    return value
