"""What gpu.py does in a call, in the order of worth, each thing as far as there is time."""

from __future__ import annotations

import argparse
import gc
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import attack_speed
import audit_speed
import torch

import art_classwise as acw
from art_classwise.audit.provenance import weights_fingerprint
from art_classwise.errors import first_line
from art_classwise.trainers.recipes import Recipe
from lib import paced
from lib.budget import Budget
from lib.data import load, stand_in
from lib.gpu_summary import Folder, slug
from lib.machine import moved, placed_by_art
from lib.mart import paper_beside
from lib.mart import told as described
from lib.setups import network

THREAT = "Linf:8/255"
SPEED_SHARE = 0.35
"""Of the time, that the speed tables may take at most, if there are other parts."""


@dataclass(frozen=True)
class Size:
    """How much there is to do.

    Attributes:
        speed: A key of attack_speed's sizes.
        network: A key of setups.NETWORKS.
        epochs: Of a training.
        steps: Of the training attack.
        batch_size: Of a training.
        n_train: Training examples; all if None.
        n_validation: Of them, those to validate on.
        n_test: Test examples; all if None.
        portion: Test examples that are audited at once.
        n_iter: AutoAttack's iterations and queries; its own if None.
        audited: Of the audit that is timed: network, radius, number of images, attacks, ways.
        guess: Seconds for a case of the speed tables, and for a portion, of which nothing is known.
    """

    speed: str
    network: str
    epochs: int
    steps: int
    batch_size: int
    n_train: int | None
    n_validation: int
    n_test: int | None
    portion: int
    n_iter: int | None
    audited: tuple[str, str, int, tuple[str, ...], tuple[str, ...]]
    guess: tuple[float, float]


_AUDITED = ("cifar10-resnet18-natural", "0.9/255", 512, ("pgd-20", "autoattack"))
SIZES = {
    "tiny": Size(
        *("smallest", "cnn-a", 2, 1, 40, 240, 40, 40, 20, 2),
        ("cnn-a", "1/255", 4, ("fgsm",), (audit_speed.THEIRS, audit_speed.WORST_CASE)),
        (5.0, 5.0),
    ),
    "full": Size(
        *("short", "resnet18", 120, 10, 128, None, 1_000, None, 500, None),
        (*_AUDITED, (audit_speed.AUTOATTACK, audit_speed.WORST_CASE)),
        (30.0, 60.0),
    ),
}


class Call:
    """A call of the script: what it was asked for, what there is already, and what time is left."""

    def __init__(self, arguments: argparse.Namespace, budget: Budget, folder: Folder) -> None:
        self.arguments, self.budget, self.folder = arguments, budget, folder
        self.size, self.device = SIZES[arguments.size], arguments.device

    def run(self) -> None:
        """Do the parts in their order."""
        for part, do in (
            ("speed-attacks", lambda: self.cases("attacks")),
            ("speed-training", lambda: self.cases("training")),
            ("speed-audit", self.audits),
            ("autoattack", self.audit_given),
        ):
            if part in self.arguments.parts:
                do()
                self.folder.write_summary(self.budget)
        for method in self.arguments.methods:
            whole = "train" not in self.arguments.parts or self.train(method)
            self.folder.write_summary(self.budget)
            if "autoattack" in self.arguments.parts:
                whole &= self.audit_trained(method)
                self.folder.write_summary(self.budget)
            if not whole:
                break

    @property
    def kept_for_others(self) -> float:
        """Seconds that the speed tables leave to what follows."""
        follows = {"train", "autoattack"} & set(self.arguments.parts)
        return (1 - SPEED_SHARE) * self.budget.seconds if follows else 0.0

    def cases(self, table: str) -> None:
        """Time attacks, or training steps."""
        size = self.size.speed
        given = argparse.Namespace(size=size, compiled=self.arguments.compile, torchattacks=None, checkpoints=None)
        given.cifar10 = self.test_file
        for case in attack_speed.cases(given, table):
            time_case = partial(attack_speed.time_case, case, size, given.cifar10, None, None, self.device)
            self._timed(table, case, time_case)

    def audits(self) -> None:
        """Time an audit, and the same attacks one by one."""
        name, radius, n, attacks, ways = self.size.audited
        subject = audit_speed.Subject(name, radius, self.test_file, n, device=self.device)
        for way in ways:
            self._timed("audit", (way,), partial(audit_speed.time_way, way, asdict(subject), attacks), subject=subject)

    def _timed(self, table: str, case: Sequence[str], measure: Callable[[], dict[str, Any]], **of: Any) -> None:
        """Time a case, if it isn't there already and there is time."""
        told = ", ".join(case if case[0].startswith(table) else (table, *case))
        step = f"speed of {told}"
        if self.folder.has_case(table, case):
            return
        if not self.budget.begin(step, told, self.size.guess[0], beside=self.kept_for_others):
            return
        try:
            with self.budget.measured(step):
                done = measure()
        except Exception as error:  # of others' code, too, and of any kind: the other cases can be measured
            self.budget.skip(told, f"{type(error).__name__}: {first_line(error)}")
        else:
            self.folder.add_case(table, case, done, **of)
            print(f"{told}: {self.budget.times[step]:.1f} s", flush=True)
        release(self.device)

    def train(self, method: str) -> bool:
        """Train to the last epoch, as far as there is time; return whether all is done."""
        recipe, folder = self.recipe(method), self.folder.training(method)
        told, step = f"training by {method}", f"epoch of {method}"
        if paced.epochs_of(folder) >= recipe.epochs:
            return True
        audits = "autoattack" in self.arguments.parts
        kept = self.budget.expected(self._portion, self.size.guess[1]) if audits else 0.0
        if not self.budget.begin(step, told, self.size.guess[0], beside=kept):
            return False
        print(f"{told}, {max(0.0, self.budget.left):.0f} s are left: {described(recipe)}", flush=True)
        seed, verbose = self.arguments.seed, sys.stderr.isatty()
        why = paced.train(recipe, self.subject, folder, self.budget, step=step, kept=kept, seed=seed, verbose=verbose)
        self.folder.write_validation(method, self.subject.train.classes)
        release(self.device)
        if why:
            done = paced.epochs_of(folder)
            self.budget.skip(told, f"after {done} of {recipe.epochs} epochs {why}; the next call goes on")
        return not why

    def audit_trained(self, method: str) -> bool:
        """Audit the best epoch of a training so far, as far as there is time; return whether all is done."""
        folder = self.folder.training(method)
        if not paced.epochs_of(folder):
            self.budget.skip(f"autoattack on {method}", "no epoch of its training is done")
            return False
        classifier, epoch = paced.trained(self.subject, folder)
        return self._audit(f"{method}-epoch-{epoch}", classifier)

    def audit_given(self) -> None:
        """Audit the given checkpoint, if there is one, as far as there is time."""
        if path := self.arguments.model:
            classifier = acw.load_checkpoint(path, device=placed_by_art(self.device))
            self._audit(slug(Path(path).stem), moved(classifier, self.device))

    def _audit(self, name: str, classifier: Any) -> bool:
        whole = paced.audit(
            classifier,
            self.test,
            THREAT,
            self.attacks(),
            self.folder.outcomes(f"{name}-{weights_fingerprint(classifier.model)[:8]}"),
            self.budget,
            step=self._portion,
            portion=self.size.portion,
            guess=self.size.guess[1],
            done=lambda: self.folder.write_classes(self.test.classes),
        )
        release(self.device)
        return whole

    @property
    def _portion(self) -> str:
        return f"portion of {self.size.portion} images"

    def attacks(self) -> dict[str, Any]:
        """Return the attacks by name, from weak to strong."""
        made = acw.attacks.ladder(["pgd-20", "margin-20", "tpgd5-20", "autoattack"], acw.ThreatModel.parse(THREAT))
        if n := self.size.n_iter:
            eps = acw.ThreatModel.parse(THREAT).eps
            made["autoattack"] = partial(acw.AutoAttack, eps=eps, n_iter=n, n_queries=n, verbose=False)
        return made

    def recipe(self, method: str) -> Recipe:
        """Return how a method trains: as MART's authors do, decays in proportion to the number of epochs."""
        recipe, size = paper_beside(method), self.size
        epochs = self.arguments.epochs or size.epochs
        decay = tuple((math.ceil(first * epochs / recipe.epochs), factor) for first, factor in recipe.decay)
        given = {"epochs": epochs, "steps": size.steps, "batch_size": size.batch_size}
        recipe = recipe.override(**given, precision=self.arguments.precision, compile=self.arguments.compile)
        return replace(recipe, decay=decay)

    @cached_property
    def subject(self) -> paced.Subject:
        """What is trained."""
        train, validation = self._data("train", self.size.n_train).hold_out(self.size.n_validation)
        make = partial(network, self.size.network, train.input_shape, len(train.classes), self.arguments.seed)
        return paced.Subject(make, train, validation, self.device)

    @cached_property
    def test(self) -> acw.Dataset:
        """The test examples."""
        return self._data("test", self.size.n_test)

    @property
    def test_file(self) -> str | None:
        """Their file; of stand-ins one in the output folder."""
        if self.arguments.root:
            return str(Path(self.arguments.root) / "cifar10_test.npz")
        return self.folder.stand_in_file(self.test)

    def _data(self, split: str, n: int | None) -> acw.Dataset:
        if self.arguments.root:
            return load("cifar10", split, self.arguments.root, n)
        return stand_in("cifar10", split, n or 1_000)


def release(device: str) -> None:
    """Give the memory of what is gone back."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
