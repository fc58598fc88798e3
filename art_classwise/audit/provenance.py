"""Where numbers come from: versions, hardware, parameters."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from art.attacks.attack import EvasionAttack

__all__ = ["environment", "parameters"]

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
    unsaid = {"verbose", "summary_writer", "estimator", "classifier"}  # no parameters of what is computed
    if getattr(attack, "uses_example_ids", False):
        unsaid.add("batch_size")  # others draw their random numbers by the batch
    for name in attack.attack_params:
        if name not in unsaid:
            values[name] = _plain(getattr(attack, name, None))
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinity
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, EvasionAttack):  # an attack within another: a transfer's
        return parameters(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray) and value.size <= 100:
        return _plain(value.tolist())
    return f"{type(value).__module__}.{type(value).__qualname__}"  # repr() may be endless, or hold an address
