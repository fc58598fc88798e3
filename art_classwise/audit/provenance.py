"""Where numbers come from: versions, hardware, parameters."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache, lru_cache, partial
from importlib.metadata import PackageNotFoundError, distribution, distributions, version
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from pydantic import Field
from torch import Tensor, nn

from art_classwise._core.fingerprints import digest, file_digest, fingerprint
from art_classwise._core.progress import progress_bar
from art_classwise._core.records import Record
from art_classwise.attacks.transfer import TransferAttack
from art_classwise.datasets import Dataset, LazyImages

__all__ = [
    "Environment",
    "data_fingerprint",
    "environment",
    "file_digests",
    "fingerprint",
    "is_fingerprint",
    "model_fingerprint",
    "parameters",
    "processor",
    "weights_fingerprint",
]

_PACKAGES = (
    "art-classwise",
    "adversarial-robustness-toolbox",
    "torch",
    "torchvision",
    "robustbench",
    "numpy",
)


# What version 0.1.0 wrote for its attacks, by kind: stored fingerprints hold it, wherever the classes lie now.
_WRITTEN = {
    "AutoAttack": "art_classwise.attacks.autoattack.AutoAttack",
    "ClassWiseAttack": "art_classwise.attacks.classwise.ClassWiseAttack",
    "PGD": "art_classwise.attacks.pgd.PGD",
    "TemperaturePGD": "art_classwise.attacks.temperature_pgd.TemperaturePGD",
    "TransferAttack": "art_classwise.attacks.transfer.TransferAttack",
}

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


_FINGERPRINT = re.compile(r"[0-9a-f]{32}")


def is_fingerprint(value: str) -> bool:
    """Return whether this is a fingerprint: 32 hexadecimal digits, which can name a folder."""
    return _FINGERPRINT.fullmatch(value) is not None


class Environment(Record):
    """Versions and hardware of a process that computed outcomes.

    Attributes:
        python: Version of Python.
        versions: Versions of packages by name.
        system: Operating system and machine.
        cpu: Name of the processor.
        cpu_cores: How many; None where it isn't known.
        torch_threads: Threads of torch.
        gpus: Names of the GPUs.
        cuda: Version of CUDA that torch was built for; None for none.
        cuda_driver: Version of NVIDIA's driver, where there is one.
        packages: Versions of all installed packages by name; none in audits of earlier releases.
        commit: Of the package's own repository, where it was installed from one.
    """

    python: str
    versions: dict[str, str]
    system: str
    cpu: str
    cpu_cores: int | None
    torch_threads: int
    gpus: tuple[str, ...]
    cuda: str | None = None
    cuda_driver: str | None = None
    packages: dict[str, str] = Field(default_factory=dict)
    commit: str | None = None


def environment() -> Environment:
    """Return this process's versions and hardware."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Environment(
        python=platform.python_version(),
        versions=dict(_versions()),
        system=f"{platform.system()} {platform.machine()}",
        cpu=processor(),
        cpu_cores=os.cpu_count(),
        torch_threads=torch.get_num_threads(),
        gpus=tuple(gpus),
        cuda=torch.version.cuda,
        cuda_driver=_driver(),
        packages=dict(_packages()),
        commit=_commit(),
    )


@cache  # read from files, for each shard otherwise
def _versions() -> Mapping[str, str]:
    versions = {}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


@cache
def _packages() -> Mapping[str, str]:
    found: dict[str, str] = {}
    for one in distributions():
        with suppress(Exception):  # an installation that is broken is no reason to lose an audit
            found.setdefault(re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower(), one.version)
    return dict(sorted(found.items()))


@cache
def _driver() -> str | None:
    file = Path("/proc/driver/nvidia/version")
    told = re.search(r"\b\d+\.\d+(\.\d+)?\b", file.read_text(errors="replace")) if file.exists() else None
    return None if told is None else told[0]


@cache
def _commit() -> str | None:
    """Return the commit that the package was installed from (PEP 610), or that its own repository is at."""
    with suppress(PackageNotFoundError, ValueError, TypeError, AttributeError):
        told = json.loads(distribution("art-classwise").read_text("direct_url.json") or "")
        if found := told.get("vcs_info", {}).get("commit_id"):
            return str(found)
    git = Path(__file__).parents[2] / ".git"
    with suppress(OSError, ValueError):
        if git.is_file():  # a worktree
            git = (git.parent / git.read_text().partition("gitdir: ")[2].strip()).resolve()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head if _COMMIT.fullmatch(head) else None
        ref = head.removeprefix("ref: ")
        common = git / (git / "commondir").read_text().strip() if (git / "commondir").is_file() else git
        if (common / ref).is_file():
            head = (common / ref).read_text().strip()
        else:
            packed = [line.split() for line in (common / "packed-refs").read_text().splitlines()]
            head = next((parts[0] for parts in packed if parts[1:] == [ref]), "")
        return head if _COMMIT.fullmatch(head) else None
    return None


_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


@cache
def processor() -> str:
    """Return the name of the processor, or of its kind."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(errors="replace").splitlines() if file.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def parameters(attack: Any) -> dict[str, Any]:
    """Return an ART attack's class and parameters, as plain values.

    An attack of ours says its ``kind``, which stays when its class moves; others are known by their class's path, and
    so are classes made of ours, which don't inherit the name.
    """
    values: dict[str, Any] = {"class": _attack_class(attack)}
    unsaid = {"verbose", "summary_writer", "estimator", "classifier", "micro_batch_size"}  # they change no outcome
    unsaid |= getattr(attack, "redundant_params", frozenset())
    if getattr(attack, "uses_example_ids", False):
        unsaid.add("batch_size")  # others draw their random numbers by the batch
    # A transfer's surrogate is told even where it is the model under attack: on the others it is not.
    own = None if isinstance(attack, TransferAttack) else getattr(attack, "estimator", None)
    for name in attack.attack_params:
        if name not in unsaid:
            values[name] = _plain(getattr(attack, name, None), own)
    return values


def _attack_class(attack: Any) -> str:
    own = vars(type(attack)).get("kind")
    if own is None or type(attack).__module__.partition(".")[0] != "art_classwise":
        return _kind(attack)
    return _WRITTEN.get(own, f"art_classwise.{own}")


def weights_fingerprint(network: nn.Module) -> str:
    """Return 32 hexadecimal digits that tell networks apart by the names, shapes, types and bits of their weights."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        if not isinstance(value, Tensor) or value.is_quantized:  # a layer's extra state; packed weights
            digest.update(f"{name} {json.dumps(_plain(value))}\n".encode())
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def file_digests(data: Dataset, *, shown: bool = False) -> dict[str, str]:
    """Return the SHA-256 of the files that examples were read from, by their names, as far as they are known.

    Of images that each lie in a file of its own it is one for all: of the lines ``SHA-256  PATH`` that ``sha256sum``
    prints of them within their common folder, sorted by path. Files that are no longer there are left out.

    Args:
        data: The examples.
        shown: Whether to show progress, which files of many gigabytes need.
    """
    with suppress(OSError):
        if isinstance(data.x, LazyImages) and data.x.files:
            paths = sorted({*data.x.files})
            common = os.path.commonpath([os.path.dirname(path) for path in paths])
            lines = list[str]()
            with progress_bar(total=len(paths), name="image files", shown=shown, leave=False) as bar:
                for number, path in enumerate(paths):
                    if number % 100 == 0:
                        bar.at(f"{number:,} of {len(paths):,}")
                    lines.append(f"{_digest_of(path)}  {Path(os.path.relpath(path, common)).as_posix()}\n")
                    bar.update()
            return {f"{Path(common).name}/": digest("".join(lines).encode(errors="surrogateescape"))}
        return {Path(path).name: _digest_of(path) for path in data.files}
    return {}


def _digest_of(path: str) -> str:
    status = os.stat(path)
    return _read_digest(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _read_digest(path: str, size: int, changed: int) -> str:
    return file_digest(path)


def model_fingerprint(classifier: Any, weights: str | None = None) -> str:
    """Return 32 hexadecimal digits that tell ART classifiers apart.

    By their network's weights, and by its architecture: the kinds, names, settings and attributes of its layers, their
    functions among them, and ART's preprocessing. The code of a class is known by the class's name only.

    Args:
        classifier: An ART ``PyTorchClassifier``.
        weights: Its weights' fingerprint, where that is known already.
    """
    network: nn.Module = classifier.model
    layers = [
        (
            name,
            _kind(layer),
            _ADDRESS.sub("", layer.extra_repr()),
            {k: v for k, v in vars(layer).items() if _is_setting(k, v)},
        )
        for name, layer in network.named_modules()
    ]
    preprocessing = [
        (_kind(operation), {name: _plain(value) for name, value in sorted(vars(operation).items()) if name[0] != "_"})
        for operation in classifier.preprocessing_operations
    ]
    shape = [int(side) for side in classifier.input_shape]
    described = [layers, preprocessing, shape, int(classifier.nb_classes)]
    return fingerprint([weights or weights_fingerprint(network), _plain(described)])


def data_fingerprint(data: Dataset) -> str:
    """Return 32 hexadecimal digits that tell examples apart, and the order they come in.

    By their numbers, labels and class names, and by their pixels; images in files by what
    :attr:`art_classwise.datasets.LazyImages.fingerprint` says.
    """
    digest = hashlib.sha256(json.dumps([data.classes, list(data.x.shape)]).encode())
    digest.update(np.ascontiguousarray(data.ids, dtype=np.int64).tobytes())
    digest.update(np.ascontiguousarray(data.y, dtype=np.int64).tobytes())
    if isinstance(data.x, LazyImages):
        digest.update(data.x.fingerprint.encode())
    else:
        for begin in range(0, len(data), 512):
            digest.update(np.ascontiguousarray(data.x[begin : begin + 512]).tobytes())
    return digest.hexdigest()[:32]


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _is_setting(name: str, value: Any) -> bool:
    """Return whether a layer's attribute may decide what it computes."""
    if name.startswith("_") or name == "training":
        return False
    return callable(value) or isinstance(value, (bool, int, float, str, tuple, list, dict, np.ndarray, Tensor))


def _plain(value: Any, estimator: Any = None) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinity
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, EvasionAttack):  # an attack within another: a transfer's
        other = value.estimator
        surrogate = {} if other is estimator else {"estimator": model_fingerprint(other)}
        return parameters(value) | (surrogate if hasattr(other, "preprocessing_operations") else {})
    if isinstance(value, Mapping):
        return {str(k): _plain(v, estimator) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, estimator) for v in value]
    if isinstance(value, (FunctionType, MethodType, partial)):
        return _code(value)
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.dequantize() if value.is_quantized else value
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if isinstance(value, np.ndarray) and value.size <= 100:
        return _plain(value.tolist())
    if isinstance(value, np.ndarray) and value.dtype != object:
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return f"{value.dtype} array of shape {value.shape}, SHA-256 {digest[:32]}"
    # repr() may be endless, or hold an address; a class, or a function of torch's, has a name.
    return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else _kind(value)


def _code(function: Any) -> Any:
    """Return what tells functions apart: their code, and the values bound to them."""
    if isinstance(function, partial):
        return [_plain(function.func), _plain(function.args), _plain(function.keywords)]
    function = getattr(function, "__func__", function)
    name = f"{function.__module__}.{function.__qualname__}"
    if name.startswith("torch."):  # whose code changes from release to release
        return name
    bound = [*_cells(function), *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    values = [_code_digest(v.__code__) if isinstance(v, FunctionType) else _plain(v) for v in bound]
    return [name, _code_digest(function.__code__), values]


def _cells(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # an empty one
            yield cell.cell_contents


def _code_digest(code: CodeType) -> str:
    constants = [
        _code_digest(c) if isinstance(c, CodeType) else sorted(map(repr, c)) if isinstance(c, frozenset) else repr(c)
        for c in code.co_consts
    ]
    return hashlib.sha256(repr((code.co_code, code.co_names, constants)).encode()).hexdigest()[:32]
