"""Do class policies help the worst class? Each policy on standard adversarial training, TRADES and MART, over seeds.

    python evaluations/class_policies.py --dataset digits
    python evaluations/class_policies.py --dataset mnist --root data
    python evaluations/class_policies.py --dataset cifar10 --root FOLDER --seeds 1

The last one wants a GPU, and a folder with cifar10_train.npz and cifar10_test.npz. A killed run goes on where it was:
what each training gave lies in --store.

All policies have the published defaults, with warm-ups, WAT's and CFOL's rates scaled to the length of a training.
FRL and FAAL fine-tune, as their papers do: they begin with the network that was trained without a policy from the
same seed; "fine-tuning" is the control, FRL's training without FRL. "FAWA" is CFA's averaging of weights alone.
"weight 2" doubles the weight, "budget 1.25" enlarges the radius of the class that the network without a policy is
weakest on, by validation. Validation examples are held out from all trainings alike. CFA divides losses with a second
term by about 1 + beta, and WAT multiplies losses by 2 C / (C + 1): learning rate and weight decay make up for that.
BAT, an objective of its own, is compared with TRADES, whose recipe it has.

Robust is what withstands PGD-20 on cross-entropy and PGD-20 on the margin (steps of a quarter of the radius, random
start), since MART looks stronger under the first than it is. Intervals are over seeds, with the same examples held
out and tested: they don't hold the error of the test set. Of dozens of intervals some miss 0 by chance.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from _machine import hardware, versions
from _small import THREATS, arguments_parser, check_size, command, load, network, over_seeds, shown

import art_classwise as acw
from art_classwise.trainers import METHODS
from art_classwise.trainers.recipes import Recipe, paper_recipe, plain_recipe

P = acw.policies
OBJECTIVES = ("standard", "trades", "mart")
ATTACKS = ("pgd-20", "margin-20")


@dataclass(frozen=True)
class Size:
    """How large the experiment is.

    Attributes:
        epochs: Of a training.
        n_train: Training examples, validation examples among them.
        n_validation: Held out from them.
        n_test: Test examples.
        steps: Of the training attack.
        fine_tune: Epochs of FRL's fine-tuning; FAAL's are 2.
    """

    epochs: int
    n_train: int | None
    n_validation: int
    n_test: int | None
    steps: int
    fine_tune: int


SIZES = {
    "digits": Size(20, None, 200, None, 5, 6),
    "mnist": Size(8, 4000, 500, 2000, 5, 3),
    "cifar10": Size(110, None, 1000, None, 10, 40),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Train and attack whatever isn't in the store yet; write the tables and print them."""
    arguments = _arguments(argv)
    size = SIZES[arguments.dataset]
    given = {name: getattr(arguments, name) for name in ("epochs", "n_train", "n_test", "steps")}
    size = replace(size, **{name: value for name, value in given.items() if value is not None})
    study = Study(arguments.dataset, size, arguments.root, arguments.store / arguments.dataset)
    jobs = [(o, p, s) for s in range(arguments.seeds) for o in OBJECTIVES for p in (NONE, *study.policies)]
    jobs += [("bat", NONE, s) for s in range(arguments.seeds)]
    began = time.perf_counter()
    for number, job in enumerate(jobs):
        study.run(*job)
        print(f"{number + 1}/{len(jobs)}", *job, f"{time.perf_counter() - began:.0f} s", flush=True)
    runs = pd.DataFrame([study.run(*job) for job in jobs])
    origin = {"hardware": hardware(), "versions": versions(), "command": command(__file__, arguments)}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, frame in (("", summary(runs)), ("_runs", runs)):
        path = arguments.out / f"class_policies_{arguments.dataset}{name}.csv"
        frame.assign(**origin).to_csv(path, index=False, float_format="%.4f")
        print(path)
    print(readable(runs).to_string(index=False))
    print(f"{origin['hardware']}; {origin['versions']}; n = {runs['n'].iloc[0]} test examples, {arguments.seeds} seeds")


NONE = "none"
FINE_TUNED = {"fine-tuning": 0.1, "FRL": 0.1, "FAAL": 0.2}
"""What fine-tunes, with its learning rate relative to the training's."""


class Study:
    """The trainings of one data set.

    Args:
        dataset: A key of :data:`SIZES`.
        size: How large.
        root: Folder of the data.
        store: Folder of what was done already.
    """

    def __init__(self, dataset: str, size: Size, root: str | None, store: Path) -> None:
        self._dataset, self._size, self._store = dataset, size, store
        check_size(store, asdict(size))
        self._train, self._validation = load(dataset, "train", root, size.n_train).hold_out(size.n_validation)
        self._test = load(dataset, "test", root, size.n_test)
        self._threat = acw.ThreatModel.parse(THREATS[dataset])
        epochs, n, eps = size.epochs, len(self._train), self._threat.eps
        self.policies: dict[str, Callable[[int], Any]] = {
            "weight 2": lambda weakest: P.Fixed(weights={weakest: 2.0}),
            "budget 1.25": lambda weakest: P.Fixed(budgets={weakest: 1.25 * eps}),
            "CFA": lambda _: P.CFA(begin_after=max(1, round(epochs * 10 / 200)), fawa_start=max(1, epochs // 4)),
            "DAFA": lambda _: P.DAFA(warmup=max(1, round(epochs * 70 / 110))),
            "FAWA": lambda _: P.CFA(ccm=False, ccr=False, fawa_start=max(1, epochs // 4)),
            "fine-tuning": lambda _: None,
            "FRL": lambda _: P.FRL(),
            "WAT": lambda _: P.WAT(eta=0.1 * 100 / epochs),
            "FAAL": lambda _: P.FAAL(),
            "CFOL": lambda _: P.CFOL(eta=2e-6 * 150 * 50_000 / (epochs * n)),
        }

    def run(self, objective: str, policy: str, seed: int) -> dict[str, Any]:
        """Return what a training gives on the test set; it is trained if it isn't in the store."""
        folder = self._store / f"{objective}-{policy.replace(' ', '-')}-{seed}"
        held = folder / "result.json"
        if held.exists():
            return json.loads(held.read_text())
        recipe = self._recipe(objective)
        module, chosen = network(self._dataset, seed), None
        if policy != NONE:
            base = self._store / f"{objective}-{NONE}-{seed}"
            weakest = json.loads((base / "result.json").read_text())["weakest on validation"]
            chosen = self.policies[policy](weakest)
            if policy in FINE_TUNED:
                module.load_state_dict(torch.load(base / "weights.pt", weights_only=True))
                recipe = recipe.override(
                    epochs=2 if policy == "FAAL" else self._size.fine_tune, lr=recipe.lr * FINE_TUNED[policy]
                )
        if policy == "CFA":
            recipe = _rescaled(recipe, 1 + (recipe.beta or 0.0))
        elif policy == "WAT":
            recipe = _rescaled(recipe, (len(self._train.classes) + 1) / (2 * len(self._train.classes)))
        history, module = self._fit(recipe, module, chosen, seed, folder)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(module.state_dict(), folder / "weights.pt")
        result = {"dataset": self._dataset, "objective": objective, "policy": policy, "seed": seed}
        result |= self._attacked(module) | {"n": len(self._test)}
        by_class = history.iloc[-1][[f"val_robust_{k}" for k in range(len(self._train.classes))]]
        result["weakest on validation"] = int(np.nanargmin(by_class.to_numpy(dtype=float)))
        held.write_text(json.dumps(result))
        return result

    def _recipe(self, objective: str) -> Recipe:
        if self._dataset == "cifar10":
            recipe = paper_recipe("trades", "wrn-34-10", "cifar10")
            beta = {"standard": None, "mart": 5.0}.get(objective, 6.0)
            decay = ((round(0.91 * self._size.epochs), 0.1), (round(0.96 * self._size.epochs), 0.01))  # DAFA's, of 110
            recipe = replace(recipe, method=objective, beta=beta, decay=decay, compile=None, two_passes=False)
        else:
            recipe = replace(plain_recipe(objective, threat=self._threat), batch_size=64)
        return recipe.override(epochs=self._size.epochs, steps=self._size.steps)

    def _fit(
        self, recipe: Recipe, module: nn.Module, policy: Any, seed: int, folder: Path
    ) -> tuple[pd.DataFrame, nn.Module]:
        optimizer = recipe.optimizer(module)
        classifier = acw.as_classifier(module, self._train.input_shape, len(self._train.classes), optimizer=optimizer)
        options = recipe.trainer_options(module)
        trainer = METHODS[recipe.method](classifier, **options, class_policy=policy, seed=seed, verbose=False)
        history = trainer.fit(
            self._train.x,
            self._train.y,
            validation_data=(self._validation.x, self._validation.y),
            **recipe.fit_options(optimizer, len(self._train)),
            checkpoint_dir=folder / "training",
            resume=True,
        )
        return history, classifier.model

    def _attacked(self, module: nn.Module) -> dict[str, Any]:
        """Return clean, robust and worst-class accuracy on the test set, and robust accuracy by class."""
        classifier = acw.as_classifier(module.eval(), self._test.input_shape, len(self._test.classes))
        audit = acw.ClassWiseAudit(self._threat, ATTACKS, checks=False, verbose=False).evaluate(
            {"net": classifier}, self._test
        )
        table = audit.class_table("net")
        result: dict[str, Any] = {"clean": table["clean"].mean(), "robust": table["robust"].mean()}
        result |= {f"{name} alone": audit.class_table("net", name)["robust"].mean() for name in ATTACKS}
        result |= {"worst": table["robust"].min(), "worst class": str(table["robust"].idxmin())}
        return result | {f"robust {name}": float(value) for name, value in table["robust"].items()}


def _rescaled(recipe: Recipe, factor: float) -> Recipe:
    """Return the recipe for losses that are divided by a factor: with it SGD takes the same steps."""
    return recipe.override(lr=recipe.lr * factor, weight_decay=recipe.weight_decay / factor)


def compared(objective: str, policy: str) -> bool:
    """Return whether a training is compared with another one."""
    return policy != NONE or objective == "bat"


def _base(runs: pd.DataFrame, objective: str) -> pd.DataFrame:
    """Return the trainings that one is compared with, by seed."""
    base = "trades" if objective == "bat" else objective
    return runs[(runs["objective"] == base) & (runs["policy"] == NONE)].set_index("seed")


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row per objective and policy: means over seeds with 95 % intervals (Student's t), as fractions.

    ``robust`` is the mean class robust accuracy, ``worst`` that of the worst class; the changes are to the training
    without a policy from the same seed, BAT's to TRADES.
    """
    rows = []
    for (objective, policy), some in runs.groupby(["objective", "policy"], sort=False):
        base = _base(runs, objective)
        row: dict[str, Any] = {"objective": objective, "policy": policy, "seeds": len(some), "n": some["n"].iloc[0]}
        for measure in ("clean", "robust", "worst"):
            values = some.set_index("seed")[measure]
            row |= dict(zip((measure, f"{measure} low", f"{measure} high"), over_seeds(values), strict=True))
            change = over_seeds(values - base[measure]) if compared(objective, policy) else (np.nan,) * 3
            names = (f"{measure} change", f"{measure} change low", f"{measure} change high")
            row |= dict(zip(names, change, strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


def readable(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the summary in per cent, each cell with its interval; the changes to the training without a policy too."""
    rows = []
    for (objective, policy), some in runs.groupby(["objective", "policy"], sort=False):
        base = _base(runs, objective)
        by_seed = some.set_index("seed")
        row = {"objective": objective, "policy": policy}
        row |= {name: shown(by_seed[name]) for name in ("clean", "robust", "worst")}
        if compared(objective, policy):
            row |= {f"{name} change": shown(by_seed[name] - base[name]) for name in ("robust", "worst")}
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    return arguments_parser(__doc__, SIZES, "runs/class_policies").parse_args(argv)


if __name__ == "__main__":
    main()
