"""Errors written for the person who meets them: what was wrong, what is allowed, what to do."""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Iterable

__all__ = ["DivergenceError", "InputError", "check_whole", "unknown"]


class InputError(ValueError):
    """Something the caller gave can't be used. The message is one readable sentence.

    The command line prints it after ``error:`` and exits with code 2; any other exception is a bug of ours
    and keeps its traceback.
    """


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


def check_whole(name: str, value: object, least: int) -> None:
    """Check that an argument is a whole number of at least ``least``.

    Raises:
        InputError: It isn't.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise InputError(f"`{name}` must be a whole number of at least {least}, but got {value!r}.")
