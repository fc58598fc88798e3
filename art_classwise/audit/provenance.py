"""Where numbers come from: versions, hardware, parameters."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from torch import Tensor, nn

from art_classwise.datasets import Dataset, LazyImages

__all__ = ["data_fingerprint", "environment", "fingerprint", "model_fingerprint", "parameters", "weights_fingerprint"]

_PACKAGES = (
    "art-classwise",
    "adversarial-robustness-toolbox",
    "torch",
    "torchvision",
    "robustbench",
    "numpy",
)


def environment() -> dict[str, Any]:
    """Return versions and hardware, as plain values."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "versions": versions,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def parameters(attack: Any) -> dict[str, Any]:
    """Return an ART attack's class and parameters, as plain values."""
    values = {"class": f"{type(attack).__module__}.{type(attack).__qualname__}"}
    unsaid = {"verbose", "summary_writer", "estimator", "classifier", "micro_batch_size"}  # they change no outcome
    if getattr(attack, "uses_example_ids", False):
        unsaid.add("batch_size")  # others draw their random numbers by the batch
    for name in attack.attack_params:
        if name not in unsaid:
            values[name] = _plain(getattr(attack, name, None), getattr(attack, "estimator", None))
    return values


def fingerprint(value: Any) -> str:
    """Return 32 hexadecimal digits that tell plain values apart: numbers, texts, lists, dicts."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()[:32]


def weights_fingerprint(network: nn.Module) -> str:
    """Return 32 hexadecimal digits that tell networks apart by the names, shapes, types and bits of their weights."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def model_fingerprint(classifier: Any) -> str:
    """Return 32 hexadecimal digits that tell ART classifiers apart.

    By their network's weights, and by its architecture: the kinds, names, settings and plain attributes of its layers,
    and ART's preprocessing. What a network computes in Python code of its own is known by its class's name only.

    Args:
        classifier: An ART ``PyTorchClassifier``.
    """
    network: nn.Module = classifier.model
    layers = [
        (name, _kind(layer), layer.extra_repr(), {k: v for k, v in vars(layer).items() if _tells(k, v)})
        for name, layer in network.named_modules()
    ]
    preprocessing = [
        (_kind(operation), {name: _plain(value) for name, value in sorted(vars(operation).items()) if name[0] != "_"})
        for operation in classifier.preprocessing_operations
    ]
    shape = [int(side) for side in classifier.input_shape]
    told = [layers, preprocessing, shape, int(classifier.nb_classes)]
    return fingerprint([weights_fingerprint(network), _plain(told)])


def data_fingerprint(data: Dataset) -> str:
    """Return 32 hexadecimal digits that tell examples apart, and the order they come in.

    By their numbers, labels and class names, and by their pixels; images in files by what
    :attr:`art_classwise.LazyImages.fingerprint` says.
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


def _tells(name: str, value: Any) -> bool:
    """Return whether a layer's attribute may decide what it computes."""
    if name.startswith("_") or name == "training":
        return False
    return isinstance(value, (bool, int, float, str, tuple, list, np.ndarray, Tensor))


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
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.size <= 100:
        return _plain(value.tolist())
    if isinstance(value, np.ndarray) and value.dtype != object:
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return f"{value.dtype} array of shape {value.shape}, SHA-256 {digest[:32]}"
    return _kind(value)  # repr() may be endless, or hold an address
