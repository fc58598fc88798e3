"""Options of attacks and trainers: fields of dataclasses that know their defaults and their checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, fields
from typing import Any, TypeAlias

from art_classwise.errors import check_number, check_positive, check_whole

__all__ = ["Check", "check_options", "number", "option", "optional", "positive", "whole"]

Check: TypeAlias = Callable[[str, Any], Any]
"""Takes an option's name and a value; returns the value in our type, and raises InputError where it isn't allowed."""


def option(default: Any, check: Check | None = None) -> Any:
    """Return a field of a dataclass with a default and a check; without a check, where only the whole can tell."""
    return field(default=default, metadata={} if check is None else {"check": check})


def check_options(options: Any) -> None:
    """Check the fields of a dataclass in order, and set each to its value in our type.

    Raises:
        InputError: One isn't allowed.
    """
    for each in fields(options):
        if "check" in each.metadata:
            object.__setattr__(options, each.name, each.metadata["check"](each.name, getattr(options, each.name)))


def optional(check: Check) -> Check:
    """Allow None, too."""
    return lambda name, value: None if value is None else check(name, value)


def whole(least: int) -> Check:
    """Allow whole numbers of at least ``least``."""
    return lambda name, value: check_whole(name, value, least)


def positive(*, finite: bool = True) -> Check:
    """Allow numbers above 0."""
    return lambda name, value: check_positive(name, value, finite=finite)


def number(low: float, high: float, *, above: bool = False, below: bool = False, words: str | None = None) -> Check:
    """Allow numbers between bounds, as :func:`art_classwise.errors.check_number`."""
    return lambda name, value: check_number(name, value, low, high, above=above, below=below, words=words)
