"""Progress: one line on a terminal, a notebook's own bar in a notebook, and plain lines in a log.

Work that takes long, a training or an audit, says what it is at::

    with progress_bar(total=n_examples, name="audit", shown=verbose) as bar:
        bar.skip(n_found)  # what is there already has no part in the rate
        bar.at("Wong2020Fast, pgd-20")  # a unit begins: an epoch of a training, a shard of an audit
        bar.update(512)  # that much of `total` is done
        bar.beside({"robust": "41%"})  # shown beside the bar, until others are

``total`` may count whatever takes equally long: examples, or the network's passes where attacks differ in theirs.
Short loops inside, as over an attack's batches, are gone through with :func:`progress`.

Of the processes of one job the main one shows it. ``TQDM_DISABLE=1`` hides it everywhere, and ``TQDM_DISABLE=0`` shows
all of it in logs, too.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, overload

from tqdm.auto import tqdm
from tqdm.std import tqdm as text_bar
from tqdm.utils import disp_len, disp_trim
from typing_extensions import Self

from art_classwise._core import distributed
from art_classwise.errors import printable

__all__ = ["ProgressBar", "about", "duration", "is_shown", "progress", "progress_bar"]

T = TypeVar("T")

_IN_LOGS = 10.0  # seconds from a line in a log to the next
_COLUMNS = 80  # where the width of the terminal isn't known


@overload
def progress(iterable: None = None, *, shown: bool, **options: Any) -> tqdm[Any]: ...
@overload
def progress(iterable: Iterable[T], *, shown: bool, **options: Any) -> tqdm[T]: ...
def progress(iterable: Iterable[Any] | None = None, *, shown: bool, **options: Any) -> tqdm[Any]:
    """Go through something short with a bar, on terminals and in notebooks; in logs only with ``TQDM_DISABLE=0``.

    Args:
        iterable: What is gone through.
        shown: Whether the caller wants a bar, ``verbose``.
        options: Of tqdm.
    """
    place = _place(shown)
    if place == "log":
        options["mininterval"] = _IN_LOGS
    disable = place is None or (place == "log" and _asked_for() is None)
    return tqdm(iterable, disable=disable, dynamic_ncols=True, **options)


def progress_bar(
    *, total: float, name: str, shown: bool, unit: str = "", done: float = 0, leave: bool = True
) -> ProgressBar:
    """Return the bar of work that takes long: it fits the terminal, and says what it is at and the time left.

    In a log, it prints a plain line for each unit, at most one in ten seconds, and one at the end; nothing, if the
    whole takes less. With ``TQDM_DISABLE=0`` each unit has its line.

    Args:
        total: How much there is to do, above 0, in whatever takes equally long.
        name: What is done, in a word.
        shown: Whether the caller wants a bar, ``verbose``.
        unit: What ``total`` counts, if the bar shall say how many of them are done in a second.
        done: How much of it was there before.
        leave: Whether the line stays once all is done.
    """
    place = _place(shown)
    if place == "log":
        return _Lines(name, total, done)
    if place is None:
        return ProgressBar()
    options: dict[str, Any] = {"total": total, "initial": done, "desc": name, "unit": unit, "leave": leave}
    if place == "notebook":
        return _Drawn(name, tqdm(**options, bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}", smoothing=0))
    return _Drawn(name, _OneLine(**options, dynamic_ncols=True, smoothing=0))


class ProgressBar:
    """How far long work is. This one shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def at(self, what: str) -> None:
        """Say what is done now: a unit of the work begins."""

    def update(self, n: float = 1) -> None:
        """Say how much more of the total is done."""

    def skip(self, n: float) -> None:
        """Say how much of the total needn't be done."""

    def beside(self, words: Mapping[str, str]) -> None:
        """Show words beside the bar, by their names."""

    def say(self, sentence: str) -> None:
        """Write a line that stays, above the bar."""

    def close(self) -> None:
        """End it, which leaving its context does."""


class _Drawn(ProgressBar):
    """A bar of tqdm's."""

    def __init__(self, name: str, bar: Any) -> None:
        self._name, self._bar = name, bar

    def at(self, what: str) -> None:
        self._bar.set_description_str(printable(f"{self._name}  {what}"))

    def update(self, n: float = 1) -> None:
        self._bar.update(n)

    def skip(self, n: float) -> None:
        self._bar.initial += n
        self._bar.n += n
        self._bar.refresh()

    def beside(self, words: Mapping[str, str]) -> None:
        self._bar.set_postfix_str(_joined(words))

    def say(self, sentence: str) -> None:
        self._bar.write(printable(sentence), file=sys.stderr)

    def close(self) -> None:
        self._bar.close()


class _Lines(ProgressBar):
    """Plain lines of a log: when a unit ends, which is when the next begins."""

    def __init__(self, name: str, total: float, done: float) -> None:
        self._name, self._total, self._done, self._found = name, total, done, done
        self._at = self._beside = ""
        self._began = self._said = time.monotonic()
        self._pause = 0.0 if _asked_for() else _IN_LOGS
        self._has_news = self._has_spoken = False

    def at(self, what: str) -> None:
        self._say()
        self._at = printable(what)

    def update(self, n: float = 1) -> None:
        self._done += n
        self._has_news = True

    def skip(self, n: float) -> None:
        self._done += n
        self._found += n

    def beside(self, words: Mapping[str, str]) -> None:
        self._beside = _joined(words)

    def say(self, sentence: str) -> None:
        if sys.stderr is not None:
            print(printable(sentence), file=sys.stderr, flush=True)

    def close(self) -> None:
        self._say(last=self._has_spoken)

    def _say(self, *, last: bool = False) -> None:
        now = time.monotonic()
        if not self._has_news or sys.stderr is None or (now - self._said < self._pause and not last):
            return
        times = f"{duration(now - self._began)} elapsed"
        if self._done < self._total:
            left = (self._total - self._done) * (now - self._began) / max(self._done - self._found, 1e-9)
            times += f", {duration(left)} left"
        parts = (self._name, f"{_percent(self._done, self._total):>4}", self._at, times, self._beside)
        print("  ".join(part for part in parts if part), file=sys.stderr, flush=True)
        self._said, self._has_news, self._has_spoken = now, False, True


class _OneLine(text_bar):  # type: ignore[type-arg]
    """A bar in a line of a terminal, all of which can be read: the bar itself has what the words leave it."""

    @staticmethod
    def format_meter(n: float, total: float, elapsed: float, *_: Any, ncols: int | None = None, **told: Any) -> str:
        """Return the line; tqdm calls this."""
        # The last column stays free: terminals differ in whether a full line begins the next.
        width = max(10, (ncols or _COLUMNS) - 1)
        made = n - told.get("initial", 0)
        rate = made / elapsed if elapsed > 0 and made > 0 else None
        times = duration(elapsed)
        if n < total:
            times += f"<{'?' if rate is None else duration((total - n) / rate)}"
        right = [f" {times}"]
        if told.get("postfix"):
            right.append(f" {told['postfix']}")
        if rate is not None and told.get("unit"):
            right.append(f" {rate:.{0 if rate >= 10 else 1}f} {told['unit']}/s")
        percent, least_title = f" {_percent(n, total):>4}", 16
        while len(right) > 1 and width - disp_len("".join(right)) - len(percent) - least_title < 0:
            right.pop()
        words = percent, "".join(right)
        title = _shortened(told.get("prefix") or "", max(0, width - disp_len("".join(words))))
        space = width - disp_len(title + "".join(words))
        drawn = ""
        if space >= 5:  # a blank and two edges
            drawn = f" |{_bar(min(n / total, 1), min(space - 3, 30), '#' if told.get('ascii') else '█')}|"
        return str(disp_trim(f"{title}{words[0]}{drawn}{words[1]}", width))


def _bar(share: float, width: int, full: str) -> str:
    eighths = round(8 * share * width) if full == "█" else 8 * round(share * width)
    part = " ▏▎▍▌▋▊▉"[eighths % 8].strip()
    return f"{full * (eighths // 8)}{part}".ljust(width)


def duration(seconds: float) -> str:
    """Return a time in words that take few columns: ``0:07``, ``12:30``, ``3:02:00``, ``2 d 4 h``."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def about(seconds: float) -> str:
    """Return a time in words, with two digits: ``40 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``."""
    if seconds < 59.5:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 10 * 60:
        hours, rest = divmod(10 * round(minutes / 10), 60)
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    hours = round(minutes / 60)
    days, rest = divmod(hours, 24)
    return f"{hours} h" if hours < 48 else f"{days} d {rest} h" if rest and days < 10 else f"{days} d"


def is_shown(wanted: bool) -> bool:
    """Return whether this process shows progress, on a terminal, in a notebook or in a log.

    Args:
        wanted: Whether the caller wants it, ``verbose``.
    """
    return _place(wanted) is not None


def _percent(n: float, total: float) -> str:
    """Return a share, which is all only where nothing is left."""
    return f"{100 if n >= total else min(99, int(100 * n / total))}%"


def _joined(words: Mapping[str, str]) -> str:
    return printable(", ".join(f"{name} {word}" for name, word in words.items()))


def _shortened(text: str, width: int) -> str:
    """Return a text in so many columns, without its middle if it is longer: names differ at both ends."""
    if disp_len(text) <= width:
        return text
    if width < 2:
        return ""
    tail = text[-((width - 1) // 2) :] if width > 2 else ""
    while disp_len(tail) > (width - 1) // 2:
        tail = tail[1:]
    return f"{disp_trim(text, width - 1 - disp_len(tail))}…{tail}"


def _asked_for() -> bool | None:
    """Return what the environment says of progress; nothing if absent."""
    value = os.environ.get("TQDM_DISABLE")
    return None if value is None else value.strip().lower() in ("", "0", "false", "no")


def _place(shown: bool) -> str | None:
    """Return where progress is shown: ``"notebook"``, ``"terminal"``, ``"log"``, or nowhere."""
    if not shown or _asked_for() is False or sys.stderr is None or not distributed.is_main():
        return None
    if _in_kernel():
        return "notebook"
    return "terminal" if sys.stderr.isatty() else "log"


def _in_kernel() -> bool:
    """Return whether this is a notebook, whose stderr is no terminal though a person looks at it."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = get_ipython() if callable(get_ipython) else None
    return hasattr(shell, "kernel")
