"""What the experiments of small size share: networks, data, intervals over seeds."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import nn

import art_classwise as acw

THREATS = {"digits": "Linf:0.1", "mnist": "Linf:0.15", "cifar10": "Linf:8/255"}


def network(dataset: str, seed: int) -> nn.Module:
    """Return a fresh network: for MNIST one of few channels (two convolutions, 16 and 32 channels; 86,166 weights)."""
    if dataset == "digits":
        return acw.build("digits-cnn", (1, 8, 8), 10, seed=seed)
    if dataset == "cifar10":
        return acw.build("resnet18", (3, 32, 32), 10, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            *(nn.Conv2d(1, 16, 5, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(800, 100), nn.ReLU(), nn.Linear(100, 10)),
        )


def load(
    dataset: str, split: str, root: str | os.PathLike[str] | None, n_examples: int | None = None, seed: int = 0
) -> acw.Dataset:
    """Return a data set, or so many examples of it, drawn in proportion to the classes.

    Args:
        dataset: ``"digits"``, ``"mnist"`` or ``"cifar10"``.
        split: ``"train"`` or ``"test"``.
        root: Folder of the data sets, or of CIFAR-10 of the files cifar10_train.npz and cifar10_test.npz.
        n_examples: How many; all if absent.
        seed: Of the drawing.
    """
    packed = Path(root or ".") / f"{dataset}_{split}.npz"
    if packed.is_file():
        data = acw.load_dataset(packed, split, classes=dataset)
    else:
        data = acw.load_dataset(dataset, split, root=root)
    return data if n_examples is None or n_examples >= len(data) else data.hold_out(n_examples, seed=seed)[1]


def arguments_parser(doc: str | None, datasets: Iterable[str], store: str) -> argparse.ArgumentParser:
    """Return what reads the command line of an experiment.

    Args:
        doc: The script's docstring.
        datasets: Names of the data sets that it has sizes for.
        store: Folder for what is done already.
    """
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument("--dataset", choices=sorted(datasets), required=True)
    parser.add_argument("--root", help="folder of the data sets")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--store", type=Path, default=Path(store), help="what is done already")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the tables")
    for name in ("epochs", "n-train", "n-test", "steps"):
        parser.add_argument(f"--{name}", type=int, help="another size, to try the script")
    return parser


def command(script: str, arguments: argparse.Namespace) -> str:
    """Return the command line that a run had, but for its folders."""
    parts = [f"python evaluations/{Path(script).name}"]
    for name, value in vars(arguments).items():
        if value is not None and name not in ("root", "store", "out"):
            values = value if isinstance(value, list) else [value]
            parts.append(f"--{name.replace('_', '-')} {' '.join(map(str, values))}")
    return " ".join(parts)


def check_size(store: Path, size: Mapping[str, Any]) -> None:
    """Stop if a store holds trainings of another size than this; note there what they are of."""
    held, told = store / "size.json", json.loads(json.dumps(dict(size)))
    if held.exists() and json.loads(held.read_text()) != told:
        sys.exit(f"error: {store} holds trainings of another size: choose another --store, or remove it")
    store.mkdir(parents=True, exist_ok=True)
    held.write_text(json.dumps(told))


def over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of a value over seeds, and its 95 % interval by Student's t."""
    a = np.asarray(values, dtype=np.float64)
    mean = float(a.mean())
    if len(a) < 2:
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf(0.975, len(a) - 1) * a.std(ddof=1) / np.sqrt(len(a)))
    return mean, mean - half, mean + half


def shown(values: Sequence[float]) -> str:
    """Return mean and interval of fractions in per cent, as ``54.3 (51.0–57.6)``."""
    mean, low, high = (100 * v for v in over_seeds(values))
    return f"{mean:.1f} ({low:.1f}–{high:.1f})" if low == low else f"{mean:.1f}"
