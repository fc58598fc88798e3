"""Progress bars: on a terminal and in notebooks, by one process, and never in a log unless asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any, TypeVar, overload

from tqdm.auto import tqdm

from art_classwise._core import distributed

__all__ = ["progress"]

T = TypeVar("T")

_IN_LOGS = 10.0  # seconds between two lines, where a log shall have them


@overload
def progress(iterable: None = None, *, shown: bool, **options: Any) -> tqdm[Any]: ...
@overload
def progress(iterable: Iterable[T], *, shown: bool, **options: Any) -> tqdm[T]: ...
def progress(iterable: Iterable[Any] | None = None, *, shown: bool, **options: Any) -> tqdm[Any]:
    """Return a progress bar, with the rate and the time left; a notebook's own kind of bar in a notebook.

    Nothing is shown where stderr is no terminal, as in the log of a CI job, unless the environment has
    ``TQDM_DISABLE=0``; with ``TQDM_DISABLE=1`` nothing is shown anywhere. Of the processes of one job the main one
    shows it.

    Args:
        iterable: What is gone through; if absent, ``total`` says how much there is, and ``update`` how far one is.
        shown: Whether the caller wants a bar, ``verbose``.
        options: Of tqdm.
    """
    asked = os.environ.get("TQDM_DISABLE")
    if not shown or not distributed.is_main():
        disable: bool | None = True
    elif asked is not None:
        disable = asked.strip().lower() not in ("", "0", "false", "no")
    else:
        disable = False if _in_kernel() else None  # None: where stderr is no terminal
    if disable is False and not (_in_kernel() or (sys.stderr is not None and sys.stderr.isatty())):
        options["mininterval"] = _IN_LOGS
    return tqdm(iterable, disable=disable, dynamic_ncols=True, **options)


def _in_kernel() -> bool:
    """Return whether this is a notebook, whose stderr is no terminal though a person looks at it."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = get_ipython() if callable(get_ipython) else None
    return hasattr(shell, "kernel")
