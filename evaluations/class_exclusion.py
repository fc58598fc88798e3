"""Homing: train without each class in turn, attack again, and see who has become robust, beside a control; over seeds.

    python evaluations/class_exclusion.py --dataset digits
    python evaluations/class_exclusion.py --dataset mnist --root data
    torchrun --nproc-per-node 8 evaluations/class_exclusion.py --dataset cifar10 --root FOLDER --seeds 1

The last one wants GPUs, and a folder with cifar10_train.npz and cifar10_test.npz; each process takes some of the
trainings. A killed run goes on where it was: everything lies in --store.

Standard adversarial training; the attack is PGD-20 with the training's radius. The control of a class is the excluded
class least confused with it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
from _machine import hardware, versions
from _small import THREATS, arguments_parser, command, load, network, over_seeds, shown

import art_classwise as acw
from art_classwise._ranks import is_main
from art_classwise.trainers.recipes import Recipe, fast_recipe, plain_recipe

SIZES = {"digits": (20, 5, None, None), "mnist": (8, 5, 4000, 3000), "cifar10": (30, 10, None, None)}
"""Epochs, steps of the training attack, training and test examples."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the study for each seed, write the tables and print them."""
    arguments = _arguments(argv)
    began = time.perf_counter()
    epochs, steps, n_train, n_test = SIZES[arguments.dataset]
    n_train, n_test = arguments.n_train or n_train, arguments.n_test or n_test
    train, test = (
        load(arguments.dataset, "train", arguments.root, n_train),
        load(arguments.dataset, "test", arguments.root, n_test),
    )
    recipe = _recipe(arguments.dataset).override(epochs=arguments.epochs or epochs, steps=arguments.steps or steps)
    pairs, pooled = [], []
    for seed in range(arguments.seeds):
        study = acw.ClassExclusionStudy(
            partial(network, arguments.dataset, seed),
            recipe,
            store=arguments.store / f"{arguments.dataset}-{seed}",
            seed=seed,
            verbose=False,
        )
        result = study.evaluate(train, test, arguments.classes)
        pairs.append(result.homing().reset_index().assign(seed=seed))
        pooled.append(result.homing(pooled=True).reset_index().assign(seed=seed))
        print(f"seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)
    if not is_main():
        return
    origin = {"hardware": hardware(), "versions": versions(), "test examples": len(test)}
    origin["command"] = command(__file__, arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, tables in (("", pooled), ("_pairs", pairs)):
        path = arguments.out / f"class_exclusion_{arguments.dataset}{name}.csv"
        pd.concat(tables).assign(**origin).to_csv(path, index=False, float_format="%.4f")
        print(path)
    moved = pd.concat(pooled)
    print(readable(moved).to_string(index=False) if len(moved) else "The attack moved no example to these classes.")
    print(f"{origin['hardware']}; {origin['versions']}; n = {len(test)} test examples, {arguments.seeds} seeds")


def readable(pooled: pd.DataFrame) -> pd.DataFrame:
    """Return a row per excluded class, and one for all: shares in per cent, mean and 95 % interval over seeds."""
    rows = []
    for excluded, some in pooled.groupby("excluded", sort=False):
        rows.append({"excluded": excluded, "moved": int(some["n"].sum()), **_shares(some)})
    weighted = [
        {"seed": seed, **{m: np.average(some[m], weights=some["n"]) for m in ("homed", "control_homed", "difference")}}
        for seed, some in pooled.groupby("seed")
    ]
    rows.append({"excluded": "all", "moved": int(pooled["n"].sum()), **_shares(pd.DataFrame(weighted))})
    return pd.DataFrame(rows)


def _shares(some: pd.DataFrame) -> dict[str, str]:
    return {
        "homed": shown(some["homed"]),
        "control": shown(some["control_homed"]),
        "difference": shown(some["difference"]),
        "above 0": "yes" if over_seeds(some["difference"])[1] > 0 else "",
    }


def _recipe(dataset: str) -> Recipe:
    if dataset == "cifar10":
        return fast_recipe("standard", dataset, architecture="resnet18")
    return plain_recipe("standard", threat=THREATS[dataset]).override(batch_size=64)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments_parser(__doc__, SIZES, "runs/class_exclusion")
    parser.add_argument("--classes", nargs="+", help="names of the classes to exclude; all if absent")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
