"""Files of weights: recognised before they are loaded, loaded without running what they hold."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pickle
import re
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import torch
from pydantic import PlainValidator
from torch import Tensor, nn

from art_classwise._core.archives import checked_directory, damaged_entry
from art_classwise._core.files import read_regular
from art_classwise._core.memory import check_memory, size_text
from art_classwise.errors import InputError, first_line, printable, unknown

__all__ = [
    "HUB",
    "StateDict",
    "check_weights_file",
    "load_weights",
    "more_than_weights",
    "open_weights",
    "renamed_to_fit",
    "weights_within",
]


def _state_dict(value: Any) -> Any:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ValueError("must be weights by name")
    return value


StateDict: TypeAlias = Annotated[dict[str, Any], PlainValidator(_state_dict)]
"""A network's weights in a file, by name: the object itself, which says the versions of its layers, too."""

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
    if _is_safetensors(path):
        return None
    if path.suffix == ".onnx":
        return "is an ONNX graph, which has no gradients to attack: take the torch module that it was exported from"
    for beginning, is_what in _FOREIGN.items():
        if text.startswith(beginning):
            return is_what
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return None if _LEGACY in head[:64] else "is a pickle that torch.save() didn't write"
    return f"is not a file of torch weights (it begins with {head[:8]!r})"


def _recognised_archive(path: Path) -> str | None:
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OverflowError):
            return "is cut short (a download that broke off)"
        last = {name.rpartition("/")[2] for name in names}
        if "data.pkl" not in last:
            if any(name.endswith(".json") and "/models/" in f"/{name}" for name in names):
                return "is a program of torch.export: take torch.export.load() and the state_dict of what it returns"
            if names and all(name.endswith(".npy") for name in names):
                return "holds arrays of NumPy's, not torch weights"
            return f"is an archive without torch weights (it holds {printable(', '.join(names[:3])) or 'nothing'})"
        if "constants.pkl" in last:
            return "is a TorchScript archive: take torch.jit.load() and the state_dict() of what it returns"
        try:
            entries = checked_directory(file)
        except ValueError as error:
            return str(error)
    return damaged_entry(path, entries)


def check_weights_file(path: Path, advice: str) -> None:
    """Refuse what can't be a file of torch weights, saying what it holds.

    Args:
        path: The file.
        advice: What to do about it, a full sentence.

    Raises:
        InputError: The file is missing, can't be read, is empty, a web page, cut short, larger than the memory, of a
            foreign format, or damaged: an entry of its archive isn't as it was written.
    """
    try:
        if not path.exists():
            raise InputError(f"There is no file {path.absolute()}. {advice}")
        if not path.is_file():
            raise InputError(f"{path.absolute()} is not a file. {advice}")
        check_memory(path.stat().st_size, str(path.absolute()), advice)
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
    """Load a file of weights on the CPU, without running what it holds.

    Beside weights it may hold numbers and arrays of NumPy's and ``argparse.Namespace``s, which run nothing.

    Args:
        path: Written by ``torch.save`` or by safetensors.
        advice: What to do if it can't be loaded, a full sentence.

    Raises:
        InputError: As :func:`check_weights_file`; or the file is damaged, or holds more than weights.
    """
    check_weights_file(path, advice)
    try:
        if _is_safetensors(path):
            content = importlib.import_module("safetensors.torch").load_file(path)
        else:
            with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
                warnings.filterwarnings("ignore", message="Validating sparse tensor")  # it takes longer, that is all
                content = torch.load(path, map_location="cpu", weights_only=True)
    except ModuleNotFoundError as error:
        raise InputError(f"{path.absolute()} is a safetensors file: pip install safetensors.") from error
    except MemoryError as error:
        raise InputError(f"{path.absolute()} doesn't fit into memory. {advice}") from error
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
    claimed, held = _claimed(content), path.stat().st_size
    if claimed > _MOST_TIMES * held + _LITTLE:
        raise InputError(
            f"{path.absolute()} has {size_text(held)}, but its tensors claim {size_text(claimed)}: they show the "
            f"same numbers again and again. {advice}"
        )
    return content


_MOST_TIMES, _LITTLE = 16, 1 << 26
"""How many bytes tensors may claim for each byte of their file, and beside: weights that layers share stand there once,
and sparse ones without their zeros; but a single number can claim to be any shape."""


def _claimed(content: Any) -> int:
    """Return how many bytes tensors, nested in dicts and lists, would have as arrays of their own."""
    total, left, seen = 0, [content], set()
    while left:
        value = left.pop()
        if isinstance(value, Tensor):
            total += value.numel() * value.element_size()
        elif isinstance(value, (Mapping, list, tuple)) and id(value) not in seen:
            seen.add(id(value))  # one that holds itself, or the same one many times
            left += value.values() if isinstance(value, Mapping) else value
    return total


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def _harmless() -> list[Any]:
    """Return what training scripts keep beside weights, and what does nothing but hold values."""
    scalar: Any = np.float64(0).__reduce__()[0]
    rebuilt: Any = np.zeros(0).__reduce__()[0]
    types = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdFDSU"}
    # Files of NumPy 1 name the functions by another module.
    older = [(f, f"numpy.core.multiarray.{f.__name__}") for f in (scalar, rebuilt)]
    return [argparse.Namespace, scalar, rebuilt, np.ndarray, np.dtype, *types, *older]


HUB = "hf:"
"""Before the name of a model on the Hugging Face hub."""

_SHARDED, _FILES = ".index.json", ("model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")
_MOST_OF_INDEX = 1 << 26  # bytes: it names each weight


def open_weights(source: str | os.PathLike[str], key: str | None = None) -> tuple[str, dict[str, Any]]:
    """Return where weights come from, in words, and a state dict.

    Args:
        source: A file; a folder as Hugging Face's ``save_pretrained`` writes it; or ``"hf:ORGANISATION/NAME"``.
        key: As for :func:`weights_within`.

    Raises:
        InputError: There are no weights, or the hub can't be reached.
    """
    advice = "Weights are in files that torch.save() or safetensors wrote."
    if str(source).startswith(HUB):
        files = _from_hub(str(source).removeprefix(HUB))
    elif os.path.isdir(source):
        files = _in_folder(Path(source))
    else:
        files = [Path(source)]
    holder = str(source) if str(source).startswith(HUB) else str(Path(source).absolute())
    weights: dict[str, Any] = {}
    for file in files:
        weights |= weights_within(load_weights(file, advice), holder, key)
    return holder, weights


def _in_folder(folder: Path) -> list[Path]:
    for name in _FILES:
        if (folder / name).is_file():
            return [folder / name]
        if (index := folder / f"{name}{_SHARDED}").is_file():
            return [folder / part for part in _shards(index)]
    names = sorted(path.name for path in folder.iterdir())
    raise InputError(
        f"The folder {folder.absolute()} has none of the files {', '.join(_FILES)}: name the file of the weights"
        + (f", one of {', '.join(names[:5])}, perhaps." if names else ".")
    )


def _shards(index: Path) -> list[str]:
    """Return the names of the files that weights are split over."""
    try:
        parts = sorted({*json.loads(read_regular(index, _MOST_OF_INDEX).decode("utf-8"))["weight_map"].values()})
    except OSError as error:
        raise InputError(f"{index.absolute()} can't be read: {error.strerror}.") from error
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index.absolute()} is damaged: it doesn't say which files hold the weights.") from error
    if not all(isinstance(part, str) and Path(part).name == part for part in parts):
        raise InputError(f"{index.absolute()} names files outside its folder.")
    return parts


def _from_hub(name: str) -> list[Path]:
    try:
        hub = importlib.import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise InputError(f"{HUB}{name} is on the Hugging Face hub: pip install huggingface_hub.") from error
    problem: Exception | None = None
    for only_cached in (True, False):
        try:
            options = {"allow_patterns": [*_FILES, f"*{_SHARDED}", "*.safetensors"], "local_files_only": only_cached}
            return _in_folder(Path(hub.snapshot_download(name, **options)))
        except Exception as error:  # of the hub's library, requests and the cache: of any kind
            problem = error
    raise InputError(
        f"{HUB}{name} is neither in the cache of the Hugging Face hub nor can it be downloaded "
        f"({first_line(problem) if problem else ''})."
    ) from problem


_WITHIN = ("state_dict", "model_state_dict", "net", "model", "network", "ema", "ema_state_dict", "weights", "params")
"""Where training scripts keep the weights in what they save, the likeliest first."""


def weights_within(content: Any, holder: str, key: str | None = None) -> dict[str, Any]:
    """Return the state dict that a file holds, by itself or beside an optimizer, an epoch and the like.

    Args:
        content: What :func:`load_weights` returned.
        holder: What holds it, to begin a message.
        key: Of the state dict in ``content``, if it isn't one itself; a dotted path where it lies deeper.

    Raises:
        InputError: There is no state dict, or none at ``key``.
    """
    if key is not None:
        for part in key.split("."):
            if not isinstance(content, Mapping) or part not in content:
                known = [str(k) for k in content] if isinstance(content, Mapping) else []
                raise unknown(f"key in {holder}", part, known)
            content = content[part]
    if _is_state_dict(content):
        return dict(content)
    dicts = {k: v for k, v in content.items() if isinstance(v, Mapping)} if isinstance(content, Mapping) else {}
    named = [name for name in _WITHIN if name in dicts]
    held = [name for name in (*named, *(k for k in dicts if k not in named)) if _is_state_dict(dicts[name])]
    if held:
        others = [name for name in held[1:] if name in _WITHIN]
        if others:
            warnings.warn(
                f"{holder} holds the weights {', '.join(map(repr, held))}: {held[0]!r} are taken. In Python, "
                f"`key={others[0]!r}` takes the others.",
                stacklevel=3,
            )
        return dict(dicts[held[0]])
    for name in named:  # Lightning's, Hugging Face's and others' lie one deeper
        with suppress(InputError):
            return weights_within(dicts[name], holder)
    what = f"a {type(content).__name__}" + (f" of {', '.join(map(str, list(content)[:5]))}" if dicts else "")
    raise InputError(f"{holder} holds {what}, but no weights: save the model's state_dict() with torch.save.")


def _is_state_dict(content: Any) -> bool:
    """Return whether this maps names to tensors; a layer may keep something else as its extra state."""
    if not isinstance(content, Mapping) or not content:
        return False
    tensors = sum(isinstance(value, Tensor) for value in content.values())
    return tensors > 0.5 * len(content) and all(isinstance(name, str) for name in content)


def renamed_to_fit(weights: Mapping[str, Any], module: nn.Module, holder: str) -> dict[str, Any]:
    """Return weights under the names that a module has for them, where a wrapper's prefix is what differs.

    ``module.`` of DataParallel, ``_orig_mod.`` of torch.compile, ``model.`` of Lightning, or any other that most names
    share; or the module has the prefix and the weights don't. Weights without the prefix, of a loss or of a copy, are
    left out, which is warned of. Counters of batches that old batch norms lack stay as the module has them.

    Args:
        weights: A state dict.
        module: The module.
        holder: What holds the weights, to begin a message.
    """
    own = module.state_dict()
    plain = {name.replace("_orig_mod.", ""): value for name, value in weights.items()}
    mine = {name.replace("_orig_mod.", ""): name for name in own}
    taken: Counter[str] = Counter()
    for name in plain:
        for cut in _beginnings(name):
            taken[cut] += name[len(cut) :] in mine
    prefix = max(taken, key=lambda cut: (taken[cut], -len(cut)), default="")
    added: Counter[str] = Counter()
    for name in mine:
        for cut in _beginnings(name):
            added[cut] += name[len(cut) :] in plain
    extra = max(added, key=lambda cut: (added[cut], -len(cut)), default="")
    if added[extra] > taken[prefix]:
        fitted = {mine.get(f"{extra}{name}", f"{extra}{name}"): value for name, value in plain.items()}
    else:
        within = {name[len(prefix) :]: value for name, value in plain.items() if name.startswith(prefix)}
        fitted = {mine.get(name, name): value for name, value in within.items()}
        if len(within) < len(plain) and own.keys() <= fitted.keys():
            left_out = [name for name in plain if not name.startswith(prefix)]
            warnings.warn(
                f"{holder} holds more than the weights of the {type(module).__name__}: those that begin with "
                f"{prefix!r} are taken, and {left_out[0]!r} and {len(left_out) - 1} more left out.",
                stacklevel=3,
            )
        elif len(within) < len(plain):
            fitted = {mine.get(name, name): value for name, value in plain.items()}  # the message names what is there
    counters = {k: v for k, v in own.items() if k.endswith("num_batches_tracked") and k not in fitted}
    return fitted | counters if own.keys() <= fitted.keys() | counters.keys() else fitted


def _beginnings(name: str) -> Iterator[str]:
    """Give the dotted prefixes of a name, none first: ``""``, ``"model."``, ``"model.0."``."""
    yield ""
    for place in range(len(name)):
        if name[place] == ".":
            yield name[: place + 1]
