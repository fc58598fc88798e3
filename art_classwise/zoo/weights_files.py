"""Files of weights: recognised before they are loaded, loaded without running what they hold."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from art_classwise.errors import InputError, first_line

__all__ = ["check_weights_file", "load_weights", "more_than_weights"]

_LEGACY = b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""What torch.save began with before 1.6, within a pickle: many of RobustBench's files do."""

_FOREIGN = {
    b"<": "holds a web page, not weights (a download that met a login or quota page)",
    b"{": "holds JSON, not weights",
    b"version https://git-lfs": "is a pointer of Git LFS, not the file it stands for: run git lfs pull",
    b"\x93NUMPY": "is an array of NumPy's, not a file of torch weights",
    b"\x89HDF": "is an HDF5 file, as Keras writes them, not a file of torch weights",
    b"\x1f\x8b": "is compressed by gzip: unpack it first",
}


def _recognised(path: Path) -> str | None:
    """Return what a file that can't be one of torch weights is, as the end of a sentence; nothing if it may be one.

    Raises:
        OSError: It can't be read.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "is empty"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"PK"):
        return _recognised_archive(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "is a safetensors file: load it into your module with safetensors.torch.load_model()"
    for beginning, is_what in _FOREIGN.items():
        if text.startswith(beginning):
            return is_what
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return None if _LEGACY in head[:64] else "is a pickle that torch.save() didn't write"
    return f"is not a file of torch weights (it begins with {head[:8]!r})"


def _recognised_archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError):
        return "is cut short (a download that broke off)"
    last = {name.rpartition("/")[2] for name in names}
    if "data.pkl" in last and "constants.pkl" not in last:
        return None
    if "data.pkl" in last:
        return "is a TorchScript archive: take torch.jit.load() and the state_dict() of what it returns"
    if any(name.endswith(".json") and "/models/" in f"/{name}" for name in names):
        return "is a program of torch.export: take torch.export.load() and the state_dict of what it returns"
    if names and all(name.endswith(".npy") for name in names):
        return "holds arrays of NumPy's, not torch weights"
    return f"is an archive without torch weights (it holds {', '.join(names[:3]) or 'nothing'})"


def check_weights_file(path: Path, advice: str) -> None:
    """Refuse what can't be a file of torch weights, saying what it holds.

    Args:
        path: The file.
        advice: What to do about it, a full sentence.

    Raises:
        InputError: The file is missing, can't be read, is empty, a web page, cut short, or of a foreign format.
    """
    try:
        if not path.exists():
            raise InputError(f"There is no file {path.absolute()}. {advice}")
        if not path.is_file():
            raise InputError(f"{path.absolute()} is not a file. {advice}")
        holds = _recognised(path)
    except OSError as error:
        raise InputError(
            f"{path.absolute()} can't be read ({error.strerror or first_line(error)}). {advice}"
        ) from error
    if holds is not None:
        raise InputError(f"{path.absolute()} {holds}. {advice}")


def more_than_weights(error: BaseException) -> str | None:
    """Return what torch found beside weights, as the end of a sentence, if its error says that it did."""
    found = re.search(r"(?:GLOBAL|[Cc]lass) ([\w.]+)", str(error))
    if found is None:
        return None
    name = found[1]
    if name.startswith(("torch.nn.", "torchvision.models.", "timm.models.")):
        return f"a whole module (its class {name})"
    return "numbers or arrays of NumPy's" if name.startswith("numpy.") else f"an object of the class {name}"


def load_weights(path: Path, advice: str) -> Any:
    """Load a file of weights with ``weights_only=True``, on the CPU.

    Raises:
        InputError: As :func:`check_weights_file`; or the file is damaged, or holds more than weights.
    """
    check_weights_file(path, advice)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Validating sparse tensor")  # it takes longer, that is all
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of any kind: what a damaged pickle makes its reader do, nobody foresees
        found = more_than_weights(error) if isinstance(error, pickle.UnpicklingError) else None
        if found is None:
            said = "" if isinstance(error, pickle.UnpicklingError) else f": {first_line(error).rstrip('.')}"
            raise InputError(f"{path.absolute()} is damaged{said}. {advice}") from error
        raise InputError(
            f"{path.absolute()} holds more than weights: {found}. Loading that may run any program, so it isn't "
            "loaded. If you trust its author, load it yourself, torch.load(path, weights_only=False), and save the "
            f"state_dict() alone. {advice}"
        ) from error
