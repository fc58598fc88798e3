"""Names and numbers, made fit to be shown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["difference", "interval", "p_value", "percent", "printable", "shorten"]


def percent(fraction: float) -> str:
    """Write a fraction in percent, without the sign; a dash where nothing is known."""
    return "–" if math.isnan(fraction) else f"{100 * fraction:.1f}"


def interval(value: float, low: float, high: float) -> str:
    """Write a fraction in percent with its interval; a dash where nothing is known."""
    return "–" if math.isnan(value) else f"{percent(value)} ({100 * low:.0f}–{100 * high:.0f})"


def difference(row: Mapping[str, Any] | pd.Series[Any]) -> tuple[str, str]:
    """Write a difference in points, and its interval in brackets; a dash and nothing where nothing is known."""
    value, low, high = (
        f"{100 * float(row[key]):+.1f}".replace("-", "\N{MINUS SIGN}") for key in ("difference", "low", "high")
    )
    return ("–", "") if "nan" in value else (value, f"({low} to {high})")


def p_value(value: float) -> str:
    """Write a p value; a dash where nothing is known."""
    return "–" if math.isnan(value) else "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def shorten(text: str, length: int) -> str:
    """Cut the middle out of a name longer than so many cells of a terminal; its end often tells it apart."""
    if cell_len(text) <= length:
        return text
    start, end = (set_cell_size(part, (length - 1) // 2).rstrip() for part in (text, text[::-1]))
    return f"{start}…{end[::-1]}"


def printable(text: str, *, keep: str = "") -> str:
    """Replace what would move the cursor or colour a terminal: names come from files of others.

    Args:
        text: The text.
        keep: What may stay, though it isn't printable: the ends of lines of our own text.
    """
    return "".join(c if c.isprintable() or c in keep else "\N{REPLACEMENT CHARACTER}" for c in text)
