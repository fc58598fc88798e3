"""Planned audits: units computed by any process that sees the store, and what is missing."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any

from art_classwise import __version__
from art_classwise._core.forward import release
from art_classwise._core.progress import progress_bar
from art_classwise.audit.corrupted import attack_factories, located
from art_classwise.audit.manifest import Manifest
from art_classwise.audit.plan import PickledAttacks, Plan, Task, by_id, share, tasks
from art_classwise.audit.provenance import environment
from art_classwise.audit.request import checked_attack, described_attacks
from art_classwise.audit.runner import ShardRunner, probe_examples
from art_classwise.audit.saved import finished_shards, is_whole, read_outcomes
from art_classwise.audit.store import DamagedShardError, MissingShardError, Store
from art_classwise.audit.work import checked_data, checked_model, compute, drop_damaged, held_of, is_probed, unit_of
from art_classwise.datasets import Dataset
from art_classwise.errors import InputError, first_line

__all__ = ["planned_units", "work_on"]


def planned_units(store: str | os.PathLike[str]) -> list[str]:
    """Return the ids of all units of an audit, ``MODEL/ATTACK/SHARD``, in the order they are shared out.

    Where broken examples leave, a unit is all attacks on a shard, and its ATTACK is ``"all attacks"``.

    Raises:
        InputError: There is no audit.
    """
    return [task.id for task in _tasks(Store(store).manifest())]


def work_on(
    store: str | os.PathLike[str],
    *,
    index: int = 0,
    of: int = 1,
    units: Sequence[str] | None = None,
    run_code: bool = False,
    device: str | None = None,
    verbose: bool = True,
) -> int:
    """Compute units of a planned audit, those that aren't there.

    Nobody else needs to be known: any number of processes may compute, in any order and repeatedly, and what comes out
    is the same. What a network itself is tried on is tried once all outcomes of the network are there.

    Args:
        store: Where :meth:`art_classwise.ClassWiseAudit.plan` wrote the plan: a path, or an address.
        index: Which worker this is, from 0, to take its share of the units.
        of: How many workers there are.
        units: Ids of units to compute, in place of a share: see :func:`planned_units`.
        run_code: Allow what the plan holds of code: pickled models, data and attacks, architectures in files. Only for
            plans of people you trust.
        device: As for :func:`art_classwise.as_classifier`.
        verbose: Show a progress bar.

    Returns:
        How many units were computed.

    Raises:
        InputError: There is no plan, or it is of another version of the package, or runs code; a model or the data are
            others here than where the audit was planned; ``index`` isn't below ``of``, or there is no such unit; or
            the store can't be written.
    """
    if not 0 <= index < of:
        raise InputError(
            f"Of {of} workers the number must be 0 to {of - 1}, but is {index} (--index NUMBER/WORKERS on the command "
            "line)."
        )
    held = Store(store)
    manifest = held.manifest()
    plan = _checked_plan(held, manifest, run_code)
    every = _tasks(manifest)
    chosen = by_id(every, units) if units is not None else [every[i] for i in share(len(every), index, of)]
    there = finished_shards(held, manifest)
    todo = [t for t in chosen if any(t.shard not in there[t.model, attack] for attack in t.attacks)]
    data = checked_data(plan.data.load(), manifest.examples.fingerprint)
    if len(data) != manifest.examples.n:
        raise InputError(
            f"{held.address} is an audit of {manifest.examples.n} examples, but its data are {len(data)}, so it was "
            "changed after it was written: plan the audit anew in another store."
        )
    runner = ShardRunner(
        data, manifest.threat, shard_size=manifest.shard_size, seed=manifest.seed, batch_size=plan.batch_size
    )
    worker = _Worker(held, manifest, plan, data, runner, device)
    total = sum(worker.n_examples(task) for task in chosen)
    done = total - sum(worker.n_examples(task) for task in todo)
    with progress_bar(total=total, done=done, name="work", shown=verbose) as bar:
        for model, of_model in groupby(todo, key=lambda task: task.model):
            classifier, attacks = worker.load(model)
            for task in of_model:
                bar.at(f"{model}, {task.attacks[-1] or 'without attack'}")
                for attack, frame in compute(runner, classifier, attacks, task, held_of(held, manifest, task)):
                    held.add_environment(environment())
                    held.write(unit_of(manifest, task, attack), frame)
                bar.update(worker.n_examples(task))
            del classifier, attacks
            release()
    if plan.checks:
        for model in dict.fromkeys(task.model for task in chosen):
            worker.probe(model)
    return len(todo)


class _Worker:
    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        plan: Plan,
        data: Dataset,
        runner: ShardRunner,
        device: str | None,
    ) -> None:
        self._store, self._manifest, self._plan, self._data = store, manifest, plan, data
        self._runner, self._device = runner, device
        given = plan.attacks.load() if isinstance(plan.attacks, PickledAttacks) else list(plan.attacks)
        names, corrupted = located(data, plan.corruptions, plan.corruption_dir)
        self._make = partial(
            attack_factories,
            given or None,
            names,
            manifest.threat if plan.threat_given else None,
            dataset=manifest.examples.dataset,
            surrogate=None if plan.surrogate is None else plan.surrogate.load(device),
            seed=manifest.seed,
            batch_size=plan.batch_size or manifest.shard_size,
            precision=plan.precision,
            corrupted=corrupted,
        )

    def n_examples(self, task: Task) -> int:
        """Return how many examples a unit has, each attack counted."""
        size, n = self._manifest.shard_size, self._manifest.examples.n
        return min(size, n - task.shard * size) * len(task.attacks)

    def load(self, model: str) -> tuple[Any, dict[str, Any]]:
        """Return a model and the attacks on it, if they are those that were planned.

        Raises:
            InputError: They are others here.
        """
        classifier = self._plan.models[model].load(self._device)
        checked_model(model, classifier, self._manifest.models[model])
        attacks = {name: checked_attack(name, make(classifier)) for name, make in self._make().items()}
        described = described_attacks({model: attacks}, worst_case=self._manifest.worst_case)
        for name, planned in self._manifest.attacks.items():
            if name not in described or described[name].fingerprint != planned.fingerprint:
                raise InputError(
                    f"The attack {name!r} isn't here what the manifest says, so the plan was changed after it was "
                    "written: plan the audit anew in another store."
                )
        return classifier, attacks

    def probe(self, model: str) -> None:
        """Try a network itself, once all its outcomes are there, unless someone has."""
        manifest = self._store.manifest()
        names = list(manifest.attacks)
        if is_probed(manifest, model) or not is_whole(self._store, manifest, model, names):
            return
        try:
            outcomes, _ = read_outcomes(self._store, manifest, [model], names)
        except DamagedShardError as damaged:
            drop_damaged(self._store, damaged)
            return
        except MissingShardError:  # another process found it damaged
            return
        classifier, _ = self.load(model)
        try:
            probe = self._runner.probe(classifier, probe_examples(self._data, outcomes, self._plan.corruptions))
        except Exception as error:  # of the model's own code: of any kind; what attacks found stands
            warnings.warn(f"The checks of {model!r} failed: {first_line(error)}", stacklevel=3)
        else:
            self._store.add_environment(environment())
            self._store.add_probe(manifest.models[model], probe)


def _tasks(manifest: Manifest) -> list[Task]:
    return [*tasks(list(manifest.models), list(manifest.attacks), manifest.n_shards, worst_case=manifest.worst_case)]


def _checked_plan(store: Store, manifest: Manifest, run_code: bool) -> Plan:
    plan = manifest.plan
    if plan is None:
        raise InputError(
            f"{store.address} holds an audit, but no plan: `art-classwise plan ... --out {store.address}` adds one."
        )
    if plan.release != __version__:
        raise InputError(
            f"The audit in {store.address} was planned by art-classwise {plan.release}, but this is {__version__}: "
            "install the same version on all machines."
        )
    lacking = [name for name in manifest.models if name not in plan.models]
    if lacking:
        raise InputError(
            f"The plan in {store.address} doesn't say how to load {', '.join(lacking)}, so it was changed after it was "
            "written, or the model was audited otherwise: plan it, too."
        )
    plan.check_code(store.address, allowed=run_code)
    return plan
