"""The terminal that tables are printed on; or the pipe or file, which has columns without end."""

from __future__ import annotations

import os

from rich.console import Console

__all__ = ["UNLIMITED", "console"]

UNLIMITED = 1_000_000
"""Columns where nothing limits them: more than any table needs."""


def console() -> Console:
    """Return stdout as rich has it: as wide as the terminal, or as ``COLUMNS`` says, and else without limit."""
    made = Console()
    limited = made.is_terminal or made.is_jupyter or bool(os.environ.get("COLUMNS"))
    return made if limited else Console(width=UNLIMITED)
