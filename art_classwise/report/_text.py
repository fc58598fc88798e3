"""Names and numbers, made fit to be shown."""

from __future__ import annotations

import math

from rich.cells import cell_len, set_cell_size

__all__ = ["interval", "percent", "printable", "shorten"]


def percent(fraction: float) -> str:
    """Write a fraction in percent, without the sign; a dash where nothing is known."""
    return "–" if math.isnan(fraction) else f"{100 * fraction:.1f}"


def interval(value: float, low: float, high: float) -> str:
    """Write a fraction in percent with its interval; a dash where nothing is known."""
    return "–" if math.isnan(value) else f"{percent(value)} ({100 * low:.0f}–{100 * high:.0f})"


def shorten(text: str, length: int) -> str:
    """Cut the middle out of a name longer than so many cells of a terminal; its end often tells it apart."""
    if cell_len(text) <= length:
        return text
    start, end = (set_cell_size(part, (length - 1) // 2).rstrip() for part in (text, text[::-1]))
    return f"{start}…{end[::-1]}"


def printable(text: str) -> str:
    """Replace what would move the cursor or colour a terminal: names come from files of others."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
