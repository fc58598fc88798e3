"""The trainings and audits of an exclusion study, in a folder that processes share."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from art_classwise._core.files import written_aside
from art_classwise._core.state import preserved_random_state
from art_classwise.audit.audit import ClassWiseAudit
from art_classwise.audit.exclusion_result import ALL, ExclusionResult, without
from art_classwise.audit.provenance import weights_fingerprint
from art_classwise.audit.result import AuditResult
from art_classwise.audit.saved import is_finished, read_audit
from art_classwise.datasets import Dataset
from art_classwise.errors import InputError
from art_classwise.trainers import METHODS, AdversarialTrainerClassExcludedPyTorch, training_history
from art_classwise.trainers.array_sources import fingerprint
from art_classwise.trainers.checkpoint import differences, plain
from art_classwise.trainers.recipes import Recipe
from art_classwise.zoo import as_classifier, build, load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from art_classwise.audit.exclusion import ClassExclusionStudy

__all__ = ["Work"]


class Work:
    """The trainings and audits of a study, in a folder that processes share.

    Args:
        study: The study.
        train: The examples to train on.
        test: The examples to attack.
        folder: Of the trainings, networks and outcomes.
        rank: Number of this process.
        world: How many there are.
    """

    def __init__(
        self, study: ClassExclusionStudy, train: Dataset, test: Dataset, folder: Path, rank: int, world: int
    ) -> None:
        self._study, self._train, self._test = study, train, test
        self._folder, self._rank, self._world = folder, rank, world
        self._verbose = study.verbose and rank == 0

    def check_same(self) -> None:
        """See that the folder is of this study, or begin it there.

        Raises:
            InputError: It is of another; the difference is named.
        """
        study = self._study
        _, classifier = self._trainer(None)  # what is wrong is better known before the folder is taken
        network: str = study.network if isinstance(study.network, str) else "a function's"
        now = {
            "network": f"{network}, weights {weights_fingerprint(classifier.model)}",
            "classes": list(self._train.classes),
            "recipe": study.recipe.as_dict(),
            "attack": study.attack,
            "precision": study.precision,
            "warm_start": study.warm_start,
            "warm_epochs": study.warm_epochs,
            "trainer_options": {k: _told(v) for k, v in study.trainer_options.items()},
            "seed": study.seed,
            "train": fingerprint(self._train.x, self._train.y),
            "test": fingerprint(self._test.x, self._test.y),
        }
        now = json.loads(json.dumps(plain(now)))
        path = self._folder / "study.json"
        if self._rank == 0 and not path.exists():
            with written_aside(path) as aside:
                aside.write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")
        self._wait(path.exists)
        try:
            then = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path.absolute()} is damaged: {error}. Choose another `store`.") from error
        other = differences(then, now)
        if other:
            raise InputError(
                f"{self._folder.absolute()} holds another study: {'; '.join(other[:3])}. Choose another `store`."
            )

    def run(self, jobs: Sequence[int | None]) -> None:
        """Do this process's part of the jobs, and wait for the others'."""
        for number, excluded in enumerate(jobs):
            if number % self._world == self._rank:
                self._run(excluded)
        for excluded in jobs:
            self._wait(partial(is_finished, self._of(excluded) / "audit"))

    def _run(self, excluded: int | None) -> None:
        study, folder = self._study, self._of(excluded)
        if is_finished(folder / "audit"):
            return
        recipe, n_classes = self._recipe(excluded), len(self._train.classes)
        trainer, classifier = self._trainer(excluded)
        data = self._test if excluded is None else self._test.of_classes([k for k in range(n_classes) if k != excluded])
        n = int((self._train.y != excluded).sum())
        trainer.fit(
            self._train.x,
            self._train.y,
            **recipe.fit_options(classifier.optimizer, n),
            checkpoint_dir=folder / "training",
            resume=True,
        )
        architecture = study.network if isinstance(study.network, str) else ""
        told = recipe.as_dict() | {"excluded": [] if excluded is None else [self._train.classes[excluded]]}
        save_checkpoint(
            folder / "model.pt",
            classifier,
            architecture=architecture,
            classes=self._train.classes,
            threat=recipe.threat,
            recipe=told,
        )
        # Without checks: networks that lack a class would be looked at on examples of that class.
        audit = ClassWiseAudit(
            recipe.threat,
            [study.attack],
            store=folder / "audit",
            precision=study.precision,
            seed=study.seed,
            batch_size=study.batch_size,
            checks=False,
            verbose=self._verbose,
        )
        audit.evaluate({ALL if excluded is None else without(self._train.classes[excluded]): classifier}, data)

    def _recipe(self, excluded: int | None) -> Recipe:
        recipe = self._study.recipe
        return recipe if excluded is None else recipe.override(epochs=self._study.warm_epochs)

    def _trainer(self, excluded: int | None) -> tuple[Any, Any]:
        """Return a trainer and its classifier, of a fresh network."""
        study, recipe = self._study, self._recipe(excluded)
        n_classes, shape = len(self._train.classes), self._train.input_shape
        if isinstance(study.network, str):
            network = build(study.network, shape, n_classes, seed=study.seed)
        else:
            with preserved_random_state(study.seed):
                network = study.network()
        if excluded is not None and study.warm_start:
            load_checkpoint(self._of(None) / "model.pt", network, device="cpu")
        optimizer = recipe.optimizer(network)
        classifier = as_classifier(network, shape, n_classes, optimizer=optimizer, device=study.device)
        options = {**recipe.trainer_options(network), "seed": study.seed, "verbose": self._verbose}
        options |= study.trainer_options
        if excluded is None:
            return METHODS[recipe.method](classifier, **options), classifier
        made = AdversarialTrainerClassExcludedPyTorch(classifier, [excluded], recipe.method, **options)
        return made, classifier

    def audit(self, excluded: int | None) -> AuditResult:
        """Return the outcomes of one network."""
        return read_audit(self._of(excluded) / "audit")

    def result(self, chosen: Sequence[int], beside: Sequence[int], control: int | None) -> ExclusionResult:
        """Return all outcomes in one table."""
        jobs: list[int | None] = [None, *chosen, *beside]
        audits = {job: self.audit(job) for job in jobs}
        names = [audit.models[0] for audit in audits.values()]
        outcomes = pd.concat(
            [audit.outcomes.astype({"model": str, "attack": str}) for audit in audits.values()], ignore_index=True
        )
        for column, order in (("model", names), ("attack", [self._study.attack])):
            outcomes[column] = pd.Categorical(outcomes[column], categories=order)
        first, classes = audits[None], self._train.classes
        return ExclusionResult(
            AuditResult(outcomes, first.classes, first.threat, first.info),
            tuple(classes[k] for k in chosen),
            None if control is None else classes[control],
            {name: training_history(self._of(job) / "training") for name, job in zip(names, jobs, strict=True)},
        )

    def _of(self, excluded: int | None) -> Path:
        return self._folder / ("all" if excluded is None else f"without-{excluded}")

    def _wait(self, there: Callable[[], bool]) -> None:
        """Wait for what another process makes; if it fails, ``torchrun`` ends this one, too."""
        while not there():
            time.sleep(0.2)


def _told(value: Any) -> Any:
    """Return an option of a trainer as plain values."""
    if hasattr(value, "describe"):
        return value.describe()
    try:
        return plain(value)
    except TypeError:
        return type(value).__name__
