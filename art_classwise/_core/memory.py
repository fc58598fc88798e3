"""How much memory there is: what a file asks for is compared with it before it is asked for."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from art_classwise.errors import InputError

__all__ = ["check_memory", "memory_size", "size_text"]

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


def memory_size() -> int:
    """Return how many bytes of memory this process may have at most: the machine's, a container's, or a limit's."""
    sizes = [1 << 62]
    with suppress(ValueError, OSError, AttributeError):  # not on Windows
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for name in _LIMITS:
        with suppress(OSError, ValueError):  # "max", say
            sizes.append(int(Path(name).read_text(encoding="ascii")))
    with suppress(ImportError, OSError, ValueError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            sizes.append(limit)
    return min(size for size in sizes if size > 0)


def check_memory(n_bytes: int, what: str, advice: str) -> None:
    """Refuse what can't fit into memory, before memory is asked for.

    Args:
        n_bytes: How many bytes are needed.
        what: What needs them, to begin the message: ``"data.npz, float32 (9, 3, 8, 8),"``.
        advice: What to do, a full sentence.

    Raises:
        InputError: The memory has fewer.
    """
    there = memory_size()
    if n_bytes > there:
        raise InputError(f"{what} takes {size_text(n_bytes)}, but there are {size_text(there)} of memory. {advice}")


def size_text(n_bytes: int) -> str:
    """Write a number of bytes: ``"3.2 GB"``."""
    size = float(n_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.0f} TB"
