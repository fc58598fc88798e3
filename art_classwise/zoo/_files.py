"""Files of weights: recognised before they are loaded, loaded without running what they hold."""

from __future__ import annotations

import pickle
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from art_classwise.errors import InputError, first_line

__all__ = ["check_weights_file", "load_weights"]

_LEGACY_PICKLE = b"\x80\x02"  # torch.save before 1.6, as many of RobustBench's files are


def check_weights_file(path: Path, advice: str) -> None:
    """Refuse what can't be a file of torch weights, saying what it holds.

    Args:
        path: The file.
        advice: What to do about it, a full sentence.

    Raises:
        InputError: The file is missing, empty, a web page, cut short, or of a foreign format.
    """
    if not path.exists():
        raise InputError(f"There is no file {path.absolute()}. {advice}")
    if not path.is_file():
        raise InputError(f"{path.absolute()} is not a file. {advice}")
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        holds = "is empty"
    elif head.lstrip()[:1] == b"<":
        holds = "holds a web page, not weights (a download that met a login or quota page)"
    elif head.startswith(b"PK"):
        with suppress(zipfile.BadZipFile):
            if zipfile.is_zipfile(path):
                return
        holds = "is cut short (a download that broke off)"
    elif head.startswith((_LEGACY_PICKLE, b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return
    else:
        holds = f"is not a file of torch weights (it begins with {head[:8]!r})"
    raise InputError(f"{path.absolute()} {holds}. {advice}")


def load_weights(path: Path, advice: str) -> Any:
    """Load a file of weights with ``weights_only=True``, on the CPU.

    Raises:
        InputError: As :func:`check_weights_file`; or the file is damaged, or holds more than weights.
    """
    check_weights_file(path, advice)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path.absolute()} holds more than weights, or is damaged: {first_line(error)} {advice}"
        ) from error
    except Exception as error:  # of any kind: what a damaged pickle makes its reader do, nobody foresees
        raise InputError(f"{path.absolute()} is damaged: {first_line(error)}. {advice}") from error
