"""Errors written for the person who meets them: what was wrong, what is allowed, what to do."""

from __future__ import annotations

import difflib
import math
import numbers
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

__all__ = [
    "LARGEST",
    "DivergenceError",
    "GradientMaskingWarning",
    "InputError",
    "as_float",
    "check_flag",
    "check_name",
    "check_number",
    "check_positive",
    "check_seed",
    "check_whole",
    "first_line",
    "printable",
    "shown",
    "too_large",
    "unknown",
]


class InputError(ValueError):
    """Something the caller gave can't be used. The message is one readable sentence.

    A parameter is named in backquotes, alone or with a value: ```eps```, ```resume=True```. The command line prints the
    message after ``error:``, with its options in place of parameters, and exits with code 2; any other exception is a
    bug of ours and keeps its traceback.

    Args:
        message: What was wrong, what is allowed, what to do.
        python: A further remedy, which the command line doesn't have and doesn't print.
    """

    def __init__(self, message: object = "", *, python: str = "") -> None:
        super().__init__(f"{message} {python}" if python else message)
        self.short = str(message)
        """The message without what only Python has."""


class WriteError(InputError):
    """A file can't be written, though its name is one: on a full disk, say. The command line exits with code 1."""


class GradientMaskingWarning(UserWarning):
    """Gradients are zero where they should show the way: the model may be weaker than an attack makes it look."""


class DivergenceError(InputError, FloatingPointError):
    """Training diverged: the loss became NaN or infinite."""


def unknown(kind: str, name: object, known: Iterable[object], *, hint: str = "") -> InputError:
    """Return the error for a name that isn't in a list, with its nearest neighbours in that list.

    Args:
        kind: What the name should have named, e.g. ``"data set"``.
        name: What was given.
        known: What is allowed.
        hint: What else may be given, appended as it is.

    Returns:
        The error, to be raised by the caller.
    """
    names = [str(k) for k in known]
    lowered = {n.lower(): n for n in names}
    close = [lowered[m] for m in difflib.get_close_matches(str(name).lower(), list(lowered), n=3, cutoff=0.5)]
    if close:
        advice = f"Did you mean {' or '.join(close)}?"
    else:
        shown = ", ".join(names[:20])
        advice = f"Known: {shown}{f' and {len(names) - 20} more' if len(names) > 20 else ''}."
    return InputError(f"Unknown {kind} {str(name)!r}. {advice}{' ' + hint if hint else ''}")


_STYLE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # torch's errors print in bold


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, to be quoted in one of ours; its kind, if it says nothing."""
    text = _STYLE.sub("", str(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__


LARGEST = 1e30
"""What numbers that have to be finite may be at most: float32, which networks compute in, ends at 3.4e38."""


def too_large(number: float) -> str:
    """Return what a message adds of a number that is finite, but not in float32; nothing of others."""
    return f", at most {LARGEST:g}" if LARGEST < number < math.inf else ""


def as_float(value: object) -> float:
    """Return a number as Python's float; infinity where it is too large for one, NaN where it is none, a bool, say."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return -math.inf if value < 0 else math.inf


def shown(value: object, most: int = 200) -> str:
    """Write what was given, to be quoted in a message: not more of it than a person reads."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def check_whole(name: str, value: object, least: int) -> int:
    """Return an argument that is a whole number of at least ``least``, Python's or NumPy's, as Python's.

    Raises:
        InputError: It isn't, or has more than 64 bits.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not least <= int(value) < 2**63:
        below = " and below 2**63" if isinstance(value, numbers.Integral) and int(value) >= 2**63 else ""
        raise InputError(f"`{name}` must be a whole number of at least {least}{below}, but got {shown(value)}.")
    return int(value)


def check_flag(name: str, value: object) -> bool:
    """Return an argument that is True or False, Python's or NumPy's, as Python's.

    Raises:
        InputError: It is neither.
    """
    # By name: errors are raised before NumPy is imported. It was called bool_ before NumPy 2.
    if isinstance(value, bool) or (type(value).__module__, type(value).__name__) in (
        ("numpy", "bool"),
        ("numpy", "bool_"),
    ):
        return bool(value)
    raise InputError(f"`{name}` must be True or False, but got {shown(value)}.")


def check_seed(value: object) -> int:
    """Return a seed that is a whole number from 0 to 2**63 - 1, what torch and NumPy both take, as Python's.

    Raises:
        InputError: It isn't.
    """
    return check_whole("seed", value, 0)


def check_positive(name: str, value: Any, *, finite: bool = True) -> Any:
    """Return an argument, as it is, if it is a number above 0.

    Raises:
        InputError: It isn't, or ``finite`` is asked for and it is infinite, or would be in float32.
    """
    number = as_float(value)
    if number > 0 and (number <= LARGEST or not finite):
        return value
    allowed = f"finite number above 0{too_large(number)}" if finite else "number above 0"
    raise InputError(f"`{name}` must be a {allowed}, but got {shown(value)}.")


def check_name(kind: str, name: object) -> None:
    """Check that a name, of a model, say, can stand in tables, files and pages.

    Raises:
        InputError: It is empty, no text, or can't be written as UTF-8.
    """
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"A {kind} name must be a non-empty string, but got {name!r}.")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"The {kind} name {name!r} holds bytes that are not UTF-8: choose another.") from None


def check_number(
    name: str,
    value: Any,
    low: float,
    high: float,
    *,
    above: bool = False,
    below: bool = False,
    words: str | None = None,
) -> Any:
    """Return an argument, as it is, if it is a number from ``low`` to ``high``.

    Args:
        name: Of the argument.
        value: What was given.
        low: The smallest number allowed.
        high: The largest.
        above: Whether ``low`` itself isn't allowed.
        below: Whether ``high`` itself isn't.
        words: What is allowed, in words, where the bounds don't say it well.

    Raises:
        InputError: It isn't.
    """
    number, largest = as_float(value), ""
    if below and high == math.inf:  # so that it is finite in float32, too
        high, below, largest = LARGEST, False, too_large(number)
    if low <= number <= high and not (above and number == low) and not (below and number == high):
        return value
    bounds = f"{'above' if above else 'from'} {low:g} to {'below ' if below else ''}{high:g}"
    raise InputError(f"`{name}` must be a number {words or bounds}{largest}, but got {shown(value)}.")


# Letters that look like nothing, though Unicode calls them printable: fillers of Hangul, Khmer's inherent vowels.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
_JOINERS = frozenset("\u200c\u200d")  # words of Persian and Hindi need them, and pictures made of several


def printable(text: str, *, keep: str = "") -> str:
    r"""Write what can't be seen as an escape: names come from files of others.

    What moves the cursor, colours a terminal, turns the direction of writing or stands there unseen would make one name
    look like another; as in Python, a line break becomes ``\n`` and the mark for writing backwards ``\u202e``.

    Args:
        text: The text.
        keep: What may stay, though it can't be seen: the ends of lines of our own text.
    """
    if text.isascii() and text.isprintable():
        return text
    seen = []
    for c, before in zip(text, " " + text, strict=False):
        stays = c in keep or unicodedata.category(c) == "Zs" or (c in _JOINERS and not before.isascii())
        shown = c.isprintable() and c not in _BLANK
        seen.append(c if stays or shown else c.encode("unicode_escape").decode())
    return "".join(seen)
