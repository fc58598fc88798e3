"""Digests that tell values and examples apart. Stored audits and trainings hold them: they must never change."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["digest", "examples_fingerprint", "file_digest", "fingerprint"]


def digest(content: bytes) -> str:
    """Return the SHA-256 of bytes, 64 hexadecimal digits, as ``sha256sum`` prints it of a file."""
    return hashlib.sha256(content).hexdigest()


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, as ``sha256sum`` prints it, without holding the file in memory.

    Raises:
        OSError: It can't be read.
    """
    of = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            of.update(block)
    return of.hexdigest()


def fingerprint(value: Any) -> str:
    """Return 32 hexadecimal digits that tell plain values apart: numbers, texts, lists, dicts."""
    return hashlib.sha256(json.dumps(_whole(value), sort_keys=True, ensure_ascii=True).encode()).hexdigest()[:32]


def _whole(value: Any) -> Any:
    """Write 2.0 as 2: the two are equal."""
    if isinstance(value, Mapping):
        return {k: _whole(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_whole(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def examples_fingerprint(x: Any, y: npt.NDArray[np.int64]) -> str:
    """Return 16 hexadecimal digits that tell training examples apart: by the labels, the shape and up to 64 images.

    Args:
        x: Images (n, ...), or what gives such by rows.
        y: (n,) their labels.
    """
    some = np.linspace(0, len(x) - 1, min(len(x), 64)).astype(np.int64)
    digest = hashlib.sha256(repr((len(x), *x.shape[1:])).encode())
    digest.update(np.ascontiguousarray(y).tobytes())
    digest.update(np.ascontiguousarray(x[some], dtype=np.float32).tobytes())
    return digest.hexdigest()[:16]
