"""RobustBench's zoo: the names and files of its models, and what it published of them."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from fractions import Fraction
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch

from art_classwise.datasets import catalog
from art_classwise.errors import InputError, unknown

__all__ = [
    "DATASETS",
    "THREATS",
    "Published",
    "check_model",
    "check_zoo",
    "cuda_optional",
    "published",
    "robustbench",
    "robustbench_board",
    "robustbench_files",
    "robustbench_names",
    "robustbench_table",
]

THREATS = ("Linf", "L2", "corruptions")
"""Threat models of its leaderboards."""
DATASETS = {spec.robustbench: spec for spec in catalog.DATASETS.values() if spec.robustbench is not None}
"""Data sets that it has models for, by its names."""


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
    if dataset not in DATASETS:
        raise unknown("RobustBench data set", dataset, DATASETS)
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


@dataclass(frozen=True)
class Published:
    """What RobustBench published of a model. Accuracies are fractions of the test set, of ImageNet's 5,000 images.

    Attributes:
        architecture: In RobustBench's words.
        clean: Accuracy on natural images.
        robust: Accuracy under AutoAttack; under common corruptions in the leaderboards of these.
        external: Accuracy under an attack that broke more than AutoAttack did, by which RobustBench ranks the model
            then; None if there is none.
        eps: Radius of the perturbations, in the units of images in [0, 1]; None for corruptions.
    """

    architecture: str
    clean: float
    robust: float
    external: float | None
    eps: float | None


def published(name: str, dataset: str = "cifar10", threat_model: str = "Linf") -> Published | None:
    """Return what RobustBench published of a model, as of its release 1.1.1. RobustBench isn't imported.

    Args:
        name: As in its tables, e.g. ``"Wong2020Fast"``.
        dataset: ``"cifar10"``, ``"cifar100"`` or ``"imagenet"``.
        threat_model: ``"Linf"``, ``"L2"`` or ``"corruptions"``.

    Returns:
        The numbers; None of a model that it has none of.

    Raises:
        InputError: Unknown data set or threat model.

    Example:
        >>> published("Wong2020Fast").robust
        0.4321
    """
    check_zoo(dataset, threat_model)
    return _all().get((dataset, threat_model, name))


def robustbench_table(
    dataset: str = "cifar10", threat_model: str = "Linf", model_dir: str | os.PathLike[str] = "models"
) -> pd.DataFrame:
    """Return the models of RobustBench's zoo with what was published of them.

    Args:
        dataset: ``"cifar10"``, ``"cifar100"`` or ``"imagenet"``.
        threat_model: ``"Linf"``, ``"L2"`` or ``"corruptions"``.
        model_dir: Folder of the zoo, as for :func:`load_robustbench`.

    Returns:
        A row for each model, by ``name``, the most robust first: the columns of :class:`Published`, NaN where nothing
        was published, and ``here``, whether all of its files lie in the folder. Of a model that torchvision or timm
        keep in a cache of their own, ``here`` is False.

    Raises:
        InputError: RobustBench has no such data set or threat model.
    """
    names = robustbench_names(dataset, threat_model)
    columns = [field.name for field in fields(Published)]
    rows = [_all().get((dataset, threat_model, name)) for name in names]
    table = pd.DataFrame(
        [[None] * len(columns) if row is None else astuple(row) for row in rows],
        index=pd.Index(names, name="name"),
        columns=columns,
    )
    numbers = columns[1:]
    table[numbers] = table[numbers].astype(np.float64)
    expected = (robustbench_files(name, dataset, threat_model, model_dir) for name in names)
    table["here"] = [bool(paths) and all(path.is_file() for path in paths) for paths in expected]
    return table.sort_values("robust", ascending=False, kind="stable")  # NaN comes last


def robustbench_board(dataset: str = "cifar10", threat_model: str = "Linf") -> pd.DataFrame:
    """Return RobustBench's published leaderboard, also the models that its zoo doesn't load, without importing it.

    Args:
        dataset: ``"cifar10"``, ``"cifar100"`` or ``"imagenet"``.
        threat_model: ``"Linf"``, ``"L2"`` or ``"corruptions"``.

    Returns:
        A row for each model, by ``name``, in the order of the leaderboard: ``rank``; the columns of :class:`Published`;
        and ``ranked``, the accuracy by which it ranks: that under AutoAttack, or under an attack that broke more.

    Raises:
        InputError: RobustBench has no such leaderboard.

    Example:
        >>> print(len(robustbench_board()), robustbench_board("cifar10", "Linf").index[-1])
        100 Alfarra2020ClusTR
    """
    check_zoo(dataset, threat_model)
    found = {name: row for (at, threat, name), row in _all().items() if (at, threat) == (dataset, threat_model)}
    if not found:
        boards = sorted({f"{at} {threat}" for at, threat, _ in _all()})
        raise InputError(f"RobustBench has no {threat_model} leaderboard of {dataset}; it has {', '.join(boards)}.")
    columns = [field.name for field in fields(Published)]
    table = pd.DataFrame([astuple(row) for row in found.values()], pd.Index(found, name="name"), columns)
    table[columns[1:]] = table[columns[1:]].astype(np.float64)
    table["ranked"] = table["external"].fillna(table["robust"])
    table = table.sort_values(["ranked", "clean"], ascending=False, kind="stable")
    table.insert(0, "rank", table["ranked"].rank(method="min", ascending=False).astype(int))
    return table


@cache
def _all() -> dict[tuple[str, str, str], Published]:
    """Read published.csv: percents as printed in RobustBench's README and in its files ``model_info/``."""
    text = (files("art_classwise.zoo") / "published.csv").read_text(encoding="utf-8")

    def fraction(percent: str) -> float:
        return float(Fraction(percent) / 100)

    return {
        (row["dataset"], row["threat_model"], row["name"]): Published(
            architecture=row["architecture"],
            clean=fraction(row["clean"]),
            robust=fraction(row["robust"]),
            external=fraction(row["external"]) if row["external"] else None,
            eps=float(Fraction(row["eps"])) if row["eps"] else None,
        )
        for row in csv.DictReader(text.splitlines())
        if row["clean"] and row["robust"]
    }
