"""Names and numbers, made fit to be shown."""

from __future__ import annotations

import math

__all__ = ["interval", "percent", "printable", "shorten"]


def percent(fraction: float) -> str:
    """Write a fraction in percent, without the sign; a dash where nothing is known."""
    return "–" if math.isnan(fraction) else f"{100 * fraction:.1f}"


def interval(value: float, low: float, high: float) -> str:
    """Write a fraction in percent with its interval; a dash where nothing is known."""
    return "–" if math.isnan(value) else f"{percent(value)} ({100 * low:.0f}–{100 * high:.0f})"


def shorten(text: str, length: int) -> str:
    """Cut the middle out of a long name, whose end often tells it apart."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


def printable(text: str) -> str:
    """Replace what would move the cursor or colour a terminal: names come from files of others."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
