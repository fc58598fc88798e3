"""Run attacks on models and write down what each did to each example."""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from art.estimators.estimator import BaseEstimator
from art.evaluations.evaluation import Evaluation
from filelock import Timeout
from torch import nn

from art_classwise._core import art_interface, distributed
from art_classwise._core.files import check_output_folder
from art_classwise._core.forward import check_predicts_logits, release
from art_classwise._core.labels import check_reads_true_labels
from art_classwise._core.progress import progress
from art_classwise.attacks.fast_copy import Precision, compute_alike
from art_classwise.attacks.ladder import Attacks, ladder, usual_threat
from art_classwise.audit.manifest import Attack, Examples, Manifest, Published
from art_classwise.audit.outcomes import joined
from art_classwise.audit.provenance import (
    data_fingerprint,
    environment,
    fingerprint,
    model_fingerprint,
    parameters,
)
from art_classwise.audit.result import AuditResult
from art_classwise.audit.runner import ShardRunner, drop_damaged, fill
from art_classwise.audit.saved import is_whole, read_outcomes
from art_classwise.audit.store import DamagedShardError, MissingShardError, Store, StoreError, Unit
from art_classwise.datasets import Dataset, as_dataset
from art_classwise.errors import InputError, check_flag, check_name, check_seed, check_whole, first_line, unknown
from art_classwise.threat import ThreatModel

__all__ = ["ClassWiseAudit"]

_SHARD = 512  # examples: what a process takes at once, and loses if it is killed


class ClassWiseAudit(Evaluation):
    """An audit of models under attacks, kept example by example.

    Whether an example withstood is decided in float32 and eval mode, after the attack's result is brought back
    into the ball and into [0, 1]. An example that is misclassified without attack has not withstood.

    The work is cut into shards of 512 examples, each of which is written to ``store`` once it is finished. An audit
    that was killed goes on from there; one that is asked for again is read. Models and attacks can be added to a
    store. Several processes work on one store together: under ``torchrun``, or started by hand, on one machine or on
    several that share the folder. What comes out is the same for any batch size, order, number of processes and of
    interruptions: on CPUs of one kind and with the same number of threads to the bit.

    Args:
        threat: E.g. ``"Linf:8/255"``, in the units of images in [0, 1]; if absent, the one in use for the data set.
        attacks: What :func:`art_classwise.attacks.ladder` takes: a ladder, names, ART attacks, or functions by name.
        surrogate: An ART classifier that the ladder's transfer attacks come from.
        precision: Of the ladder's searches: see :class:`art_classwise.attacks.PGD`. Verdicts are float32 always.
        worst_case: Let an example leave once an attack has broken it: what is asked for the robust accuracy under all
            attacks then costs less, the more so the weaker the model. Outcomes of an attack are then of it and those
            before it: see :meth:`AuditResult.worst_case`.
        store: Folder of the outcomes; needed under ``torchrun``.
        seed: Of the attacks.
        batch_size: Examples computed at once; if absent, by their size, at most 512. Less takes less memory; where
            memory runs out it is halved.
        checks: Try each network itself, too: asked twice and one by one on 64 examples; with images normalised
            otherwise, and channels reversed, on at most 256; its gradients compared with finite differences on 16;
            within a radius that nothing can withstand, 20 steps on 32; and under a reference attack of 40 steps on a
            quarter of the examples, at most 256, of those that withstood. What looks wrong is among
            :attr:`AuditResult.findings`.
        verbose: Show a progress bar.
        command: The command line that runs the audit, kept with its outcomes and shown in its report.

    Raises:
        InputError: The threat model or an attack is unknown or out of range, or the folder can't be written.
    """

    def __init__(
        self,
        threat: ThreatModel | str | None = None,
        attacks: Attacks = "quick",
        *,
        surrogate: Any = None,
        precision: Precision = "auto",
        worst_case: bool = False,
        store: str | os.PathLike[str] | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        checks: bool = True,
        verbose: bool = True,
        command: str | None = None,
    ) -> None:
        if batch_size is not None:
            check_whole("batch_size", batch_size, 1)
        check_seed(seed)
        self.threat = None if threat is None else ThreatModel.parse(threat)
        self._ladder = partial(
            ladder, attacks, surrogate=surrogate, seed=seed, batch_size=batch_size or _SHARD, precision=precision
        )
        self._ladder(self.threat or "Linf:8/255")  # a wrong name is better known now
        self.worst_case = check_flag("worst_case", worst_case)
        self.store = None if store is None else check_output_folder(store).absolute()  # wherever evaluate() is called
        self.seed = int(seed)  # a NumPy integer can't be written as JSON
        self.batch_size = batch_size
        self.checks = check_flag("checks", checks)
        self.verbose = verbose
        self.command = None if command is None else command.encode(errors="backslashreplace").decode()

    def evaluate(self, models: Mapping[str, Any], data: Any, *, optional: Collection[str] = ()) -> AuditResult:
        """Attack examples of ``data`` on every model with every attack; what is in the store already is read.

        Args:
            models: ART ``PyTorchClassifier`` s by the names they shall have in the tables; or functions without
                arguments that load one, called when its turn comes, so that one of these at a time is in memory.
            data: The examples: a :class:`art_classwise.Dataset`, or what
                :func:`art_classwise.datasets.as_dataset` makes one of: ``(x, y)``, a torch data set, a name.
            optional: Names of models to go on without, with a warning, if they can't be loaded or audited. Of one that
                can't be loaded, what the store holds is read, if it is finished.

        Returns:
            The outcomes; under ``torchrun`` in every process. The models, and the global random state, are as they
            were.

        Raises:
            InputError: There is no model, or of optional ones none is left; a model doesn't fit the data or doesn't
                return logits, an attack returns something else than images, or the radius covers the whole range
                [0, 1]; the store holds another audit, or can't be written; or there is none under ``torchrun``.
        """
        if self.store is None and distributed.world() > 1:
            raise InputError("Under torchrun the processes share a folder: give `store`.")
        data = as_dataset(data, n_classes=_n_classes(models))
        check_names(models, optional, data)
        threat = self.threat or usual_threat(data.name)
        threat.check_radius(0.0, 1.0, int(np.prod(data.input_shape)))
        blank = Manifest.begun(
            threat=threat,
            seed=self.seed,
            worst_case=self.worst_case,
            shard_size=_SHARD,
            examples=Examples(dataset=data.name, split=data.split, n=len(data), fingerprint=data_fingerprint(data)),
            classes=tuple(data.classes),
            commands=() if self.command is None else (self.command,),
        )
        together = {name: m for name, m in models.items() if not _loads(m) and name not in optional}
        with ExitStack() as stack:
            store = Store(self.store or Path(stack.enter_context(tempfile.TemporaryDirectory())))
            store.check(blank)  # before models are loaded, and which of them aren't taken for another audit's
            runner = ShardRunner(data, threat, shard_size=_SHARD, seed=self.seed, batch_size=self.batch_size)
            outcomes = self._audit(store, blank, runner, data, together) if together else None
            lost: list[str] = []
            left_out: list[str] = []
            for name in (name for name in models if name not in together):
                loaded = False
                try:
                    one = models[name]() if _loads(models[name]) else models[name]
                    loaded = True
                    self._audit(store, blank, runner, data, {name: one})
                except Exception as error:  # of the model's own code: of any kind
                    if name not in optional or isinstance(error, StoreError):
                        raise
                    (left_out if loaded else lost).append(name)
                    warnings.warn(f"Continuing without {name!r}: {first_line(error)}", stacklevel=2)
                one = None
                release()  # ART's classifiers lie in circles of references
            if len(left_out) + len(lost) == len(models):
                raise InputError(f"None of the {len(models)} models could be loaded and audited: see the warnings.")
            held, attacks = store.manifest(), list(self._ladder(self.threat, dataset=data.name))
            reusable = [m for m in lost if is_whole(store, held, m, attacks)]
            if reusable:
                warnings.warn(
                    f"The folder already holds outcomes of {', '.join(reusable)}, which are reused.", stacklevel=2
                )
            names = [m for m in models if m in reusable or m not in {*lost, *left_out}]
            if outcomes is None or len(together) < len(models):
                outcomes = read_outcomes(store, held, names, attacks)
        return AuditResult(outcomes, held.part(names, attacks, self.command))

    def _audit(
        self, store: Store, blank: Manifest, runner: ShardRunner, data: Dataset, models: Mapping[str, Any]
    ) -> pd.DataFrame:
        """Return the outcomes of models that are in memory, once all of them are in the store."""
        for name, classifier in models.items():
            check_fit(name, classifier, data)
        factories = self._ladder(self.threat, dataset=data.name)
        attacks = {
            name: {a: checked_attack(a, make(classifier)) for a, make in factories.items()}
            for name, classifier in models.items()
        }
        requested = blank.updated(
            models={name: model_fingerprint(classifier) for name, classifier in models.items()},
            attacks=described_attacks(attacks, worst_case=self.worst_case),
            published={name: of for name, classifier in models.items() if (of := Published.of(classifier))},
        )
        check_told_apart(models, requested.models)
        outcomes = self._outcomes(store, requested, models, attacks, runner)
        if self.checks:
            self._probe(store, requested, models, runner, outcomes)
        return outcomes

    def _probe(
        self, store: Store, requested: Manifest, models: Mapping[str, Any], runner: ShardRunner, outcomes: pd.DataFrame
    ) -> None:
        """See that what is tried on the networks themselves is in the store, by whichever process."""
        for name in progress(models, desc="checks", unit="model", shown=self.verbose, leave=False):
            key = requested.models[name]
            while not _is_probed(store.manifest(), name):
                with suppress(Timeout), store.lock(f"probe-{key[:12]}", 0) as path:
                    held = store.manifest()  # anew: another process may have been faster, or another name has it
                    twin = next(
                        (held.probes[m] for m, k in held.models.items() if k == key and _is_probed(held, m)), None
                    )
                    try:
                        probed = twin or runner.probe(models[name], outcomes[outcomes["model"] == name])
                    except Exception as error:  # of the model's own code: of any kind; what attacks found stands
                        warnings.warn(f"The checks of {name!r} failed: {first_line(error)}", stacklevel=2)
                    else:
                        part = () if twin else (environment(),)  # who computes nothing has no part in it
                        store.join(requested.updated(probes={name: probed}, environments=part))
                    path.unlink(missing_ok=True)
                    break
                time.sleep(0.1)

    def _outcomes(
        self,
        store: Store,
        requested: Manifest,
        models: Mapping[str, Any],
        attacks: Mapping[str, Mapping[str, Any]],
        runner: ShardRunner,
    ) -> pd.DataFrame:
        """Return the outcomes, once all that isn't in the store has been computed by someone."""
        store.join(requested)
        names = {attack.fingerprint: name for name, attack in requested.attacks.items()}
        by_fingerprint = {key: name for name, key in requested.models.items()}
        keys = [None, *names]
        chains = [[Unit(m, k, i) for k in keys] for m in by_fingerprint for i in range(requested.n_shards)]
        total = len(by_fingerprint) * len(keys) * requested.examples.n

        @cache
        def take_part() -> None:
            store.join(requested.updated(environments=(environment(),)))

        def compute(unit: Unit) -> pd.DataFrame:
            take_part()  # once; who computes nothing has no part in the outcomes
            name = by_fingerprint[unit.model]
            rows = _withstanding_rows(store, unit, keys) if self.worst_case and unit.attack is not None else None
            try:
                if unit.attack is None:
                    return runner.clean(models[name], unit.shard)
                attack = names[unit.attack]
                return runner.attacked(models[name], attack, attacks[name][attack], unit.shard, rows)
            except InputError as error:
                raise InputError(f"On the model {name!r}: {error}") from error

        with progress(total=total, desc="audit", unit="example", shown=self.verbose) as bar:

            def done(units: Iterable[Unit]) -> None:
                bar.update(sum(runner.n_examples(unit.shard) for unit in units))

            dropped: set[Unit] = set()
            first = len(chains) * distributed.rank() // distributed.world()
            while True:
                fill(store, chains, compute, in_order=self.worst_case, first=first, progress=done)
                try:
                    return read_outcomes(store, requested, list(requested.models), list(requested.attacks))
                except DamagedShardError as damaged:
                    if damaged.unit in dropped:
                        raise  # computing it anew doesn't help
                    if drop_damaged(store, damaged):  # else another process is about to, or has
                        dropped.add(damaged.unit)
                except MissingShardError:  # another process found it damaged
                    continue


def _loads(model: Any) -> bool:
    """Return whether this is a function that loads a model."""
    return callable(model) and not isinstance(model, (BaseEstimator, nn.Module))


def _withstanding_rows(store: Store, unit: Unit, keys: list[str | None]) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Return which examples of a shard have withstood all attacks before this one."""
    clean = store.read(replace(unit, attack=None))
    withstanding = (clean["prediction"] == clean["label"]).to_numpy()
    for key in keys[1 : keys.index(unit.attack)]:
        under_attack = joined(clean, store.read(replace(unit, attack=key)))
        withstanding = withstanding & under_attack["withstood"].to_numpy()
    return np.flatnonzero(withstanding)


def _n_classes(models: Any) -> int | None:
    """Return how many classes the models have, as far as they are there already."""
    loaded = models.values() if isinstance(models, Mapping) else ()
    return next((int(m.nb_classes) for m in loaded if hasattr(m, "nb_classes")), None)


def check_names(models: Any, optional: Any, data: Dataset) -> None:
    """Check the models' names, those of optional ones, and the examples' numbers.

    Raises:
        InputError: They can't be told apart, or there is no model.
    """
    if not isinstance(models, Mapping) or not models:
        raise InputError("`models` must be a dict of at least one ART classifier by name.")
    for name in models:
        check_name("model", name)
    if isinstance(optional, str):
        raise InputError(f"`optional` must be names of models, such as [{optional!r}], but is a string.")
    for name in optional:
        if name not in models:
            raise unknown("model in `optional`", name, models)
    if len(np.unique(data.ids)) < len(data):
        raise InputError("The examples' ids must differ: outcomes are identified by them.")


def described_attacks(attacks: Mapping[str, Mapping[str, Any]], *, worst_case: bool) -> dict[str, Attack]:
    """Return what tells the attacks apart, the same for all models.

    Raises:
        InputError: An attack has other parameters on one model than on another.
    """
    shared: dict[str, dict[str, Any]] = {}
    for model, on_model in attacks.items():
        for name, attack in on_model.items():
            values = parameters(attack)
            if shared.setdefault(name, values) != values:
                raise InputError(
                    f"The attack {name!r} has other parameters on {model!r} than on {next(iter(attacks))!r}, so that "
                    "the two can't be compared: audit them separately."
                )
    pairs = [[name, values] for name, values in shared.items()]
    return {
        name: Attack(fingerprint=fingerprint(pairs[: i + 1] if worst_case else [name, values]), parameters=values)
        for i, (name, values) in enumerate(shared.items())
    }


def check_fit(name: str, classifier: Any, data: Dataset) -> None:
    """Check that a model can be audited on the data.

    Raises:
        InputError: It can't; the reason is named.
    """
    art_interface.check_classifier(f"The model {name!r}", classifier)
    low, high = classifier.clip_values if classifier.clip_values is not None else (-np.inf, np.inf)
    if not (np.all(np.asarray(low) == 0) and np.all(np.asarray(high) == 1)):
        raise InputError(
            f"The model {name!r} has clip_values {classifier.clip_values}, but an audit's images lie in [0, 1]: "
            "make the classifier with clip_values=(0, 1)."
        )
    check_predicts_logits(f"The model {name!r}", classifier)
    if classifier.nb_classes != len(data.classes):
        raise InputError(
            f"The model {name!r} has {classifier.nb_classes} classes, but {data.name} has {len(data.classes)}."
        )
    if tuple(classifier.input_shape) != data.input_shape:
        raise InputError(
            f"The model {name!r} takes images of shape {tuple(classifier.input_shape)}, but those of {data.name} "
            f"have shape {data.input_shape}."
        )


def check_told_apart(models: Mapping[str, Any], fingerprints: Mapping[str, str]) -> None:
    """Check that models with one fingerprint, which are computed once, are one: classes' code isn't part of it.

    Raises:
        InputError: Two compute differently.
    """
    first: dict[str, str] = {}
    for name, classifier in models.items():
        other = first.setdefault(fingerprints[name], name)
        if classifier.model is models[other].model:
            continue
        same, this = (art_interface.logits_module(one) for one in (models[other], classifier))
        if not compute_alike(same, this, art_interface.noise(classifier)):
            raise InputError(
                f"The models {other!r} and {name!r} have the same weights and layers, but compute differently. What "
                "differs is the code of a class: give the class of one another name."
            )


def checked_attack(name: str, attack: Any) -> Any:
    """Return an attack, if it is one that an audit can ask.

    Raises:
        InputError: It is no evasion attack of ART's, or takes the labels for targets.
    """
    if not (hasattr(attack, "generate") and hasattr(attack, "attack_params")):
        raise InputError(
            f"The function for {name!r} must return an ART evasion attack on the classifier it is given, "
            f"but returned a {type(attack).__name__}."
        )
    check_reads_true_labels(f"The attack {name!r}", attack)
    for inner in getattr(attack, "attacks", None) or ():
        if getattr(inner, "targeted", False):  # ART's AutoAttack leaves them so, and begins by setting this
            inner.set_params(targeted=False)
    return attack


def _is_probed(manifest: Manifest, name: str) -> bool:
    """Return whether all that this release tries on a network itself is in a manifest."""
    return name in manifest.probes and manifest.probes[name].is_complete
