"""RobustBench's leaderboards: what it published of the models in its zoo, and which of them are at hand."""

from __future__ import annotations

import csv
import os
from dataclasses import astuple, dataclass, fields
from fractions import Fraction
from functools import cache
from importlib.resources import files

import numpy as np
import pandas as pd

from art_classwise.zoo.robustbench import check_zoo, robustbench_files, robustbench_names

__all__ = ["Published", "published", "robustbench_table"]


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
