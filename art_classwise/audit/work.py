"""The work of an audit: its units, computed in this process or sent to another."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from art.estimators.estimator import BaseEstimator

from art_classwise import __version__
from art_classwise._core.pickles import Sent, unpickled
from art_classwise.audit.manifest import Manifest
from art_classwise.audit.outcomes import joined
from art_classwise.audit.plan import Task, placed
from art_classwise.audit.probes import Probe
from art_classwise.audit.provenance import Environment, data_fingerprint, environment, model_fingerprint
from art_classwise.audit.request import checked_attack
from art_classwise.audit.runner import ONE_AT_A_TIME, ProbeExamples, ShardRunner, shard_of
from art_classwise.audit.store import DamagedShardError, MissingShardError, Store, Unit
from art_classwise.datasets import Dataset
from art_classwise.errors import InputError, first_line
from art_classwise.threat import ThreatModel

__all__ = [
    "Job",
    "Parcel",
    "Result",
    "checked_data",
    "checked_model",
    "compute",
    "drop_damaged",
    "held_of",
    "is_probed",
    "parcel_examples",
    "run_parcels",
    "unit_of",
]

Frames = dict[str | None, pd.DataFrame]
"""Outcomes of a shard by the attack's name; None for those without attack."""


@dataclass(frozen=True)
class Job:
    """What all units of an audit have in common, as it is sent to other processes.

    Attributes:
        threat: The threat model.
        attacks: Returns attacks by name, each a function from a classifier to one.
        seed: Of the attacks.
        shard_size: Examples per shard.
        batch_size: Examples computed at once; None for the usual number.
        data: Loads all examples there; None where each unit brings its own.
        fingerprint: Of the data.
        models: Fingerprints of the models, by name.
        release: The package's version.
    """

    threat: ThreatModel
    attacks: Callable[[], Mapping[str, Callable[[Any], Any]]]
    seed: int
    shard_size: int
    batch_size: int | None
    data: Callable[[], Dataset] | None
    fingerprint: str
    models: Mapping[str, str] = field(default_factory=dict)
    release: str = __version__

    def runner(self, data: Dataset | Callable[[int], Dataset]) -> ShardRunner:
        """Return what computes shards of some data."""
        return ShardRunner(data, self.threat, shard_size=self.shard_size, seed=self.seed, batch_size=self.batch_size)


def compute(
    runner: ShardRunner, classifier: Any, attacks: Mapping[str, Any], task: Task, held: Frames
) -> Iterator[tuple[str | None, pd.DataFrame]]:
    """Compute what isn't there of a unit.

    Args:
        runner: Computes shards.
        classifier: The model.
        attacks: Attacks on it by name.
        task: The unit.
        held: What is there of it.

    Yields:
        An attack's name, or None, and its outcomes.

    Raises:
        InputError: The model or an attack fails; the model is named.
    """
    frames = dict(held)
    for place, attack in enumerate(task.attacks):
        if attack in frames:
            continue
        try:
            if attack is None:
                frames[attack] = runner.clean(classifier, task.shard)
            else:
                rows = _withstanding(frames, task.attacks[1:place]) if task.chain else None
                frames[attack] = runner.attacked(classifier, attack, attacks[attack], task.shard, rows)
        except InputError as error:
            raise InputError(f"On the model {task.model!r}: {error}") from error
        yield attack, frames[attack]


def _withstanding(frames: Frames, before: Sequence[str | None]) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Return which examples of a shard have withstood all attacks so far."""
    clean = frames[None]
    withstanding = (clean["prediction"] == clean["label"]).to_numpy()
    for attack in before:
        withstanding = withstanding & joined(clean, frames[attack])["withstood"].to_numpy()
    return np.flatnonzero(withstanding)


def unit_of(manifest: Manifest, task: Task, attack: str | None) -> Unit:
    """Return the unit of a task's outcomes under an attack."""
    key = None if attack is None else manifest.attacks[attack].fingerprint
    return Unit(manifest.models[task.model], key, task.shard)


def held_of(store: Store, manifest: Manifest, task: Task) -> Frames:
    """Return what is there of a unit; what is damaged is removed."""
    frames: Frames = {}
    for attack in task.attacks:
        try:
            frames[attack] = store.read(unit_of(manifest, task, attack))
        except MissingShardError:
            continue
        except DamagedShardError as damaged:
            drop_damaged(store, damaged)
    return frames


def drop_damaged(store: Store, damaged: DamagedShardError) -> None:
    """Remove a damaged shard, and say which."""
    if store.drop(damaged):
        warnings.warn(f"The shard {damaged.where} is damaged: {damaged.why}. It is computed again.", stacklevel=2)


def is_probed(manifest: Manifest, name: str) -> bool:
    """Return whether all that this release tries on a network itself is in a manifest."""
    return name in manifest.probes and manifest.probes[name].is_complete


# Sent to other processes.


@dataclass(frozen=True)
class Parcel:
    """A unit as it is sent to another process; or what a network itself is tried on.

    Attributes:
        task: The unit.
        held: What is there of it.
        examples: Of its shard, where the worker doesn't load them.
        probe: What the network is tried on, in place of a unit.
    """

    task: Task
    held: Frames = field(default_factory=dict)
    examples: Dataset | None = None
    probe: ProbeExamples | None = None


@dataclass(frozen=True)
class Result:
    """What came of a parcel.

    Attributes:
        frames: What was computed.
        environment: Versions and hardware of the process; None if it refused the work.
        probe: What was found of the network itself.
        error: What went wrong, a sentence; empty if nothing did.
        host: Machine and process.
    """

    frames: Frames
    environment: Environment | None
    probe: Probe | None = None
    error: str = ""
    host: str = field(default_factory=lambda: f"{platform.node()}, process {os.getpid()}")


def run_parcels(parcels: Sequence[Parcel], job: Sent, model: Sent) -> list[Result]:
    """Compute units of a model in another process than the audit's.

    Args:
        parcels: The units.
        job: A :class:`Job`, sent.
        model: A function that returns the model, or the model, sent.

    Returns:
        Of each what was computed, or what went wrong in this process: whoever asked tells such errors from those of the
        engine, which it tries again.
    """
    return [_run(parcel, job, model) for parcel in parcels]


def _run(parcel: Parcel, job: Sent, model: Sent) -> Result:
    try:
        mine = _job(job)
        with ONE_AT_A_TIME:  # what makes a network may draw its weights from the global random state
            classifier, attacks = _model(model, job, parcel.task.model)
        if parcel.probe is not None:
            return Result({}, environment(), mine.runner(_nothing).probe(classifier, parcel.probe))
        runner = _runner(job) if parcel.examples is None else mine.runner(_only(parcel.examples))
        return Result(dict(compute(runner, classifier, attacks, parcel.task, parcel.held)), environment())
    except InputError as error:
        return Result({}, None, error=str(error))
    except Exception as error:  # of the model's own code: of any kind
        return Result(
            {}, None, error=f"On the model {parcel.task.model!r}: {type(error).__name__}: {first_line(error)}"
        )


@lru_cache(maxsize=2)
def _job(sent: Sent) -> Job:
    job: Job = unpickled(sent.content, "The audit")
    if job.release != __version__:
        raise InputError(
            f"This worker, {platform.node()}, has art-classwise {__version__}, but the audit is of {job.release}: "
            "install the same version on all machines."
        )
    return job


@lru_cache(maxsize=1)
def _model(sent: Sent, job: Sent, name: str) -> tuple[Any, dict[str, Any]]:
    value = unpickled(sent.content, f"The model {name!r}")
    classifier = placed(value) if isinstance(value, BaseEstimator) else value()
    checked_model(name, classifier, _job(job).models.get(name))
    return classifier, {name: checked_attack(name, make(classifier)) for name, make in _job(job).attacks().items()}


@lru_cache(maxsize=1)
def _runner(sent: Sent) -> ShardRunner:
    job = _job(sent)
    assert job.data is not None
    return job.runner(checked_data(job.data(), job.fingerprint))


def checked_data(data: Dataset, expected: str | None) -> Dataset:
    """Return examples that were loaded where units are computed, if they are the audit's.

    Raises:
        InputError: They are others.
    """
    if expected is not None and data_fingerprint(data) != expected:
        raise InputError(
            f"The examples that {platform.node()} reads as {data.name} ({data.split}) aren't the audit's: "
            f"{len(data)} of fingerprint {data_fingerprint(data)[:8]} in place of {expected[:8]}. Copy the audit's "
            "files there, or give their folder."
        )
    return data


def checked_model(name: str, classifier: Any, expected: str | None) -> Any:
    """Return a model that was loaded where units are computed, if it is the audit's.

    Raises:
        InputError: It is another.
    """
    if expected is not None and model_fingerprint(classifier) != expected:
        raise InputError(
            f"The model {name!r} that {platform.node()} loads isn't the audit's: its weights or layers differ. Copy "
            "the audit's file there, or audit this one in another store."
        )
    return classifier


def _only(examples: Dataset) -> Callable[[int], Dataset]:
    return lambda shard: examples


def _nothing(shard: int) -> Dataset:
    raise AssertionError("a probe brings its examples")


def parcel_examples(data: Dataset, task: Task, size: int) -> Dataset:
    """Return the examples of a unit, in memory, to be sent with it."""
    data = shard_of(data, task.shard, size)
    return data.with_images(np.asarray(data.x))
