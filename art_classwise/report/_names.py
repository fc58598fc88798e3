"""Names of classes and models, made fit to be shown."""

from __future__ import annotations

__all__ = ["printable", "shorten"]


def shorten(text: str, length: int) -> str:
    """Cut the middle out of a long name, whose end often tells it apart."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


def printable(text: str) -> str:
    """Replace what would move the cursor or colour a terminal: names come from files of others."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
