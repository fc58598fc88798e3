"""RobustBench, through a guard that makes its released packages import: its models' names and their files."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from art_classwise.errors import InputError, unknown

__all__ = [
    "DATASETS",
    "SHAPES",
    "THREATS",
    "check_model",
    "check_zoo",
    "cuda_optional",
    "robustbench",
    "robustbench_files",
    "robustbench_names",
]

SHAPES: dict[str, tuple[tuple[int, int, int], int]] = {
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
    "imagenet": ((3, 224, 224), 1000),
}
"""The shape of an image and the number of classes, by data set."""
THREATS = ("Linf", "L2", "corruptions")
"""Threat models of its leaderboards."""
DATASETS = tuple(SHAPES)
"""Data sets that it has models for."""


def robustbench(submodule: str = "") -> Any:
    """Import RobustBench, or a submodule of it such as ``"model_zoo"``.

    RobustBench 1.1.1 imports ``autoattack`` but installs ``pyautoattack``: the name is provided while it
    imports, and taken away again. Where the real ``autoattack`` is installed, that one is used.

    Raises:
        InputError: It can't be imported.
    """
    try:
        # Its own imports warn of what it can't mend: pkg_resources, timm's old paths.
        with _autoattack_named(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(f"robustbench.{submodule}" if submodule else "robustbench")
    except ImportError as error:
        raise InputError(
            f"RobustBench can't be imported ({error}). Install it beside the setuptools it needs: "
            'pip install robustbench "setuptools<81"'
        ) from error


@contextmanager
def _autoattack_named() -> Iterator[None]:
    if "autoattack" in sys.modules or importlib.util.find_spec("autoattack") is not None:
        yield
        return
    before = set(sys.modules)
    package = importlib.import_module("pyautoattack")
    state = importlib.import_module("pyautoattack.state")
    sys.modules["autoattack"], sys.modules["autoattack.state"] = package, state
    try:
        yield
    finally:
        for name in [n for n in sys.modules if n.partition(".")[0] == "autoattack" and n not in before]:
            del sys.modules[name]


def robustbench_names(dataset: str = "cifar10", threat_model: str = "Linf") -> tuple[str, ...]:
    """Return the names of RobustBench's models for a data set and a threat model.

    Raises:
        InputError: It has no such data set or threat model.
    """
    return tuple(_table(dataset, threat_model))


def check_model(name: str, dataset: str, threat_model: str) -> None:
    """Check that RobustBench has a model.

    Raises:
        InputError: It hasn't; close names are listed.
    """
    _entry(name, dataset, threat_model)


def robustbench_files(
    name: str, dataset: str = "cifar10", threat_model: str = "Linf", model_dir: str | os.PathLike[str] = "models"
) -> dict[Path, str | None]:
    """Return where the files of a model's weights have to lie, each with its id on Google Drive.

    An ensemble has several; a model that timm fetches has one, without an id; one whose weights torchvision keeps in
    its own cache has none.

    Raises:
        InputError: Unknown model, data set or threat model.
    """
    listed = _entry(name, dataset, threat_model).get("gdrive_id")  # a list for an ensemble, None for timm's models
    folder = Path(model_dir) / dataset / threat_model
    if isinstance(listed, list):
        return {folder / f"{name}.pt_m{i}.pt": drive_id for i, drive_id in enumerate(listed)}
    return {} if listed == "" else {folder / f"{name}.pt": listed}


@contextmanager
def cuda_optional() -> Iterator[None]:
    """Let a model that calls ``.cuda()`` on constants while it is built be built where there is no GPU."""
    if torch.cuda.is_available():
        yield
        return
    with mock.patch.object(torch.Tensor, "cuda", lambda tensor, *_, **__: tensor):
        yield


def check_zoo(dataset: str, threat_model: str) -> None:
    """Check that RobustBench knows a data set and a threat model, though perhaps not both together.

    Raises:
        InputError: It doesn't.
    """
    if dataset not in SHAPES:
        raise unknown("RobustBench data set", dataset, SHAPES)
    if threat_model not in THREATS:
        raise unknown("RobustBench threat model", threat_model, THREATS)


def _table(dataset: str, threat_model: str) -> dict[str, Any]:
    check_zoo(dataset, threat_model)
    enums, tables = robustbench("model_zoo.enums"), robustbench("model_zoo").model_dicts
    by_threat = tables[enums.BenchmarkDataset(dataset)]
    threat = enums.ThreatModel(threat_model)
    if threat not in by_threat:
        have = ", ".join(t.value for t in by_threat)
        raise InputError(f"RobustBench has no {threat_model} models for {dataset}; it has {have}.")
    table: dict[str, Any] = by_threat[threat]
    return table


def _entry(name: str, dataset: str, threat_model: str) -> dict[str, Any]:
    table = _table(dataset, threat_model)
    if name not in table:
        raise unknown(f"RobustBench model for {dataset} {threat_model}", name, table)
    entry: dict[str, Any] = table[name]
    return entry
