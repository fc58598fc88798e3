"""Words that depend on a number."""

from __future__ import annotations

__all__ = ["more"]


def more(n: int, one: str, many: str | None = None) -> str:
    """Return ``"1 more class"`` or ``"1,200 more classes"``.

    Args:
        n: How many.
        one: The word for one.
        many: That for several; ``one`` with an s or es, if absent.
    """
    several = many or f"{one}{'es' if one.endswith('s') else 's'}"
    return f"{n:,} more {one if n == 1 else several}"
