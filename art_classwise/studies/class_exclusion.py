"""What class exclusion did: who has become robust."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from art.evaluations.evaluation import Evaluation
from torch import nn

from art_classwise import metrics
from art_classwise._core import distributed
from art_classwise._core.display import Shown
from art_classwise._core.executors import checked_executor, dispatch, share_with
from art_classwise._core.files import check_output_folder, output_file, read_regular
from art_classwise._core.fingerprints import examples_fingerprint
from art_classwise._core.folders import DiskFolder
from art_classwise._core.pickles import Sent, unpickled
from art_classwise._core.plain_values import differences, plain
from art_classwise._core.state import preserved_random_state
from art_classwise.attacks.fast_copy import Precision
from art_classwise.attacks.ladder import ladder
from art_classwise.audit.audit import ClassWiseAudit
from art_classwise.audit.provenance import weights_fingerprint
from art_classwise.audit.result import AuditResult, read_audit
from art_classwise.audit.saved import is_finished
from art_classwise.datasets import Dataset
from art_classwise.errors import InputError, check_seed, check_whole, first_line
from art_classwise.metrics.homing import unrelated_class
from art_classwise.trainers import METHODS, training_history
from art_classwise.trainers.catalog import method_spec
from art_classwise.trainers.exclusion import check_excluded
from art_classwise.trainers.recipes import Recipe
from art_classwise.zoo import as_classifier, build, load_checkpoint, save_checkpoint

__all__ = ["ALL", "ClassExclusionStudy", "ExclusionResult", "without"]

ALL = "all classes"
"""Name of the network that was trained on all classes."""

_MOST = 1 << 24  # bytes of study.json


def without(excluded: str) -> str:
    """Return the name of the network that was trained without a class."""
    return f"without {excluded}"


@dataclass(frozen=True, repr=False)
class ExclusionResult(Shown):
    """What class exclusion did.

    Attributes:
        audit: The outcomes of the attack on each network, ``"all classes"`` and ``"without <class>"``; each on the
            examples of its classes.
        excluded: The names of the classes that were excluded, in turn, because they were asked for.
        control: The name of the class that was excluded as a control, if one was given or chosen for all.
        histories: The history of each training, by the names of the networks.
    """

    audit: AuditResult
    excluded: tuple[str, ...]
    control: str | None
    histories: dict[str, pd.DataFrame] = field(repr=False)

    def homing(self, *, pooled: bool = False, clean_correct: bool = False, confidence: float = 0.95) -> pd.DataFrame:
        """Return the homing table, with its control and intervals: see :func:`art_classwise.metrics.homing`.

        Args:
            pooled: A row per excluded class instead of a row per pair.
            clean_correct: Count only examples that the network of all classes gets right without the attack.
            confidence: Coverage of the intervals.
        """
        classes, attack = self.audit.classes, self.audit.attacks[0]
        outcomes = self.audit.outcomes
        tables = {name: rows.set_index("example") for name, rows in outcomes.groupby("model", observed=True)}
        full = tables[ALL]
        confusion = self.audit.confusion(ALL, attack).to_numpy()
        if clean_correct:
            full = full[full["clean_prediction"] == full["label"]]
        withstood = {
            k: tables[without(c)]["withstood"].reindex(full.index, fill_value=False).to_numpy()
            for k, c in enumerate(classes)
            if without(c) in tables
        }
        table = metrics.homing(
            full["label"].to_numpy(),
            full["prediction"].to_numpy(),
            withstood,
            confusion,
            controls=None if self.control is None else [classes.index(self.control)],
            pooled=pooled,
            classes=classes,
            confidence=confidence,
        )
        return table[table.index.get_level_values("excluded").isin(self.excluded)]

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`homing` as a CSV file; its folder is made if missing.

        Raises:
            InputError: It can't be written.
        """
        with output_file(path, "homing.csv") as aside:
            self.homing().to_csv(aside)


class ClassExclusionStudy(Evaluation):
    """Homing by class exclusion (Tian et al. 2021, arXiv 2105.14240, section 4).

    A network is trained on all classes and attacked; for each chosen class another one is trained without it, by the
    same recipe from the same seed, and attacked likewise. A control is trained without an unrelated class.

    The trainings don't depend on each other: under ``torchrun`` each process takes some of them, by itself; and an
    executor's workers one at a time. Whatever is finished lies in ``store``; the same call goes on where it was.

    Args:
        network: The name of an architecture (:func:`art_classwise.build`), or a function that returns a fresh network:
            the same weights at each call.
        recipe: How to train: method, optimizer, schedule, attack, epochs
            (:mod:`art_classwise.trainers.recipes`). Its threat model is the audit's.
        attack: The audit's attack: a name that :func:`art_classwise.attacks.ladder` knows.
        store: Folder of the trainings, networks and outcomes; needed under ``torchrun``.
        executor: Any ``concurrent.futures.Executor``, whose workers then train and attack. They are sent the examples,
            and need no access to the store.
        warm_start: Begin the trainings without a class from the trained network of all classes: a fine-tuning, which
            may do with fewer epochs.
        warm_epochs: Epochs of those; the recipe's if absent.
        control: The class, by name or number, that is excluded as a control. If absent, of the other chosen classes the
            one least confused with the class looked at; and where not all classes are chosen, the one least confused
            with the chosen ones under attack.
        trainer_options: More options of the trainer, such as ``class_policy``.
        precision: Of the audit's searches.
        seed: Of everything random.
        batch_size: Of the audits, as for :class:`ClassWiseAudit`.
        device: As for :func:`art_classwise.as_classifier`.
        verbose: Show progress bars.

    Raises:
        InputError: A parameter is out of range, the attack is unknown, or the folder can't be written.
    """

    def __init__(
        self,
        network: str | Callable[[], nn.Module],
        recipe: Recipe,
        *,
        attack: str = "pgd-20",
        store: str | os.PathLike[str] | None = None,
        executor: Executor | None = None,
        warm_start: bool = False,
        warm_epochs: int | None = None,
        control: str | int | None = None,
        trainer_options: Mapping[str, Any] | None = None,
        precision: Precision = "auto",
        seed: int = 0,
        batch_size: int | None = None,
        device: str | None = None,
        verbose: bool = True,
    ) -> None:
        if not (isinstance(network, str) or callable(network)) or isinstance(network, nn.Module):
            raise InputError(
                "`network` must be an architecture's name or a function that returns a fresh network, but got "
                f"{network!r}: for a network of yours, lambda: MyNetwork(), after setting the seed."
            )
        if not isinstance(recipe, Recipe):
            raise InputError(
                "`recipe` must be a Recipe, such as art_classwise.trainers.recipes.plain_recipe('standard'), but got "
                f"{recipe!r}."
            )
        check_seed(seed)
        if not isinstance(trainer_options, (Mapping, type(None))):
            raise InputError(f"`trainer_options` must be a dict of the trainer's options, but got {trainer_options!r}.")
        if warm_epochs is not None and not warm_start:
            raise InputError("`warm_epochs` needs `warm_start=True`.")
        if store is None and distributed.world() > 1:
            raise InputError("Under torchrun the processes share a folder: give `store`.")
        if list(ladder([attack], recipe.threat)) != [attack]:  # what is wrong is better known now
            raise InputError(f"`attack` must be the name of one attack, such as 'pgd-20', but {attack!r} is a ladder.")
        ClassWiseAudit(recipe.threat, [attack], seed=seed, batch_size=batch_size, precision=precision)
        if warm_epochs is not None:
            check_whole("warm_epochs", warm_epochs, 1)
        self.network, self.recipe, self.attack = network, recipe, attack
        self.store = None if store is None else check_output_folder(store)
        self.executor = checked_executor(executor)
        self.warm_start, self.warm_epochs, self.control = warm_start, warm_epochs, control
        self.trainer_options, self.seed = dict(trainer_options or {}), seed
        self.precision, self.batch_size = precision, batch_size
        self.device, self.verbose = device, verbose

    def evaluate(
        self, train: Dataset, test: Dataset, classes: Sequence[str | int] | str | int | None = None
    ) -> ExclusionResult:
        """Train and attack all networks.

        Args:
            train: The examples to train on.
            test: The examples to attack.
            classes: Names or numbers of the classes to exclude, in turn; all if absent.

        Returns:
            The outcomes; under ``torchrun`` in every process.

        Raises:
            InputError: The data sets have different classes, a class is unknown, or ``store`` holds another study.
        """
        if train.classes != test.classes:
            raise InputError(f"The data sets have different classes: {train.classes[:3]}... and {test.classes[:3]}...")
        if train.input_shape != test.input_shape:
            raise InputError(
                f"The data sets have images of different shapes: {train.input_shape} and {test.input_shape}."
            )
        if len(np.unique(test.ids)) < len(test):
            raise InputError("The test examples' ids must differ: outcomes on different networks are matched by them.")
        n_classes = len(train.classes)
        classes = [classes] if isinstance(classes, (str, int)) else classes
        chosen = [*dict.fromkeys(train.class_number(c) for c in (range(n_classes) if classes is None else classes))]
        check_excluded(chosen[:1], n_classes)
        control = None if self.control is None else train.class_number(self.control)
        if control in chosen and len(chosen) == 1:
            raise InputError(f"The control {train.classes[chosen[0]]!r} is the class to exclude: choose another.")
        with ExitStack() as stack:
            folder = self.store or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            work = _Work(self, train, test, folder, distributed.rank(), distributed.world())
            stack.enter_context(distributed.alone())
            work.check_same()
            known = [k for k in [control] if k is not None and k not in chosen]
            jobs: list[int | None] = [*chosen, *known]
            work.run([None] if self.warm_start else [None, *jobs])
            if self.warm_start:
                work.run(jobs)
            if control is None and len(chosen) < n_classes:
                control = self._unrelated(work.audit(None), chosen, n_classes)
                known = [control]
                work.run([control])
            return work.result(chosen, known, control)

    def _unrelated(self, audit: AuditResult, chosen: Sequence[int], n_classes: int) -> int:
        """Return the class least confused with the chosen ones, taken together."""
        shares = np.nan_to_num(audit.confusion(ALL, self.attack).to_numpy())
        together = np.zeros((n_classes, n_classes))
        first = chosen[0]
        together[first] = sum(shares[k] + shares[:, k] for k in chosen)
        found = unrelated_class(together, first, [k for k in range(n_classes) if k not in chosen])
        assert found is not None
        return found


class _Work:
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
            "recipe": _recipe_told(study.recipe),
            "attack": study.attack,
            "precision": study.precision,
            "warm_start": study.warm_start,
            "warm_epochs": study.warm_epochs,
            "trainer_options": {k: _told(v) for k, v in study.trainer_options.items()},
            "seed": study.seed,
            "train": examples_fingerprint(self._train.x, self._train.y),
            "test": examples_fingerprint(self._test.x, self._test.y),
        }
        now = json.loads(json.dumps(plain(now)))
        path = self._folder / "study.json"
        if self._rank == 0 and not path.exists():
            with output_file(path, "study.json") as aside:
                aside.write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")
        self._wait(path.exists)
        try:
            then = json.loads(read_regular(path, _MOST).decode("utf-8"))
        except OSError as error:
            raise InputError(f"{path.absolute()} can't be read: {error.strerror}.") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path.absolute()} is damaged: {error}. Choose another `store`.") from error
        other = differences(then, now)
        if other:
            raise InputError(
                f"{self._folder.absolute()} holds another study: {'; '.join(other[:3])}. Choose another `store`."
            )

    def run(self, jobs: Sequence[int | None]) -> None:
        """Do this process's part of the jobs, and wait for the others'."""
        if self._study.executor is not None:
            self._hand_out(self._study.executor, jobs)
        for number, excluded in enumerate(jobs):
            if number % self._world == self._rank:
                self._run(excluded)
        for excluded in jobs:
            self._wait(partial(is_finished, self._of(excluded) / "audit"))

    def _hand_out(self, executor: Executor, jobs: Sequence[int | None]) -> None:
        """Have an executor's workers do the jobs that aren't done; what each makes is written here."""
        todo = [excluded for excluded in jobs if not is_finished(self._of(excluded) / "audit")]
        study = copy(self._study)
        study.executor, study.store, study.verbose = None, None, False
        sent = share_with(executor, Sent.of((study, self._train, self._test), "The study"))
        first = self._of(None) / "model.pt"
        warm = first.read_bytes() if study.warm_start and first.exists() else None

        def receive(excluded: int | None, done: _Done) -> None:
            if done.error:
                raise InputError(done.error)
            folder = DiskFolder(self._of(excluded))
            for name, content in sorted(done.files.items(), key=lambda item: item[0].startswith("audit")):
                folder.write(name, content)

        dispatch(
            executor,
            todo,
            lambda excluded: executor.submit(_done_elsewhere, sent, excluded, warm),
            receive,
            name=lambda excluded: ALL if excluded is None else without(self._train.classes[excluded]),
        )

    def done_alone(self, excluded: int | None) -> dict[str, bytes]:
        """Do one job, and return the files that it made, by their names within its folder."""
        self._run(excluded)
        folder = self._of(excluded)
        made = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in made}

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
        options["excluded"] = None if excluded is None else [excluded]
        if recipe.method not in METHODS:  # one of several behind the same trainer
            options.setdefault("method", recipe.method)
        spec = METHODS.get(recipe.method) or method_spec(recipe.method)
        return spec.trainer(classifier, **options), classifier

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
        classes, described = self._train.classes, [audit.manifest for audit in audits.values()]
        manifest = described[0].updated(
            models={name: one.models[name] for name, one in zip(names, described, strict=True)},
            probes={name: probe for one in described for name, probe in one.probes.items()},
        )
        return ExclusionResult(
            AuditResult(outcomes, manifest),
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


@dataclass(frozen=True)
class _Done:
    """What came of a job in another process: its files by name, or what went wrong."""

    files: dict[str, bytes]
    error: str = ""


def _done_elsewhere(sent: Sent, excluded: int | None, warm: bytes | None) -> _Done:
    """Do one job in another process than the study's, in a folder of its own."""
    try:
        study, train, test = unpickled(sent.content, "The study")
        with tempfile.TemporaryDirectory() as place:
            if warm is not None:
                DiskFolder(Path(place, "all")).write("model.pt", warm)
            return _Done(_Work(study, train, test, Path(place), 0, 1).done_alone(excluded))
    except InputError as error:
        return _Done({}, str(error))
    except Exception as error:  # of the network's own code: of any kind
        return _Done({}, f"{type(error).__name__}: {first_line(error)}")


def _recipe_told(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as plain values, without what is said about its numbers: studies of before don't have it."""
    unsaid = ("verified", "unverified", "changed")
    return {name: value for name, value in recipe.as_dict().items() if name not in unsaid}


def _told(value: Any) -> Any:
    """Return an option of a trainer as plain values."""
    if hasattr(value, "describe"):
        return value.describe()
    try:
        return plain(value)
    except TypeError:
        return type(value).__name__
